--- A client of a worker's own, beside the one of all workers: it flushes in the worker's VM, a last time when nginx
--- closes that.

package.path = "spec/?.lua;" .. package.path

local files = require("support.files")
local nginx = require("support.nginx")
local wait = require("support.wait")

-- The exporter runs in coroutines, and makes one of its own.
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

describe("a client of a worker's own", function()
  if nginx.missing() then return pending(nginx.missing()) end

  after_each(nginx.stop_all)

  it("flushes when it is asked to, and when the worker ends", function()
    local server = nginx.start({ workers = 1, init_worker = INIT_WORKER, locations = LOCATIONS })
    for _ = 1, 2 do
      assert.equal("true\n", server:get("/job").body)
    end
    assert.equal(200, server:get("/only").status)
    server:signal("quit")
    wait.till(function() return not nginx.is_alive(server.master) end)
    assert.equal("jobs 1\njobs 2\njobs 3\n", files.read(server.prefix .. "/sent"))
    assert.is_nil(server:errors():find("exited on signal", 1, true), server:errors())
  end)
end)
