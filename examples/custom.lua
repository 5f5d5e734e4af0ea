-- A program with a custom exporter, examples/jsonlines.lua, which runs on the flush thread.
--
--     luajit examples/custom.lua [FILE]

local here = arg[0]:match "^(.*/)" or "./"
package.path = here .. "?.lua;" .. package.path

local chalk = require "chalk"
local path = arg[1] or os.tmpname()

local jobs = chalk.count("done", { namespace = { "jobs" }, tags = { "queue" }, description = "Jobs done" })
local waiting = chalk.gauge("waiting", { namespace = { "jobs" }, description = "Jobs that wait" })
local took = chalk.histogram("took", { namespace = { "jobs" }, unit = "seconds", description = "Time a job takes" })

chalk.init { exporters = { chalk.exporter.custom("jsonlines", { path = path }) } }

local mail, video = jobs { queue = "mail" }, jobs { queue = "video" }
mail:inc(3)
video:inc()
waiting:set(17)
for i = 1, 100 do
  took:record(i / 1000)
end
assert(chalk.flush())

mail:inc(2) -- the next flush writes this difference, and no line for "video", which has not changed
assert(chalk.shutdown())

print(path .. ":")
for line in io.lines(path) do
  print(line)
end
if not arg[1] then os.remove(path) end
