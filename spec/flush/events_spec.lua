--- The reader of the event tap. If this file fails, a client that watches records live misses some when another client
--- comes or goes, or the tap stays on for nobody and slows recording.

package.path = "spec/?.lua;" .. package.path

local chalk = require "chalk"
local core = require "chalk.core"
local events = require "chalk.flush.events"
local files = require "support.files"

local C = core.C

describe("events", function()
  local client, count, reader

  before_each(function()
    client = chalk.new {}
    count = client:count "jobs"
    assert.are.equal(1, C.chalk_hold(client.segment, 1))
    reader = events.new(client)
    reader:hold()
  end)

  after_each(function()
    reader:release()
    reader:close()
    C.chalk_release(client.segment)
    client:shutdown()
  end)

  local function subscription(take)
    local got = { kinds = { "count" }, events = 0, n = 0 }
    got.take = take or function(_, n) got.n = got.n + n end
    return got
  end

  local function is_on() return C.chalk_tap_kinds(client.segment) ~= 0 end

  it(
    "reach a new subscriber after the last one has left, even after the last one's tap is garbage-collected",
    function()
      local first, second = subscription(), subscription()
      reader:subscribe(first)
      count:inc()
      reader:pump()
      reader:unsubscribe(first)
      assert.is_false(is_on())
      reader:subscribe(second)
      collectgarbage()
      collectgarbage()
      count:inc()
      reader:pump()
      assert.are.same({ 1, 1 }, { first.n, second.n })
    end
  )

  it("reach all subscribers, even if one unsubscribes during its first batch", function()
    local leaving, staying = nil, subscription()
    leaving = subscription(function(_, n)
      leaving.n = leaving.n + n
      reader:unsubscribe(leaving)
    end)
    reader:subscribe(leaving)
    reader:subscribe(staying)
    count:inc()
    reader:pump()
    count:inc()
    reader:pump()
    assert.are.same({ 1, 2 }, { leaving.n, staying.n })
  end)

  it("reach a subscriber when another one raises an error", function()
    local whole = subscription()
    reader:subscribe(subscription(function() error "broken" end))
    reader:subscribe(whole)
    count:inc()
    reader:pump()
    assert.are.equal(1, whole.n)
  end)

  it("stay on for subscriptions with keep, and only for those, when the role is released", function()
    local keeping = subscription()
    keeping.keep = true
    reader:subscribe(subscription())
    reader:subscribe(keeping)
    reader:release()
    assert.is_true(is_on())
    count:inc()
    reader:hold()
    reader:pump()
    assert.are.equal(1, keeping.n)
    reader:unsubscribe(keeping)
    reader:release()
    assert.is_false(is_on())
  end)
end)

describe("a client with the manual driver", function()
  it("switches the tap off when it ends", function()
    local client = chalk.new {
      driver = "manual",
      exporters = { chalk.exporter.custom("support.file_exporter", { path = files.name() }) },
    }
    local count = client:count "jobs"
    count:inc()
    local flusher = client.live.driver.flusher
    flusher.events:subscribe { kinds = { "count" }, events = 0, take = function() end }
    assert.is_true(flusher:hold())
    flusher:release()
    assert.are_not.equal(0, C.chalk_tap_kinds(client.segment))
    client:shutdown()
    assert.are.equal(0, C.chalk_tap_kinds(client.segment))
    files.clean()
  end)
end)
