--- The event stream of a real nginx. If this file fails, a client does not receive the events of all workers at the one
--- address, whichever worker serves it.

package.path = "spec/?.lua;" .. package.path

local beds = require "support.stream_bed"
local files = require "support.files"
local nginx = require "support.nginx"
local request = require "support.request"
local stream_client = require "support.stream_client"
local wait = require "support.wait"

local DEFINITIONS = [[{
  "tags": { "worker": { "value_type": "string" } },
  "namespaces": { "http": { "metrics": [
    { "name": "requests", "type": "count", "tags": [ { "tag": "worker" } ], "description": "Requests" },
    { "name": "time", "type": "histogram", "unit": "seconds" }
  ] } }
}]]

local RECORD = [[
  log_by_lua_block {
    metrics.http.requests:with(ngx.worker.pid()):inc()
    metrics.http.time:record(tonumber(ngx.var.request_time))
  }
]]

describe("the stream of nginx", function()
  if nginx.missing() then return pending(nginx.missing()) end

  local server, port, clients

  local function configuration(more)
    return {
      workers = 3,
      definitions = DEFINITIONS,
      record = RECORD,
      options = ([[ exporters = { require("chalk").exporter.stream {
        listen = "127.0.0.1:%d", namespace = "web", buffer_size = 100000 } }, %s ]]):format(port, more or ""),
    }
  end

  before_each(function()
    port, clients = beds.port(), {}
    server = nginx.start(configuration())
    server:holder()
  end)

  after_each(function()
    for _, client in ipairs(clients) do
      client:close()
    end
    nginx.stop_all()
    files.clean()
  end)

  local function connect()
    local client = wait.till(function() return stream_client.connect(port) end)
    clients[#clients + 1] = client
    client:till(function() return client.metadata.web_http_time_seconds end)
    return client
  end

  -- Makes requests until the records of every worker have arrived at a client. Checks that no record is missing.
  local function assert_all_arrive(client, workers)
    client.metrics = {}
    local asked = server:lines()
    local function of(name)
      local n, by = 0, {}
      for _, metric in ipairs(client.metrics) do
        if metric.name == name then
          n = n + metric.value
          by[tonumber(metric.labels.worker) or 0] = true
        end
      end
      return n, by
    end
    client:till(function()
      assert(request.get(server.port, { path = "/" }))
      local _, by = of "web_http_requests"
      for _, pid in ipairs(workers) do
        if not by[pid] then return false end
      end
      return true
    end, nil, "records of every worker")
    client:till(function() return of "web_http_requests" == server:lines() - asked end)
    local times = 0
    for _, metric in ipairs(client.metrics) do
      if metric.operation == "record_histogram" then times = times + 1 end
    end
    assert.equal(server:lines() - asked, times)
  end

  it("contains the records of every worker", function()
    local client = connect()
    assert.same(
      { name = "web_http_requests", type = "counter", description = "Requests" },
      client.metadata.web_http_requests
    )
    assert_all_arrive(client, server:workers())
    assert.equal("", server:complaints())
  end)

  it("goes on after a reload, for clients that connect again", function()
    local client = connect()
    assert_all_arrive(client, server:workers())
    for _ = 1, 2 do
      server:reload()
      client:till(function() return client.ended end, nil, "the old workers' end of the stream")
      client = connect()
      wait.till(function() return #server:workers() == 3 end, 10, "the old workers' end")
      assert_all_arrive(client, server:workers())
    end
    assert.equal("", server:complaints())
  end)

  it("goes on when the worker that serves it is killed", function()
    local client = connect()
    local holder = server:holder()
    server:signal("kill", holder)
    client:till(function() return client.ended end, nil, "the end of the killed one's stream")
    client = connect()
    assert.is_true(server:holder() ~= holder)
    wait.till(function() return #server:workers() == 3 end, 10, "a new worker")
    assert_all_arrive(client, server:workers())
  end)

  it("ends when a new configuration has no stream", function()
    local client = connect()
    local other = configuration()
    other.options = ""
    server:reload(other)
    client:till(function() return client.ended end)
    wait.till(function() return not stream_client.connect(port) end, 10, "a refusal")
  end)
end)
