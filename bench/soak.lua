-- `make soak`: a pre-forking service under everything at once, for SOAK_SECONDS (600). See soak/*.lua:
--
--     controller (this file)   scrapes, receives what is pushed, samples memory; now and then kills the master
--       master                 chalk.init with an HTTP listener and a push exporter; kills, stops, replaces workers
--         workers              record, drop series, end or are killed; orphans take over the flusher's role
--
-- Everybody shares one segment, and a ledger beside it that says what was really recorded. Ends with a report, also
-- written to SOAK_REPORT, and exit code 1 if anything in it is not as it must be.

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
    heirs_killed = 0,
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

-- An heir has the role when it answers a scrape.
function Run:await_heir()
  local gap = self.scraper:await(GAP)
  if not gap then return posix.fail "nobody took over" end
  self.longest_gap = math.max(self.longest_gap, gap)
end

local function reap_all()
  local ends = C.chalk_now() + GAP
  while C.chalk_now() < ends do
    local pid = posix.reap(-1, true)
    if not pid then return end
  end
  posix.fail "children that cannot be killed"
end

--- Kills the master, then the worker that took over, then all others, and starts anew.
function Run:kill_master()
  local group = self.master
  posix.kill(group, posix.KILL)
  posix.kill(-group, posix.CONT)
  self.masters_killed = self.masters_killed + 1
  posix.reap(group, true)
  self:await_heir()
  local heir = chalk.info().holder
  if heir ~= 0 and heir ~= group then
    posix.kill(heir, posix.KILL)
    self.heirs_killed = self.heirs_killed + 1
    self:await_heir()
  end
  posix.kill(-group, posix.KILL)
  reap_all()
  for worker = 1, ledgers.WORKERS do
    metrics.settle(self.world, worker)
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

-- Through the first half masters are killed; the last one lives on, so that its memory can be seen to stay.
local function times_to_kill(started)
  local every, times = SECONDS >= 120 and 20 or SECONDS * 0.3, {}
  for t = every, SECONDS * 0.5, every do
    times[#times + 1] = started + t
  end
  return times
end

function Run:go()
  local started = C.chalk_now()
  local kills, next_turn = times_to_kill(started), started
  while C.chalk_now() - started < SECONDS do
    next_turn = math.max(next_turn + EVERY, C.chalk_now())
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
    posix.sleep(math.max(0, next_turn - C.chalk_now()))
  end
end

-- The only export that may fail is the one whose target is away.
local function check_own(report, samples)
  for id, value in pairs(samples) do
    local wrong = id:match "^chalk_errors_total" or id:match '^chalk_export_errors_total{exporter="[^p]'
    report:expect(not wrong or value == 0, "%s is %s", id, value)
  end
end

--- Lets everybody end, and looks at what is left.
function Run:finish(report)
  self.ledger:set("stop", 1)
  local ends = C.chalk_now() + LAST
  local pid, code
  repeat
    pid, code = posix.reap(self.master)
    posix.sleep(0.05)
  until pid or C.chalk_now() > ends
  report:expect(code == 0, "the master did not end well: %s", tostring(code))
  if not pid then posix.kill(-self.master, posix.KILL) end
  self.receiver:read()
  self.info = chalk.info()
  self.scraper:mark()
  local left = self.scraper:check(chalk.text()) or {}
  report:expect(not left["load"], "a gauge of ended processes is still shown")
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
  -- Found out now: nobody else is forked once the counting of descriptors has begun.
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
