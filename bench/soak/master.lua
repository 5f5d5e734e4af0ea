-- The parent process of the pre-forking service. It starts chalk and then the workers, which it kills, stops and
-- replaces.

local chalk = require "chalk"
local core = require "chalk.core"
local ledgers = require "soak.ledger"
local metrics = require "soak.metrics"
local posix = require "soak.posix"
local recorder = require "soak.recorder"

local C = core.C
local random = math.random

local M = {}

local TICK, ACT, STOPPED, LAST, AIM = 0.02, 0.2, 0.3, 15, 0.005

local function start_worker(self, worker)
  local parent = posix.pid()
  self.ledger:add "forks"
  self.workers[worker] = posix.fork(function() recorder.run(self.world, worker, parent) end)
end

local function worker_of(self, pid)
  for worker, its in pairs(self.workers) do
    if its == pid then return worker end
  end
end

-- A worker may be stopped while it holds a lock of the segment. Only the parent lets the worker continue, so until then
-- the parent calls nothing that may wait for such a lock: it neither settles the ledger nor drops series.
local function reap(self)
  while not self.stopped do
    local pid, code, signal = posix.reap()
    if not pid then return end
    local worker = worker_of(self, pid)
    if code == 0 then
      self.ledger:add "ended"
    elseif signal ~= posix.KILL then
      posix.fail(("a worker ended with code %s, signal %s"):format(tostring(code), tostring(signal)))
    end
    self.workers[worker] = nil
    metrics.enter(self.world, worker)
    if self.ledger:get "stop" == 0 then start_worker(self, worker) end
  end
end

local function let_go_on(self, now)
  if self.stopped and now > self.stopped.till then
    posix.kill(self.stopped.pid, posix.CONT)
    self.stopped = nil
  end
end

local function drop_some(self)
  local dropped = self.world.metrics.churn:remove { id = "id" .. random(200) }
  if dropped then self.ledger:add "removes" end
end

-- Waits a few milliseconds at most until a worker is recording.
local function aim(self, worker)
  local busy, ends = self.ledger:busy(worker), C.chalk_now() + AIM
  while busy[0] == 0 and C.chalk_now() < ends do
  end
end

-- Kills a worker about five times a second, or sometimes stops one for a while.
local function act(self, now)
  if now < self.next then return end
  self.next = now + ACT * (0.5 + random())
  if not self.stopped then drop_some(self) end
  local worker = random(ledgers.WORKERS)
  local pid = self.workers[worker]
  if not pid then return end
  if random() < 0.1 and not self.stopped then
    posix.kill(pid, posix.STOP)
    self.stopped = { pid = pid, till = now + STOPPED }
    self.ledger:add "stops"
  elseif not self.stopped or self.stopped.pid ~= pid then
    if random() < 0.7 then aim(self, worker) end
    posix.kill(pid, posix.KILL)
    self.ledger:add "kills"
  end
end

local function finish(self)
  local ends = C.chalk_now() + LAST
  while next(self.workers) and C.chalk_now() < ends do
    let_go_on(self, math.huge)
    reap(self)
    posix.sleep(TICK)
  end
  if next(self.workers) then posix.fail "some workers did not end" end
  local ok, message = chalk.flush(LAST)
  if not ok then posix.fail("the last flush failed: " .. message) end
  os.exit(0)
end

--- Runs until the ledger's counter `stop` is set.
---@param world table
function M.run(world)
  posix.lead()
  math.randomseed(posix.pid())
  local self = { world = world, ledger = world.ledger, workers = {}, next = 0 }
  chalk.init(metrics.options(world.port, world.path))
  for worker = 1, ledgers.WORKERS do
    start_worker(self, worker)
  end
  local sampled = 0
  while self.ledger:get "stop" == 0 do
    if not posix.lives(world.controller) then posix.kill(0, posix.KILL) end
    local now = C.chalk_now()
    let_go_on(self, now)
    reap(self)
    act(self, now)
    if now - sampled > 0.5 then
      sampled = now
      collectgarbage() -- leaves in memory only what is in use, and garbage of the flush thread's VM
      self.ledger:set("descriptors", posix.descriptors())
    end
    posix.sleep(TICK)
  end
  finish(self)
end

return M
