--- A real nginx under load. If this file fails, requests are counted twice or not at all when workers are reloaded,
--- killed or stopped.

package.path = "spec/?.lua;" .. package.path

local exposition = require "support.exposition"
local nginx = require "support.nginx"
local request = require "support.request"
local uv = require "luv"
local wait = require "support.wait"

local SECONDS = nginx.long or 3
local TAKEOVER = 1.5 -- seconds: a killed flusher's role is taken within one, and this machine is busy

local function tell(...)
  if nginx.long then print(string.format(...)) end
end

local function assert_exact(server)
  local lines, counted, timed = server:settled()
  assert.is_true(lines > 100, "hardly any requests")
  assert.same({ lines, lines }, { counted, timed })
  return lines
end

-- Calls f every few seconds while luv's loop runs. Returns a function that ends this.
local function every(seconds, f)
  local timer = uv.new_timer()
  timer:start(seconds * 1000, seconds * 1000, f)
  return function() timer:close() end
end

local function is_counter(key) return key:find "_total" or key:find "_count" or key:find "_bucket{" end

-- Checks that no counter of `before` is smaller or missing in `after`.
local function assert_grown(before, after)
  for key, value in pairs(before) do
    if is_counter(key) then
      assert(after[key], key .. " has left")
      assert(after[key] >= value, ("%s fell from %d to %d"):format(key, value, after[key]))
    end
  end
end

-- Scrapes until wrk has ended. Returns the number of scrapes.
local function scrape_on(server, run)
  local before, n = {}, 0
  while not run.is_over() do
    local samples = server:scrape()
    assert_grown(before, samples)
    before, n = samples, n + 1
  end
  return n
end

describe("nginx under load", function()
  if nginx.missing() then return pending(nginx.missing()) end

  after_each(nginx.stop_all)

  for _, workers in ipairs { 2, 4 } do
    it(("counts every request of %d workers"):format(workers), function()
      local server = nginx.start { workers = workers }
      local scrapes = scrape_on(server, server:wrk { seconds = SECONDS })
      tell("%d workers, %d s: %d requests counted, %d scrapes", workers, SECONDS, assert_exact(server), scrapes)
      assert.equal("", server:complaints())
    end)
  end

  it("counts every request over reloads, and no scrape shows less than the one before", function()
    local server = nginx.start { workers = 2 }
    local run, reloads = server:wrk { seconds = SECONDS }, 0
    local stop = every(SECONDS / 21, function()
      if run.is_over() then return end
      reloads = reloads + 1
      server:signal "hup"
    end)
    local scrapes = scrape_on(server, run)
    stop()
    local lines = assert_exact(server)
    tell("%d reloads: %d requests counted, %d scrapes", reloads, lines, scrapes)
    assert.is_true(reloads >= 20, reloads .. " reloads")
    wait.till(function() return #server:workers() == 2 end, 10, "the old workers' end")
    wait.till(function() return server:info().writers <= 6 end, 10, "slots that old workers give back")
    assert.equal("", server:complaints())
  end)
end)

-- Kills a worker every 200 ms, and records the times.
local function kill_on(server)
  local kills = {}
  local stop = every(0.2, function()
    local workers = server:workers()
    if #workers > 0 then
      kills[#kills + 1] = nginx.now()
      server:signal("kill", workers[math.random(#workers)])
    end
  end)
  return kills, stop
end

-- Returns the last of these times that is between two times, or nil.
local function last_between(times, first, last)
  for i = #times, 1, -1 do
    if times[i] >= first and times[i] <= last then return times[i] end
  end
end

describe("nginx with dying workers", function()
  if nginx.missing() then return pending(nginx.missing()) end

  after_each(nginx.stop_all)

  it("loses at most the requests in progress, and scrapes go on", function()
    local server = nginx.start { workers = 4 }
    local run = server:wrk { seconds = SECONDS }
    local kills, stop = kill_on(server)
    local scrapes, failed, longest, before = 0, 0, 0, {}
    while not run.is_over() do
      local started = nginx.now()
      local response, problem = request.get(server.port)
      local over = nginx.now()
      local kill = last_between(kills, started, over)
      scrapes = scrapes + 1
      if not response or response.status ~= 200 then
        failed = failed + 1
        assert(kill, "a scrape failed without a kill: " .. (problem or response.head))
      else
        local samples = exposition.parse(response.body)
        assert_grown(before, samples)
        before = samples
      end
      longest = math.max(longest, over - (kill or started))
    end
    stop()
    local lines, counted, timed = server:settled()
    tell(
      "%d kills: %d requests, %d counted, %d timed; %d of %d scrapes failed, longest wait after a kill %.0f ms",
      #kills,
      lines,
      counted,
      timed,
      failed,
      scrapes,
      longest * 1000
    )
    assert.is_true(#kills > 5)
    -- A worker runs one log phase at a time. So at each kill, one request may be in the log and not counted, or the
    -- other way round.
    assert.is_true(math.abs(counted - lines) <= #kills, counted .. " of " .. lines)
    assert.is_true(math.abs(timed - lines) <= #kills, timed .. " of " .. lines)
    assert.is_true(longest < TAKEOVER, "a scrape waited for " .. longest)
    assert.is_true(failed < scrapes / 2)
    assert.is_true(server:info().writers < 12, server:info().writers .. " slots are taken")
  end)

  for _, which in ipairs { "holder", "other" } do
    it("goes on while " .. (which == "holder" and "the flushing worker" or "a worker") .. " is stopped", function()
      local path = os.tmpname()
      local server = nginx.start {
        workers = 2,
        options = ([[ flush_interval = 0.5, exporters = {
          require("chalk").exporter.custom("support.file_exporter", { path = %q }) } ]]):format(path),
      }
      local stopped = server[which](server)
      server:signal("stop", stopped)
      local run = server:wrk { seconds = SECONDS }
      local seen, started, longest = 0, nginx.now(), 0
      while not run.is_over() do
        local asked = nginx.now()
        local response = request.get(server.port, { deadline = 3 })
        if response then
          seen = seen + 1
          if asked - started > TAKEOVER + 2 then longest = math.max(longest, nginx.now() - asked) end
        end
      end
      run.finish()
      local function batches()
        local file = assert(io.open(path))
        local _, n = file:read("*a"):gsub("%-%-\n", "")
        file:close()
        return n
      end
      local before = batches()
      wait.till(function() return batches() > before + 1 end, 5, "flushes")
      server:signal("cont", stopped)
      local lines = assert_exact(server)
      tell(
        "%s stopped for %d s: %d requests counted, %d scrapes, longest %.0f ms",
        which,
        SECONDS,
        lines,
        seen,
        longest * 1000
      )
      os.remove(path)
      assert.is_true(seen > 3, seen .. " scrapes")
      assert.is_true(nginx.is_alive(stopped))
      assert.equal("", server:complaints())
    end)
  end
end)

-- Every request has a different tag value.
local FRESH = "local n = 0 function request() n = n + 1 return wrk.format('GET', '/' .. n) end"
local BY_URI = [[{ "tags": { "uri": { "value_type": "string" } }, "namespaces": { "http": { "metrics": [
  { "name": "requests", "type": "count", "tags": [ { "tag": "uri" } ] },
  { "name": "time", "type": "histogram", "unit": "seconds", "tags": [ { "tag": "uri" } ] } ] } } }]]

describe("a limit that is reached under load", function()
  if nginx.missing() then return pending(nginx.missing()) end

  after_each(nginx.stop_all)

  for what, limit in pairs { series = "max_series = 500", memory = "memory_limit = 4 * 2^20" } do
    it("fails no request, counts the rest in the overflow series, and is logged once (" .. what .. ")", function()
      local server = nginx.start {
        definitions = BY_URI,
        options = limit .. ", flush_interval = 3600,",
        locations = "location /flush { content_by_lua_block { ngx.say(require('chalk').flush()) } }",
        record = [[ log_by_lua_block {
          metrics.http.requests:with(ngx.var.uri):inc() metrics.http.time:with(ngx.var.uri):record(0.1) } ]],
      }
      server:holder()
      local report = server:wrk({ seconds = SECONDS, script = FRESH }).finish()
      assert.is_nil(report:find("Non-2xx", 1, true), report)
      assert.is_nil(report:find("Socket errors", 1, true), report)
      local lines = assert_exact(server)
      assert.is_true(lines > 1000)
      local folded = 0
      for key, value in pairs((server:scrape())) do
        if key:find "^http_requests_total" and not key:find 'uri="/' then folded = folded + value end
      end
      assert.is_true(folded > 0)
      tell("%s: %d requests counted, %d of them in the overflow series", limit, lines, folded)
      assert.equal("true\n", server:get("/flush").body)
      local complaints = server:complaints()
      assert.equal(1, select(2, complaints:gsub("http.requests: a limit", "")), complaints)
      assert.equal(1, select(2, complaints:gsub("http.time: a limit", "")), complaints)
      for line in complaints:gmatch "[^\n]+" do
        assert.is_truthy(line:find("a limit sent", 1, true), line)
      end
    end)
  end
end)
