--- metrics-observer, the terminal client, reads the bytes of support/stream_bytes. If this file fails, other specs test
--- chalk against a wrong wire format, or support/observer reads the client's screen wrongly.

local bytes = require "support.stream_bytes"
local examples = require "support.examples"
local files = require "support.files"
local observer = require "support.observer"
local stream_server = require "support.stream_server"

local function metric(name, operation, value, labels)
  return bytes.metric { name = name, operation = operation, value = value, labels = labels }
end

describe("metrics-observer", function()
  local program, reason = observer.install()

  it("shows counters, gauges and histograms of a stream", function()
    if not program then return pending(reason) end
    local frames = {
      bytes.metadata { name = "took", type = "histogram", unit = "seconds", description = "Time" },
      bytes.metadata { name = "sent", type = "counter", unit = "bytes" },
      bytes.metadata { name = "full", type = "gauge", unit = "percent" },
      metric("jobs", "set_counter", 5),
      metric("jobs", "increment_counter", 0),
      metric("full", "set_gauge", 12.5),
      metric("open", "increment_gauge", 2.25, { { "room", "ä b" } }),
      metric("open", "decrement_gauge", 10, { { "room", "ä b" } }),
      metric("sent", "increment_counter", 1536),
    }
    for i = 1, 1001 do
      frames[#frames + 1] = metric("jobs", "increment_counter", 3, { { "queue", "mail" }, { "host", "a" } })
      frames[#frames + 1] = metric("took", "record_histogram", i / 1000)
    end
    local server = stream_server.start(table.concat(frames))
    local seen = observer.start(program, server:address())
    finally(function()
      seen:stop()
      server:stop()
      files.clean()
    end)
    local took
    local whole = examples.child.wait(function()
      took = seen:metrics().took
      return took and took.max > 1
    end, 20)
    assert.is_true(whole, seen:screen() .. seen:errors())
    assert.equal("", seen:errors())
    assert.is_true(seen:connected())
    local metrics = seen:metrics()
    assert.same({ type = "counter", value = 5 }, metrics.jobs)
    assert.same({ type = "counter", value = 3003 }, metrics[observer.key("jobs", { queue = "mail", host = "a" })])
    assert.same({ type = "counter", value = 1536 }, metrics.sent)
    assert.same({ type = "gauge", value = 12.5 }, metrics.full)
    assert.same({ type = "gauge", value = -7.75 }, metrics[observer.key("open", { room = "ä b" })])
    for field, value in pairs { min = 0.001, p50 = 0.5, p99 = 0.99, p999 = 0.999, max = 1.001 } do
      assert.near(value, took[field], 0.002, field)
    end
  end)
end)
