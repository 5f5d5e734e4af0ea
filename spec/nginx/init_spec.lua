--- A real nginx that refuses a configuration, or ends. If this file fails, a port, a socket file or metrics stay
--- behind, and the next configuration cannot use them.

package.path = "spec/?.lua;" .. package.path

local exposition = require "support.exposition"
local files = require "support.files"
local nginx = require "support.nginx"
local request = require "support.request"
local uv = require "luv"
local wait = require "support.wait"

local function listens(...)
  local list = {}
  for i, address in ipairs { ... } do
    list[i] = ("require('chalk').exporter.prometheus { listen = %q }"):format(address)
  end
  return ("flush_interval = 0.2, exporters = { %s },"):format(table.concat(list, ", "))
end

local ABSENT = "require('chalk').exporter.custom('absent_exporter')"

local function with_absent(options) return (options:gsub("exporters = {", "%0 " .. ABSENT .. ",")) end

local function tcp(port) return "127.0.0.1:" .. port end

local function exists(path) return uv.fs_lstat(path) ~= nil end

-- Reloads with a configuration that nginx must refuse with these words.
local function refuse(server, options, words)
  server:configure(options)
  local before = #server:errors()
  server:signal "hup"
  wait.till(function() return server:errors():find(words, before + 1, true) end, 10, words)
end

local function quit(server)
  local master = server.master
  server:signal "quit"
  wait.till(function() return not nginx.is_alive(master) end)
end

local function upgrade(server)
  local old = server.master
  server:signal "usr2"
  wait.till(function()
    local master = server:pid_in "nginx.pid"
    return master and master ~= old and server:pid_in "nginx.pid.oldbin" == old and #server:workers(master) == 2
  end, 10, "the new master: " .. server:complaints())
  server.master = server:pid_in "nginx.pid"
  return old
end

describe("nginx", function()
  if nginx.missing() then return pending(nginx.missing()) end

  after_each(function()
    nginx.stop_all()
    files.clean()
  end)

  it("does not start if an exporter's module is missing, and names the module", function()
    local server = nginx.new { options = with_absent(listens(tcp(nginx.free_port()))) }
    local ok, output = server:launch()
    assert.is_nil(ok)
    assert.matches("exporter absent_exporter: module 'absent_exporter' not found", output, 1, true)
    assert.is_false(exists(server.prefix .. "/chalk.sock"))
  end)

  for what, broken in pairs {
    ["chalk refuses"] = {
      options = function(options) return with_absent(options) end,
      words = "exporter absent_exporter: module 'absent_exporter' not found",
    },
    ["fails behind chalk's init"] = { after = "error 'no such luck'", words = "no such luck" },
    ["nginx itself refuses in the end"] = {
      http = "server { listen 192.0.2.1:1; }",
      words = "bind() to 192.0.2.1:1 failed",
    },
  } do
    it("keeps its configuration after a reload that " .. what .. ", and no client waits at an open port", function()
      local port, other = nginx.free_port(), nginx.free_port()
      local server = nginx.start { options = listens(tcp(port)) }
      assert(server:get "/")
      local path = server.prefix .. "/other.sock"
      local options = listens(tcp(port), tcp(other), "unix://" .. path)
      for _ = 1, 2 do
        refuse(server, {
          options = broken.options and broken.options(options) or options,
          after = broken.after,
          http = broken.http,
          socket = server.prefix .. "/third.sock",
        }, broken.words)
        wait.till(function()
          local response, problem = request.get(other, { deadline = 1 })
          return response == nil and problem == "ECONNREFUSED"
        end, 5, "the port to be free")
        wait.till(function() return not exists(path) end, 5, "the socket's file to go") -- which is next
        assert.is_false(exists(server.prefix .. "/third.sock"))
        assert.equal(1, exposition.sum(server:scrape(port), "http_requests_total"))
        assert.equal(1, exposition.sum(server:scrape(), "http_requests_total"))
      end
      server:reload { options = options }
      wait.till(function()
        local response = request.get(other, { deadline = 1 })
        return response and response.status == 200
      end, 5, "the port to answer")
    end)
  end

  -- Defines so many counts that the segment has space for them only once.
  local function definitions(prefix, n, tags)
    local list = {}
    for i = 1, n do
      list[i] = ('{ "name": "%s_%d", "type": "count", "tags": [%s] }'):format(prefix, i, tags or "")
    end
    return ('{ "tags": { "t": { "value_type": "string" } }, "metrics": [ %s ] }'):format(table.concat(list, ",\n"))
  end

  it(
    "has space for metrics after reloads whose metrics did not fit, or that were refused for another reason",
    function()
      local tagged, none = '{ "tag": "t" }', "no room for the definition of many_"
      local server = nginx.start { options = listens(), record = "" }
      refuse(server, { definitions = definitions("many", 5000, tagged), record = "" }, none)
      refuse(server, { definitions = definitions("many", 5000), record = "" }, none)
      local absent =
        { definitions = definitions("refused", 3000, tagged), options = with_absent(listens()), record = "" }
      refuse(server, absent, "exporter absent_exporter")
      local late = { definitions = definitions("late", 3000, tagged), after = "error 'bad luck'", record = "" }
      refuse(server, late, "bad luck")
      -- Definitions with series are freed by the next flushes.
      refuse(
        server,
        { definitions = definitions("bound", 3000), after = "error 'no luck'", record = "" },
        "no luck"
      )
      wait.till(function() return server:info().metrics < 100 end, 10, "the metrics to leave")
      server:reload {
        definitions = definitions("good", 3000),
        record = "log_by_lua_block { metrics.good_3000:inc() }",
      }
      wait.till(function()
        assert(server:get "/") -- which an old worker may answer yet
        return (server:scrape().good_3000_total or 0) > 0
      end)
    end
  )

  describe("removes its sockets' files", function()
    it("when it ends, and not before", function()
      local first, second = files.name(), files.name()
      local server = nginx.start { options = listens("unix://" .. first) }
      assert.is_true(exists(first))
      assert.is_true(exists(server.prefix .. "/chalk.sock"))
      server:reload { options = listens("unix://" .. first, "unix://" .. second) }
      assert.is_true(exists(first))
      server:reload { options = listens("unix://" .. second) }
      assert(server:scrape())
      quit(server)
      assert.is_false(exists(first))
      assert.is_false(exists(second))
      assert.is_false(exists(server.prefix .. "/chalk.sock"))
    end)

    it("when the last master of a binary upgrade ends", function()
      local server = nginx.start { options = listens() }
      local path = server.prefix .. "/chalk.sock"
      local old = upgrade(server)
      assert.is_true(exists(path))
      server:signal("quit", old)
      wait.till(function() return not nginx.is_alive(old) end)
      assert.is_true(exists(path))
      assert(server:scrape())
      quit(server)
      assert.is_false(exists(path))
    end)

    it("but leaves them to the old master if an upgrade is reverted", function()
      local server = nginx.start { options = listens() }
      local path = server.prefix .. "/chalk.sock"
      local old = upgrade(server)
      quit(server)
      server.master = old
      assert.is_true(exists(path))
      assert(server:scrape())
      quit(server)
      assert.is_false(exists(path))
    end)
  end)
end)
