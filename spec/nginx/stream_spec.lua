--- `http {}` and `stream {}` of one nginx, which share metrics and exporters. If this file fails, metrics or exporters
--- of one of them are lost because the other one calls init too.

package.path = "spec/?.lua;" .. package.path

local exposition = require "support.exposition"
local files = require "support.files"
local nginx = require "support.nginx"
local request = require "support.request"
local wait = require "support.wait"

local DEFINED = 'definitions = { namespaces = { l4 = { metrics = { { name = "sessions", type = "count" } } } } },'

local function stream(phase, source) return ("require('support.stream_module').run(%q, %q)"):format(phase, source) end

local function listening(port)
  return ("exporters = { require('chalk').exporter.prometheus { listen = '127.0.0.1:%d' } },"):format(port)
end

-- Returns the options of a server whose two modules call init in this order, with these options.
local function both(first, in_http, in_stream)
  local init = ("metrics = require('resty.chalk').init { %s %s }"):format(DEFINED, in_stream)
  return {
    [first == "stream" and "before" or "after"] = stream("init", init),
    options = in_http,
    init_worker = "require('resty.chalk').init_worker() "
      .. stream("init_worker", "require('resty.chalk').init_worker()"),
    locations = "location /session { content_by_lua_block { "
      .. stream("content", "metrics.l4.sessions:inc()")
      .. " ngx.say('x') } }"
      .. "location /flush { content_by_lua_block { ngx.say("
      .. stream("content", "return tostring(require('chalk').flush())")
      .. ") } }",
  }
end

local function record(server, n)
  for _ = 1, n do
    assert.equal(200, server:get("/").status)
    assert.equal(200, server:get("/session").status)
  end
end

local function sums(samples)
  return { exposition.sum(samples, "http_requests_total"), exposition.sum(samples, "l4_sessions_total") }
end

local function refused(options)
  local server = nginx.new(options)
  local ok, output = server:launch()
  assert.is_nil(ok, "it has started")
  return output .. server:errors()
end

describe("two modules of nginx that both call init", function()
  if nginx.missing() then return pending(nginx.missing()) end

  after_each(function()
    nginx.stop_all()
    files.clean()
  end)

  for _, first in ipairs { "stream", "http" } do
    for _, giver in ipairs { "stream", "http", "each" } do
      it(("have the exporters of %s, %s first, even if the flushing worker dies"):format(giver, first), function()
        local port = nginx.free_port()
        local given = listening(port)
        local server = nginx.start(both(first, giver == "stream" and "" or given, giver == "http" and "" or given))
        for round = 1, 3 do
          record(server, 4)
          wait.till(function() return request.get(port) end, 10, "the exporter to answer")
          assert.same({ 4 * round, 4 * round }, sums(server:scrape(port)))
          assert.same({ 4 * round, 4 * round }, sums(server:scrape()))
          server:signal("kill", server:holder())
          wait.till(function() return #server:workers() == 2 end)
        end
      end)
    end

    it(
      ("share a configuration over a reload, %s first, also after a configuration that was refused"):format(first),
      function()
        local port, other = nginx.free_port(), nginx.free_port()
        local server = nginx.start(both(first, listening(port), ""))
        record(server, 2)
        server:configure(both(first, listening(port), listening(other)))
        server:signal "hup"
        wait.till(function() return server:complaints():find("other exporters", 1, true) end)
        record(server, 1)
        server:reload(both(first, "", listening(other)))
        record(server, 1)
        wait.till(function() return request.get(other) end)
        assert.same({ 4, 4 }, sums(server:scrape(other)))
        assert.equal("ECONNREFUSED", (select(2, request.get(port))))
      end
    )

    it(("can each ask for a flush, %s first"):format(first), function()
      local path = files.name()
      local server = nginx.start(both(
        first,
        ([[ flush_interval = 3600, exporters = {
        require('chalk').exporter.custom('support.file_exporter', { path = %q }) }, ]]):format(path),
        ""
      ))
      record(server, 1)
      assert.equal("true\n", server:get("/flush").body)
      assert.is_truthy(files.read(path):find "l4.sessions{[^\n]* delta=1\n")
    end)

    it(("are refused if their options differ, %s first"):format(first), function()
      local a, b = listening(nginx.free_port()), listening(nginx.free_port())
      local second = first == "stream" and "http" or "stream"
      local words = ("init of %s {} was given other exporters than init of %s {}"):format(second, first)
      assert.is_truthy(refused(both(first, a, b)):find(words, 1, true))
      local said = refused(both(first, "flush_interval = 1,", "flush_interval = 2,"))
      assert.is_truthy(said:find("give flush_interval in one of them", 1, true), said)
    end)
  end

  it("report which of them did not call init_worker", function()
    local options = both("http", "", listening(nginx.free_port()))
    options.init_worker = "require('resty.chalk').init_worker()"
    options.workers = 1
    local server = nginx.new(options)
    assert(server:launch())
    local started, response = nginx.now(), nil
    wait.till(function()
      response = server:get "/metrics"
      return response
    end)
    assert.is_true(nginx.now() - started < 10)
    assert.equal(503, response.status)
    assert.is_truthy(response.body:find("stream {} needs init_worker_by_lua_block", 1, true), response.body)
  end)
end)

describe("stream {} of a real nginx", function()
  local missing = nginx.missing() or nginx.stream_missing()
  if missing then return pending(missing) end

  after_each(nginx.stop_all)

  it("records into the metrics of http {}, also over reloads", function()
    local port = nginx.free_port()
    local options = {
      stream = ([[ stream {
        lua_package_path "$path"; lua_package_cpath "$cpath";
        init_by_lua_block { metrics = require("resty.chalk").init { %s } }
        init_worker_by_lua_block { require("resty.chalk").init_worker() }
        server { listen 127.0.0.1:%d; content_by_lua_block { metrics.l4.sessions:inc() ngx.say("x") } }
      } ]]):format(DEFINED, port),
    }
    local server = nginx.start(options)
    for round = 1, 3 do
      assert.equal(200, server:get("/").status)
      assert.equal(0, os.execute(("bash -c 'exec 3<>/dev/tcp/127.0.0.1/%d; read x <&3'"):format(port)))
      assert.same({ round, round }, sums(server:scrape()))
      server:reload(options)
    end
    assert.equal("", server:complaints())
  end)
end)
