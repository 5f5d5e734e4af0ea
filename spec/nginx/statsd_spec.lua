--- A real nginx sends the time of each request as a single value while it is reloaded under load. If this file fails,
--- values are lost or arrive twice.

package.path = "spec/?.lua;" .. package.path

local beds = require "support.statsd_bed"
local nginx = require "support.nginx"
local uv = require "luv"
local wait = require "support.wait"

describe("nginx with the mode raw of the statsd exporter", function()
  if nginx.missing() then return pending(nginx.missing()) end

  local scene = beds.scene(before_each, after_each)
  after_each(nginx.stop_all)

  -- Every request records a different value, made of the worker's number and a count of the worker's requests.
  local RECORD = [[
    log_by_lua_block {
      metrics.http.requests:with(ngx.var.status):inc()
      metrics.http.time:record(tonumber(ngx.var.pid) * 1048576 + tonumber(ngx.var.connection_requests) / 1024
        + tonumber(ngx.var.connection))
    }
  ]]

  it("loses no value and sends none twice, over reloads that change the number of workers", function()
    scene.bed = beds.new(nil, "unixgram")
    local function configuration(workers)
      return {
        workers = workers,
        record = RECORD,
        options = ([[flush_interval = 0.4, exporters = { require("chalk").exporter.statsd {
          address = %q, container_id = false, histograms = "raw", write_timeout = 10, raw_queue = 1048576,
        } },]]):format(scene.bed.options.address),
      }
    end
    local server = nginx.start(configuration(2))
    local reader = uv.new_timer()
    reader:start(1, 1, function() scene.bed:read() end)
    finally(function() reader:close() end)
    for _, workers in ipairs { 3, 1, 2, 2 } do
      local run = server:wrk { seconds = 1, connections = 4 }
      server:reload(configuration(workers))
      run.finish()
    end
    local lines = server:settled()
    assert.is_true(lines > 1000)
    local agent = scene.bed.agent
    pcall(wait.till, function()
      scene.bed:read()
      return agent:count "http.time" >= lines
    end, 5)
    assert.equal("", server:complaints())
    server:signal "quit" -- and its last flush
    wait.till(function()
      scene.bed:read()
      return not nginx.is_alive(server.master)
    end)
    scene.bed:read()
    assert.same({ lines, lines }, { agent:count "http.time", agent.counts["http.requests{status:200}"] })
    for value, weight in pairs(agent.weights["http.time"]) do
      assert.equal(1, weight, value)
    end
    local dropped = 0
    for id, n in pairs(agent.counts) do
      if id:find "^chalk%.stream_dropped" then dropped = dropped + n end
    end
    assert.equal(0, dropped)
  end)
end)
