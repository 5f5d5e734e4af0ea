-- `make soak`: runs a pre-forking service for SOAK_SECONDS (600), in which all kinds of trouble happen at once. The
-- processes are in soak/*.lua:
--
--     controller (this file)   scrapes, receives pushes, samples memory; kills the master now and then
--       master                 has an HTTP listener and a push exporter; kills, stops and replaces workers
--         workers              record, drop series, end or are killed; orphans take over the flusher's role
--
-- All processes share one segment, and beside it a ledger of what was really recorded. The run ends with a report,
-- which is also written to SOAK_REPORT. The exit code is 1 if any check failed.

package.path = "bench/?.lua;" .. package.path

local chalk = require "chalk"
local commands = require "commands"
local core = require "chalk.core"
local http = require "soak.http"
local ledgers = require "soak.ledger"
local master = require "soak.master"
local metrics = require "soak.metrics"
local posix = require "soak.posix"
local receivers = require "soak.receiver"
local reports = require "soak.report"
local samples_of = require "soak.samples"
local scrapers = require "soak.scraper"

local C = core.C

local SECONDS = tonumber(os.getenv "SOAK_SECONDS") or 600
local EVERY, GAP, LAST, SHORT = 1, 10, 30, 60

---@class soak.Run
local Run = {}
Run.__index = Run

local function new_run()
  local name = os.tmpname()
  local ledger, port = ledgers.new(), http.free_port()
  return setmetatable({
    name = name,
    log = name .. ".log",
    path = name .. ".pushed",
    ledger = ledger,
    scraper = scrapers.new(port, ledger),
    receiver = receivers.new(name .. ".pushed"),
    samples = samples_of.new(),
    world = {
      metrics = chalk.load(metrics.DOCUMENT),
      ledger = ledger,
      port = port,
      path = name .. ".pushed",
      controller = posix.pid(),
    },
    masters_killed = 0,
    holders_killed = 0,
    longest_gap = 0,
    most_writers = 0,
  }, Run)
end

function Run:start_master()
  self.master = posix.fork(function() master.run(self.world) end)
  self.samples:forget "master"
  self.samples:forget "master_descriptors"
  if not self.scraper:await(GAP) then posix.fail "a new master does not answer" end
end

-- Waits for a scrape to be answered, which shows that another process has taken over the flusher's role.
function Run:await_holder()
  local gap = self.scraper:await(GAP)
  if not gap then return posix.fail "no process took over the flusher's role" end
  self.longest_gap = math.max(self.longest_gap, gap)
end

local function reap_all()
  local ends = C.chalk_now() + GAP
  while C.chalk_now() < ends do
    local pid = posix.reap(-1, true)
    if not pid then return end
  end
  posix.fail "killed children have not ended"
end

--- Kills the master, then the worker that took over, then all other workers, and starts a new master.
function Run:kill_master()
  local group = self.master
  posix.kill(group, posix.KILL)
  posix.kill(-group, posix.CONT)
  self.masters_killed = self.masters_killed + 1
  posix.reap(group, true)
  self:await_holder()
  local holder = chalk.info().holder
  if holder ~= 0 and holder ~= group then
    posix.kill(holder, posix.KILL)
    self.holders_killed = self.holders_killed + 1
    self:await_holder()
  end
  posix.kill(-group, posix.KILL)
  reap_all()
  for worker = 1, ledgers.WORKERS do
    metrics.enter(self.world, worker)
  end
  self:start_master()
end

function Run:sample(now)
  local s, info = self.samples, chalk.info()
  s:add("segment", now, info.memory)
  s:add("writers", now, info.writers)
  s:add("series", now, info.series)
  s:add("quarantined", now, info.quarantined)
  s:add("controller", now, posix.memory(posix.pid()) or 0)
  s:add("controller_descriptors", now, posix.descriptors())
  s:add("master", now, posix.memory(self.master) or 0)
  s:add("master_descriptors", now, self.ledger:get "descriptors")
  self.most_writers = math.max(self.most_writers, info.writers)
end

-- Returns the times at which the master is killed, all in the first half. The last master lives on, so that its memory
-- can be seen to stay flat.
local function times_to_kill(started)
  local every, times = SECONDS >= 120 and 20 or SECONDS * 0.3, {}
  for t = every, SECONDS * 0.5, every do
    times[#times + 1] = started + t
  end
  return times
end

function Run:go()
  local started = C.chalk_now()
  local kills, next_sample = times_to_kill(started), started
  while C.chalk_now() - started < SECONDS do
    next_sample = math.max(next_sample + EVERY, C.chalk_now())
    if kills[1] and C.chalk_now() > kills[1] then
      table.remove(kills, 1)
      self:kill_master()
    end
    if not self.scraper:scrape() then posix.fail "a scrape was not answered" end
    self.receiver:read()
    collectgarbage()
    self:sample(C.chalk_now())
    if posix.reap(self.master) then
      posix.fail "the master has died"
      break
    end
    posix.sleep(math.max(0, next_sample - C.chalk_now()))
  end
end

-- Only exports of the push exporter may fail: its target is away at times.
local function check_own(report, samples)
  for id, value in pairs(samples) do
    local wrong = id:match "^chalk_errors_total" or id:match '^chalk_export_errors_total{exporter="[^p]'
    report:expect(not wrong or value == 0, "%s is %s", id, value)
  end
end

--- Ends all processes, and checks what is left in the segment.
function Run:finish(report)
  self.ledger:set("stop", 1)
  local ends = C.chalk_now() + LAST
  local pid, code
  repeat
    pid, code = posix.reap(self.master)
    posix.sleep(0.05)
  until pid or C.chalk_now() > ends
  report:expect(code == 0, "the master ended with exit code %s instead of 0", tostring(code))
  if not pid then posix.kill(-self.master, posix.KILL) end
  self.receiver:read()
  self.info = chalk.info()
  self.scraper:mark()
  local left = self.scraper:check(chalk.text()) or {}
  report:expect(not left["load"], "the gauge load is still exported, although all processes that set it have ended")
  check_own(report, left)
end

local function first_line(command) return commands.first_line(command) or "unknown" end

local function read(path)
  local file = io.open(path, "r")
  local text = file and file:read "*a" or ""
  if file then file:close() end
  return text
end

local HEAD = [[
# Soak test

This page is the report of the last run of `make soak`, which writes this file. The soak test runs a service under
constant disturbance and checks that chalk loses and invents nothing and does not grow.

```sh
make soak SOAK_SECONDS=600
```

A parent process has an HTTP listener and a push exporter, and keeps %d workers that record, create and drop series.
Workers are killed, stopped and forked all the time. Now and then the parent itself is killed, and after it the child
that took over from it. Each worker also notes what it records in a ledger, in memory outside of chalk. Every scrape and
every push is compared with the ledger. "In flight" are records whose worker was killed before it had noted them as
done.

%s s, %s cores, %s, %s.]]

local function main()
  -- These commands run first, because nothing else may be forked once descriptors are counted.
  local facts = { first_line "nproc", first_line((os.getenv "LUAJIT" or "luajit") .. " -v"), os.date "!%Y-%m-%d" }
  local run, report = new_run(), reports.new()
  posix.log_to(run.log)
  posix.adopt()
  run:start_master()
  run:go()
  run:finish(report)
  report:line(HEAD, ledgers.WORKERS, SECONDS, unpack(facts))
  report:events(run)
  report:totals(run)
  report:flat(run.samples, SECONDS < SHORT)
  local good = report:verdict(read(run.log))
  io.stdout:write(report:text())
  local path = os.getenv "SOAK_REPORT"
  if path then
    local file = assert(io.open(path, "w"))
    file:write(report:text())
    file:close()
  end
  for _, file in ipairs { run.name, run.path, good and run.log or nil } do
    os.remove(file)
  end
  if not good then print("The log is in " .. run.log) end
  os.exit(good and 0 or 1)
end

main()
