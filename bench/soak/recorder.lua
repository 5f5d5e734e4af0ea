-- A worker process. It records in bursts, each record into the ledger first, and drops series now and then. Unless it
-- is killed, it ends after a while in one of the ways in which programs end.

local core = require "chalk.core"
local ledgers = require "soak.ledger"
local posix = require "soak.posix"

local C = core.C
local random = math.random

local M = {}

local BURST, PAUSE = 500, 0.002
local WINDOW, WINDOWS, IDS = 2, 10, 20

local function inc(pair, series, n)
  pair[0] = pair[0] + n
  series:inc(n)
  pair[1] = pair[1] + n
end

local function record(les, sketch, series, v)
  les[0], sketch[0] = les[0] + 1, sketch[0] + 1
  series:record(v)
  les[1], sketch[1] = les[1] + 1, sketch[1] + 1
end

-- Returns an id of the current window of time. Series of other windows' ids become idle and are dropped.
local function churn_id()
  local window = math.floor(C.chalk_now() / WINDOW) % WINDOWS
  return "id" .. window * IDS + random(IDS)
end

--- Returns a tag value that no record had before.
local function wild_value() return ('%d\n"\\%x'):format(random(1e9), random(1e9)) end

local function new_burst(world, worker)
  local metrics, ledger, name = world.metrics, world.ledger, tostring(worker)
  local kept, pairs_of = {}, {}
  for i, kind in ipairs(ledgers.KINDS) do
    kept[i], pairs_of[i] = metrics.jobs:with(name, kind), ledger:pair(worker, kind)
  end
  local latency, les = metrics.latency:with(name), ledger:pair(worker, "latency")
  local sketch, churn, wild =
    ledger:pair(worker, "sketch"), ledger:pair(worker, "churn"), ledger:pair(worker, "wild")
  local depth, kinds, n_kinds = metrics.depth:with(name), ledgers.KINDS, #ledgers.KINDS
  local held = metrics.churn:with(churn_id())
  return function()
    for i = 1, BURST do
      local k = i % n_kinds + 1
      inc(pairs_of[k], kept[k], random(5))
      inc(pairs_of[k], metrics.jobs:with(name, kinds[k]), 1)
      record(les, sketch, latency, 2 ^ (random() * 40 - 20))
      if i % 8 == 0 then
        inc(churn, metrics.churn:with(churn_id()), 1)
        inc(churn, held, 2)
      end
      if i % 50 == 0 then inc(wild, metrics.wild:with(wild_value()), 1) end
    end
    depth:set(random(100))
    metrics.load:set(random(100))
  end
end

local function drop_some(metrics, ledger)
  if random() < 0.02 and metrics.churn:remove { id = churn_id() } then ledger:add "removes" end
  if random() < 0.002 then
    metrics.churn:clear()
    ledger:add "clears"
  end
end

local ENDS = {
  function() posix.leave(0) end,
  function() os.exit(0) end,
  function() os.exit(0, true) end,
}

--- Records for some seconds. An orphan records until the end of the run, so that it can take over the flusher's role.
---@param world table
---@param worker integer
function M.run(world, worker, parent)
  math.randomseed(posix.pid())
  local ends = C.chalk_now() + 0.2 + random() * 1.8
  local burst, busy = new_burst(world, worker), world.ledger:busy(worker)
  while world.ledger:get "stop" == 0 and (C.chalk_now() < ends or posix.parent() ~= parent) do
    if not posix.lives(world.controller) then posix.leave(1) end
    busy[0] = 1
    burst()
    busy[0] = 0
    drop_some(world.metrics, world.ledger)
    posix.sleep(PAUSE)
  end
  ENDS[random(#ENDS)]()
end

return M
