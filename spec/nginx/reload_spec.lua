--- A real nginx is reloaded, upgraded, and loses the worker that flushes. If this file fails, totals start again at
--- zero, or exporters send changes twice or not at all.

package.path = "spec/?.lua;" .. package.path

local committing = require "support.committing_exporter"
local exposition = require "support.exposition"
local files = require "support.files"
local nginx = require "support.nginx"
local request = require "support.request"
local wait = require "support.wait"

local INTERVAL = 0.4
local SOON = 1 + INTERVAL -- seconds
local BUSY = 1 -- seconds more on a machine that has other things to do

local function exporter(module, options)
  return ("require('chalk').exporter.custom('support.%s', { %s })"):format(module, options)
end

local function exporters(...)
  return ("flush_interval = %g, exporters = { %s },"):format(INTERVAL, table.concat({ ... }, ", "))
end

local function to_file(path, more)
  return exporter("file_exporter", ("path = %q, name = %q, %s"):format(path, path, more or ""))
end

local function listen(port) return ("require('chalk').exporter.prometheus { listen = '127.0.0.1:%d' }"):format(port) end

-- Returns how many batches a file exporter wrote, and the sum of the differences of a count.
local function batches(path) return select(2, files.read(path):gsub("%-%-\n", "")) end

local function sent(path)
  local sum = 0
  for delta in files.read(path):gmatch "http%.requests{[^\n]* delta=(%d+)\n" do
    sum = sum + tonumber(delta)
  end
  return sum
end

local function ask(server, n)
  for _ = 1, n do
    assert(server:get "/")
  end
end

-- Starts a request that an old worker must finish before it exits.
local LONG = [[ location = /long { lua_check_client_abort on; content_by_lua_block { ngx.sleep(60) } } ]]

local function hold(server)
  local pending = request.send(server.port, { path = "/long", deadline = 120 })
  request.turn(0.2)
  return pending
end

describe("a reload of nginx", function()
  if nginx.missing() then return pending(nginx.missing()) end

  after_each(function()
    nginx.stop_all()
    files.clean()
  end)

  it("starts new exporters and addresses at once, although an old worker still serves a request", function()
    local old_file, new_file, old_port, new_port = files.name(), files.name(), nginx.free_port(), nginx.free_port()
    local server = nginx.start { locations = LONG, options = exporters(to_file(old_file), listen(old_port)) }
    ask(server, 5)
    wait.till(function() return sent(old_file) == 5 end)
    assert.equal(5, exposition.sum(server:scrape(old_port), "http_requests_total"))
    local long = hold(server)
    local old = server:workers()

    server:reload { locations = LONG, options = exporters(to_file(new_file), listen(new_port)) }
    local reloaded = nginx.now()
    wait.till(function() return batches(new_file) > 0 end)
    assert.is_true(nginx.now() - reloaded < SOON + BUSY)
    wait.till(function() return server:holder() ~= old[1] and server:holder() ~= old[2] end)
    local response, problem = request.get(old_port)
    assert.same({ nil, "ECONNREFUSED" }, { response, problem })
    local before = batches(old_file)
    ask(server, 7)
    wait.till(function() return sent(new_file) == 7 end)
    assert.equal(12, exposition.sum(server:scrape(new_port), "http_requests_total"))
    assert.equal(before, batches(old_file))
    local draining = 0
    for _, pid in ipairs(old) do
      if nginx.is_alive(pid) then draining = draining + 1 end
    end
    assert.equal(1, draining)
    assert.is_false(long.over or false)
    long.close()
    wait.till(function() return #server:workers() == 2 end)
    assert.equal("", server:complaints())
  end)

  local BEFORE = [[{ "tags": { "a": { "value_type": "string" } }, "namespaces": { "http": { "metrics": [
    { "name": "requests", "type": "count", "tags": [ { "tag": "a" } ] },
    { "name": "leaves", "type": "count" },
    { "name": "changes", "type": "count" } ] } } }]]
  local AFTER = [[{ "tags": { "a": { "value_type": "string" }, "b": { "value_type": "string" } },
    "namespaces": { "http": { "metrics": [
    { "name": "requests", "type": "count", "tags": [ { "tag": "a" }, { "tag": "b" } ] },
    { "name": "comes", "type": "histogram", "unit": "seconds" },
    { "name": "changes", "type": "gauge" } ] } } }]]

  it("opens addresses again that an earlier reload had removed, unix sockets too", function()
    local port = nginx.free_port()
    local on = { options = exporters(listen(port)) }
    local server = nginx.start(on)
    local workers = #server:workers()
    for _ = 1, 2 do
      server:reload { options = "enabled = false," }
      wait.till(function() return not request.get(port) end)
      -- No process listens at the unix socket any more.
      wait.till(function() return #server:workers() == workers end)
      server:reload(on)
      wait.till(function() return request.get(port) end)
      wait.till(function() -- from when the last worker of the one before has left
        ask(server, 1)
        local response = server:get "/metrics"
        return response.status == 200 and response.body:find("http_requests_total{", 1, true)
      end, 5, "an answer at the unix socket: " .. server:complaints())
    end
    assert.equal("", server:complaints())
  end)

  it("changes definitions, and no scrape is wrong in between", function()
    local server = nginx.start {
      locations = LONG,
      definitions = BEFORE,
      options = exporters(),
      record = [[
      log_by_lua_block { metrics.http.requests:with("x"):inc() metrics.http.leaves:inc() metrics.http.changes:inc(3) }
    ]],
    }
    ask(server, 4)
    local samples, types = server:scrape()
    assert.equal(4, samples['http_requests_total{a="x"}'])
    assert.equal(12, samples["http_changes_total"])
    assert.equal("counter", types["http_changes_total"])
    local long = hold(server)
    local run = server:wrk { seconds = 2, connections = 2 }
    server:reload {
      locations = LONG,
      definitions = AFTER,
      options = exporters(),
      record = [[
      log_by_lua_block {
        metrics.http.requests:with("x", "y"):inc() metrics.http.comes:record(1) metrics.http.changes:set(42)
      }
    ]],
    }
    while not run.is_over() do
      server:scrape() -- which raises when a family is there twice
    end
    samples, types = server:scrape()
    assert.is_true(samples['http_requests_total{a="x",b="y"}'] > 0)
    assert.is_true(samples["http_comes_seconds_count"] > 0)
    assert.is_truthy(samples["http_leaves_total"], "left while an old worker had it")
    long.close()
    wait.till(function() return #server:workers() == 2 end)
    wait.till(function()
      samples, types = server:scrape()
      return not samples["http_leaves_total"]
    end, 10, "the definition that was removed to leave")
    assert.equal("gauge", types["http_changes"])
    assert.equal(42, samples["http_changes"])
    assert.is_nil(types["http_changes_total"])
    assert.equal("", server:complaints())
  end)

  for what, broken in pairs {
    ["a definitions file that is wrong"] = { definitions = '{ "namespaces": 5 }' },
    ["an option that is wrong"] = { options = "flush_interval = 'often'," },
    ["an error of the application's"] = { after = "error('no good')" },
    ["an address that is taken"] = {
      options = "exporters = { require('chalk').exporter.prometheus { listen = '127.0.0.1:$port' } },",
    },
  } do
    it("leaves the old configuration running after " .. what, function()
      local server = nginx.start()
      ask(server, 3)
      local workers = server:workers()
      server:configure(broken)
      server:signal "hup"
      wait.till(function() return server:complaints() ~= "" end, 10, "the reload to fail")
      ask(server, 2)
      assert.equal(5, (server:counted()))
      assert.same(workers, server:workers())
      server:reload {} -- and a good one goes on from there
      ask(server, 1)
      assert.equal(6, (server:counted()))
    end)
  end

  it("changes the number of workers under load", function()
    local server = nginx.start { workers = 1 }
    local run = server:wrk { seconds = 3 }
    for _, workers in ipairs { 4, 2, 3, 1 } do
      request.turn(0.4)
      server:reload { workers = workers }
    end
    run.finish()
    local lines, counted, timed = server:settled()
    assert.same({ lines, lines }, { counted, timed })
    wait.till(function() return #server:workers() == 1 end)
    wait.till(function() return server:info().writers <= 6 end)
    assert.equal("", server:complaints())
  end)
end)

describe("the worker that flushes", function()
  if nginx.missing() then return pending(nginx.missing()) end

  after_each(function()
    nginx.stop_all()
    files.clean()
  end)

  it("is replaced by another when it is killed, and everything is sent once", function()
    local path = files.name()
    local server = nginx.start { options = exporters(to_file(path)) }
    for round = 1, 5 do
      ask(server, 10)
      wait.till(function() return sent(path) == round * 10 end)
      local before, killed = batches(path), nginx.now()
      server:signal("kill", server:holder())
      wait.till(function() return batches(path) > before end)
      assert.is_true(nginx.now() - killed < SOON + BUSY, "took " .. nginx.now() - killed)
    end
    assert.equal(50, sent(path))
  end)

  for what, most in pairs { stuck_after = 0, stuck_at = 1 } do
    it(("causes at most one repeated batch when it is killed while sending (%s)"):format(what), function()
      local path = files.name()
      local server = nginx.start {
        options = exporters(exporter("committing_exporter", ("path = %q, %s = 1"):format(path, what))),
      }
      ask(server, 10)
      wait.till(function() return committing.sum(path) > 0 end)
      ask(server, 5)
      local holder = server:holder()
      files.make_at(path .. ".free")
      server:signal("kill", holder)
      wait.till(function() return committing.sum(path) >= 15 end)
      local sum, repeats = committing.sum(path)
      assert.equal(15, sum)
      assert.is_true(repeats <= most, repeats .. " batches were sent twice")
    end)
  end

  it("flushes for the last time when nginx quits", function()
    local path = files.name()
    local server = nginx.start {
      options = ("flush_interval = 3600, exporters = { %s },"):format(to_file(path)),
    }
    ask(server, 10)
    local master = server.master
    server:signal "quit"
    wait.till(function() return not nginx.is_alive(master) end)
    assert.equal(10, sent(path))
    assert.is_truthy(files.read(path):find("shutdown\n", 1, true))
  end)
end)

describe("a binary upgrade of nginx", function()
  if nginx.missing() then return pending(nginx.missing()) end

  after_each(function()
    nginx.stop_all()
    files.clean()
  end)

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

  it("keeps the totals, under load", function()
    local port, path = nginx.free_port(), files.name()
    local server = nginx.start {
      options = exporters(to_file(path), listen(port)),
    }
    ask(server, 3)
    local run, smallest = server:wrk { seconds = 4 }, 3
    local function scrape()
      local counted = server:counted()
      assert.is_true(counted >= smallest, ("%d after %d"):format(counted, smallest))
      smallest = counted
    end
    request.turn(0.5)
    scrape()
    for _ = 1, 2 do
      local old = upgrade(server)
      scrape()
      server:signal("quit", old)
      wait.till(function()
        scrape()
        return not nginx.is_alive(old)
      end, 10, "the old master's end")
    end
    run.finish()
    local lines, counted, timed = server:settled()
    assert.same({ lines, lines }, { counted, timed })
    assert.equal(lines, exposition.sum(server:scrape(port), "http_requests_total"))
    wait.till(function() return sent(path) == lines end, 10, "all to be sent")
    wait.till(function() return server:info().writers <= 6 end)
    assert.equal("", server:complaints())
  end)

  it("keeps the totals if the configuration records before it calls resty.chalk's init", function()
    local server = nginx.start { before = "require('chalk').count('started'):inc()" }
    ask(server, 3)
    local old = upgrade(server)
    server:signal("quit", old)
    wait.till(function() return not nginx.is_alive(old) end)
    ask(server, 1)
    assert.equal(4, (server:counted()))
    assert.equal(2, server:scrape()["started_total"])
  end)

  it("can be reverted", function()
    local server = nginx.start()
    ask(server, 3)
    local old = upgrade(server)
    ask(server, 2)
    local new = server.master
    server:signal("quit", new)
    wait.till(function() return not nginx.is_alive(new) end)
    server.master = old
    ask(server, 1)
    assert.equal(6, (server:counted()))
    server:reload { workers = 2 }
    ask(server, 1)
    assert.equal(7, (server:counted()))
  end)
end)
