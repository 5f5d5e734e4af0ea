--- All that a program does from its start to its end, with each driver. Run under valgrind (make valgrind).
--
--     luajit cycle.lua thread|loop|manual

local chalk = require "chalk"
local uv = require "luv"

local driver = assert(arg[1], "the driver")
local jobs = chalk.count("jobs", { tags = { "queue" } })
local waiting = chalk.gauge "waiting"
local took = chalk.histogram("took", { tags = { "queue" } })

local function record()
  for i = 1, 300 do
    local queue = "q" .. i % 7
    jobs({ queue = queue }):inc()
    waiting:set(i)
    took({ queue = queue }):record(i * i / 1000)
  end
end

record()
chalk.init {
  driver = driver,
  exporters = { chalk.exporter.prometheus { listen = driver ~= "manual" and "127.0.0.1:0" or nil } },
}
record()
assert(chalk.flush(30))
assert(#chalk.text() > 0)
jobs:clear()
record()
assert(jobs({ queue = "q1" }):value() > 0)
if driver == "loop" then
  uv.new_timer():start(200, 0, uv.stop)
  uv.run()
end
assert(chalk.flush(30))
assert(chalk.shutdown(30))
print "ok"
