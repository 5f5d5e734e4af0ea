--- Private clients in nginx, beside the client that all workers share: one that a worker makes, and one that the master
--- makes. If this file fails, a worker's client does not flush when nginx closes the worker's VM, or the master's
--- client disturbs nginx.

package.path = "spec/?.lua;" .. package.path

local files = require "support.files"
local nginx = require "support.nginx"
local request = require "support.request"
local uv = require "luv"
local wait = require "support.wait"

-- The exporter runs in a coroutine, and makes a coroutine itself.
local INIT_WORKER = [[
  require("resty.chalk").init_worker()
  local chalk = require "chalk"
  local function export(_, batch)
    local file = io.open("$prefix/sent", "a")
    local each = coroutine.create(function()
      for m in batch:each() do
        if m.name == "jobs" then coroutine.yield(m.total) end
      end
    end)
    local _, total = coroutine.resume(each)
    file:write("jobs ", total, "\n")
    file:close()
    return true
  end
  own = chalk.new { driver = "manual", exporters = { { name = "own", export = export } } }
  jobs = own:count("jobs")
]]

local LOCATIONS = [[
  location = /job { content_by_lua_block { jobs:inc() ngx.say(tostring(own:flush())) } }
  location = /only { content_by_lua_block { jobs:inc() } }
]]

describe("a private client that the master makes", function()
  if nginx.missing() then return pending(nginx.missing()) end

  after_each(nginx.stop_all)

  it("listens on through reloads, and closes no descriptor of nginx", function()
    local port = nginx.free_port()
    local options = {
      workers = 1,
      after = ([[
        own = require("chalk").new { exporters = {
          require("chalk").exporter.prometheus { listen = "127.0.0.1:%d" },
          require("chalk").exporter.prometheus { listen = "unix://$prefix/own.sock" },
        } }
        jobs = own:count("jobs")
      ]]):format(port),
      locations = "location = /job { content_by_lua_block { jobs:inc() } }",
    }
    local server = nginx.start(options)
    for _ = 1, 4 do
      assert.equal(200, server:get("/job").status)
      assert.equal(200, request.get(port).status)
      server:reload(options)
    end
    assert.equal(200, request.get(port).status)
    assert.equal("", server:complaints())
    assert.is_truthy(uv.fs_lstat(server.prefix .. "/own.sock"))
  end)
end)

describe("a private client that a worker makes", function()
  if nginx.missing() then return pending(nginx.missing()) end

  after_each(nginx.stop_all)

  it("flushes when flush is called, and when the worker ends", function()
    local server = nginx.start { workers = 1, init_worker = INIT_WORKER, locations = LOCATIONS }
    for _ = 1, 2 do
      assert.equal("true\n", server:get("/job").body)
    end
    assert.equal(200, server:get("/only").status)
    server:signal "quit"
    wait.till(function() return not nginx.is_alive(server.master) end)
    assert.equal("jobs 1\njobs 2\njobs 3\n", files.read(server.prefix .. "/sent"))
    assert.is_nil(server:errors():find("exited on signal", 1, true), server:errors())
  end)
end)
