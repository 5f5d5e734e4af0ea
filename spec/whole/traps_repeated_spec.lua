--- A compiled loop makes the same record over and over beside another process. LuaJIT omits a store of a value that it
--- has already stored in the same place. A gauge would then keep the value that another process has set, or would be
--- dropped as idle, although it is being set all the time.

package.path = "spec/?.lua;" .. package.path

local ffi = require "ffi"
local chalk = require "chalk"
local fork = require "support.fork"
local wait = require "support.wait"

local band = bit.band -- a global would be looked up in busted's environment, which ends the trace of the loop

local TAGS = { { tag = "t" } }
local IDLE = 10

describe("a record repeated in a compiled loop", function()
  local client, now, pid, page, rounds

  before_each(function()
    now = 1000
    client = chalk.new { driver = "manual", idle_timeout = IDLE, clock = function() return now end }
    -- The progress is an integer, because LuaJIT knows that a store of an integer does not alias a record's doubles. A
    -- store of a double would keep it from omitting the record's stores.
    page = fork.shared(1)
    rounds = ffi.cast("int *", page)
  end)

  after_each(function()
    if pid then
      fork.kill(pid, fork.KILL)
      fork.wait(pid)
    end
    pid = nil
    client:shutdown()
  end)

  -- Starts a child that records until the end of the test.
  local function loop(record)
    local progress = rounds
    pid = fork.child(function()
      while true do
        record()
        progress[0] = band(progress[0] + 1, 0xffffff)
      end
    end)
  end

  -- Waits until the loop has made a thousand more iterations.
  local function await_iterations()
    local volatile = ffi.cast("volatile int *", rounds)
    local before = volatile[0]
    wait.till(function() return band(volatile[0] - before, 0xffffff) > 1000 end, 20, "iterations of the loop")
  end

  local function gauge(across, tags) return client:gauge("m", { tags = tags, across = across }) end

  for _, v in ipairs { 5, 1, 0, -0.0, 0 / 0 } do
    for _, way in ipairs { "a kept series", "with", "tags", "no tags" } do
      it(("set(%s) by %s overwrites what another process has set"):format(v, way), function()
        local m = gauge("last", way ~= "no tags" and TAGS or nil)
        local series = way ~= "no tags" and m:with "x" or m
        local ways = {
          with = function() m:with("x"):set(v) end,
          tags = function() m({ t = "x" }):set(v) end,
        }
        series:set(v)
        loop(ways[way] or function() series:set(v) end)
        for other = 7, 9 do
          await_iterations()
          series:set(other)
          wait.till(function() return series:value() ~= other end, 10, "the loop's value to be there again")
          local seen = series:value()
          assert.is_true(seen == v or v ~= v and seen ~= seen, tostring(seen))
        end
      end)
    end
  end

  for _, verb in ipairs { "inc", "dec" } do
    it(verb .. " continues from what another process has set", function()
      local series = gauge("last", TAGS):with "x"
      local far = verb == "inc" and -1e12 or 1e12
      series:set(0)
      loop(function() series[verb](series) end)
      for _ = 1, 3 do
        await_iterations()
        series:set(far)
        await_iterations()
        local moved = math.abs(series:value() - far)
        assert.is_true(moved > 0 and moved < 1e11, tostring(moved))
      end
    end)
  end

  describe("keeps its series from being dropped as idle:", function()
    -- Sweeps as often as it takes to drop an idle series, and checks that the epoch has not moved. The epoch moves when
    -- a series is dropped, even if the loop creates it again at once.
    local function sweep_beside(record)
      record()
      loop(record)
      await_iterations()
      assert(client:flush())
      local epoch = client:info().epoch
      for _ = 1, 5 do
        await_iterations()
        now = now + 2 * IDLE + 1
        assert(client:flush())
      end
      assert.equal(epoch, client:info().epoch)
    end

    it("a series without records, for comparison, is dropped", function()
      client:gauge("other", { tags = TAGS }):with("x"):set(1)
      assert(client:flush())
      local epoch = client:info().epoch
      now = now + 2 * IDLE + 1
      assert(client:flush())
      assert.is_true(client:info().epoch > epoch)
    end)

    for _, across in ipairs { "last", "sum", "min", "max" } do
      for _, v in ipairs { 5, 1, 0 } do
        it(("set(%d), across %s"):format(v, across), function()
          local series = gauge(across, TAGS):with "x"
          sweep_beside(function() series:set(v) end)
        end)
      end

      for _, verb in ipairs { "inc", "dec" } do
        for _, n in ipairs { 1, 0 } do
          it(("%s(%d), across %s"):format(verb, n, across), function()
            local series = gauge(across, TAGS):with "x"
            sweep_beside(function() series[verb](series, n) end)
          end)
        end
      end

      it("record(1) of a gauge, across " .. across, function()
        local series = gauge(across, TAGS):with "x"
        sweep_beside(function() series:record(1) end)
      end)
    end

    it("inc() of a count", function()
      local series = client:count("m", { tags = TAGS }):with "x"
      sweep_beside(function() series:inc() end)
    end)

    it("record(1) of a count", function()
      local series = client:count("m", { tags = TAGS }):with "x"
      sweep_beside(function() series:record(1) end)
    end)

    it("record(5) of a histogram", function()
      local series = client:histogram("m", { tags = TAGS }):with "x"
      sweep_beside(function() series:record(5) end)
    end)

    it("record(5) of an op", function()
      local series = client:op("m", { tags = TAGS }):with "x"
      sweep_beside(function() series:record(5) end)
    end)
  end)
end)
