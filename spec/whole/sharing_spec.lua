--- More processes than there are slots: those beyond share one, and must neither tell other values nor stay there.

package.path = "spec/?.lua;" .. package.path

local chalk = require "chalk"
local core = require "chalk.core"
local fork = require "support.fork"
local wait = require "support.wait"

local PROCESSES, SLOTS = 200, 127

local function order(crowd)
  crowd.orders[0] = crowd.orders[0] + 1
  wait.till(function()
    for i in pairs(crowd.pids) do
      if crowd.done[i] < crowd.orders[0] then return false end
    end
    return true
  end, 60, "all processes' records")
end

-- Each child says in its own double which slot it has; `orders` is how many times it may have recorded. The last
-- one, whose values are out of the ordinary, comes when all slots are taken.
local function start(client, n)
  local crowd = { pids = {}, slots = fork.shared(n + 1), done = fork.shared(n + 1), orders = fork.shared(1) }
  local connections = client:gauge("connections", { across = "sum" })
  local highest = client:gauge("highest", { across = "max", tags = { "pool" } })
  local lowest = client:gauge("lowest", { across = "min", tags = { "pool" } })
  local requests = client:count("requests", { tags = { "pool" } })
  local parent = fork.pid()
  local function live(i)
    connections:set(1)
    highest({ pool = "a" }):set(i == n and 1000 or 5)
    lowest({ pool = "a" }):set(i == n and -1000 or 5)
    local kept = requests { pool = "a" }
    while fork.parent() == parent do
      if crowd.done[i] < crowd.orders[0] then
        kept:inc()
        crowd.slots[i] = core.C.chalk_writer_slot(client.writer)
        crowd.done[i] = crowd.done[i] + 1
      end
      wait.sleep(0.002)
    end
  end
  for i = 1, n - 1 do
    crowd.pids[i] = fork.child(live, i)
  end
  order(crowd)
  crowd.pids[n] = fork.child(live, n)
  order(crowd)
  return crowd
end

local function kill(crowd, i)
  fork.kill(crowd.pids[i], fork.KILL)
  fork.wait(crowd.pids[i])
  crowd.pids[i] = nil
end

local function sharing(crowd)
  local n = 0
  for i in pairs(crowd.pids) do
    if crowd.slots[i] == 0 then n = n + 1 end
  end
  return n
end

local function values(client)
  local text, found = client:text(), {}
  for name, value in text:gmatch "\n(%l[%l_]+)[^\n ]* ([^\n ]+)" do
    found[name] = tonumber(value)
  end
  return { found.connections, found.highest, found.lowest, found.requests_total }
end

describe("two hundred processes", function()
  local client, crowd

  before_each(function()
    client = chalk.new()
    crowd = start(client, PROCESSES)
  end)

  after_each(function()
    for i in pairs(crowd.pids) do
      kill(crowd, i)
    end
    client, crowd = nil, nil
  end)

  it("have gauges of their own, which go with them", function()
    assert.equal(PROCESSES + 1 - SLOTS, sharing(crowd)) -- this process has a slot too
    assert.same({ PROCESSES, 1000, -1000, 2 * PROCESSES }, values(client))
    assert.equal(0, crowd.slots[PROCESSES])
    kill(crowd, PROCESSES)
    assert.same({ PROCESSES - 1, 5, 5, 2 * PROCESSES }, values(client))
  end)

  it("have slots of their own once others have ended", function()
    local left = PROCESSES
    for i = 1, PROCESSES do
      if crowd.slots[i] > 0 then
        kill(crowd, i)
        left = left - 1
        if left == SLOTS - 1 then break end
      end
    end
    local rounds = 0
    wait.till(function()
      order(crowd)
      rounds = rounds + 1
      assert.same(left, values(client)[1])
      return sharing(crowd) == 0
    end, 60, "slots for all")
    assert.same({ left, 1000, -1000, 2 * PROCESSES + rounds * left }, values(client))
  end)
end)
