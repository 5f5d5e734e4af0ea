--- Hostile peers send endless different tag values, and open connections that never send a proper request. A service
--- must keep its limits of memory and descriptors, and still answer good scrapes quickly. CHALK_FLOOD sets the number
--- of batches of 100,000 tag values (5).

package.path = "spec/?.lua;" .. package.path

local chalk = require "chalk"
local children = require "support.children"
local collect = require "support.collect"
local core = require "chalk.core"
local descriptors = require "support.descriptors"
local files = require "support.files"
local log = require "chalk.base.log"
local ports = require "support.ports"

local SECONDS = tonumber(os.getenv "CHALK_FLOOD" or "5")
local EACH = 100000
local SANITIZED = (os.getenv "LD_PRELOAD" or ""):find "san" ~= nil

local TAGGED = { tags = { { tag = "t" } } }

-- Tag values as an attacker sends them: all are different, and all have characters that do harm if they are not
-- escaped.
local KINDS = {
  function(i) return 'x"} 1\nforged_total{t="' .. i end,
  function(i) return "\255\254" .. i .. "\0\27[31m" end,
  function(i) return ("long "):rep(40) .. i end,
  function(i) return "\\n\r\n# HELP " .. i end,
}
local function hostile(i) return KINDS[i % #KINDS + 1](i) end

describe("a flood", function()
  after_each(files.clean)

  describe("of tag values", function()
    local write = log.write
    local said

    before_each(function()
      said = {}
      log.write = function(_, message) said[#said + 1] = message end
    end)

    after_each(function() log.write = write end)

    local function kilobytes()
      collectgarbage()
      collectgarbage()
      return collectgarbage "count"
    end

    local function resident() return tonumber(files.read("/proc/self/status"):match "VmRSS:%s*(%d+)") end

    local function seconds_of(metric, from, n)
      local started = core.C.chalk_now()
      for i = from, from + n - 1 do
        metric:with(hostile(i)):inc()
      end
      return core.C.chalk_now() - started
    end

    it("takes no more memory of the VM or the segment, and logs one warning for each metric and flush", function()
      local client = chalk.new {
        max_series = 1000,
        driver = "manual",
        exporters = { { export = function() return true end } },
      }
      local count, gauge = client:count("c", TAGGED), client:gauge("g", TAGGED)
      local latency = client:histogram("h", TAGGED)
      local sent = 0
      local function flood()
        for i = sent + 1, sent + EACH do
          local value = hostile(i)
          if i % 10 == 0 then
            latency:with(value):record(i)
          elseif i % 10 == 1 then
            gauge({ t = value }):set(i)
          else
            count:with(value):inc()
          end
        end
        sent = sent + EACH
      end
      flood()
      client:flush()
      local lua, memory, process = kilobytes(), client:info().memory, resident()
      for _ = 1, SECONDS do
        said = {}
        flood()
        assert(client:flush())
        table.sort(said)
        assert.equal(3, #said, table.concat(said, "\n"))
        for i, name in ipairs { "c", "g", "h" } do
          assert.matches("^" .. name .. ": a limit sent %d+ lookups to its overflow series$", said[i])
        end
      end
      assert.equal(memory, client:info().memory)
      local kept = kilobytes() - lua
      assert.is_true(kept < 300, kept .. " KiB more in the VM")
      local grown = resident() - process
      assert.is_true(SANITIZED or grown < 16384, grown .. " KiB more in the process")
      assert.equal(1000, client:info().series)
      local all = 0
      for id, value in pairs(collect.samples(client:text())) do
        if id:find "^c_total{" then all = all + value end
      end
      assert.equal(sent * 8 / 10, all)
    end)

    it("takes at most three times as long for a folded lookup as for a new series", function()
      local n, news, folds = 10000, {}, {}
      for round = 1, 5 do
        local free = chalk.new({ max_series = 1000000 }):count("c", TAGGED)
        local full = chalk.new({ max_series = 1000 }):count("c", TAGGED)
        seconds_of(full, 1, 1000)
        collectgarbage()
        news[round] = seconds_of(free, 1, n)
        collectgarbage()
        folds[round] = seconds_of(full, 1001, n)
      end
      table.sort(news)
      table.sort(folds)
      local times = folds[3] / news[3] -- about 0.5
      assert.is_true(times < 3, ("folded lookups cost %.1f times a new series"):format(times))
    end)
  end)

  describe("of connections", function()
    local SERVICE = [[
      local chalk = require "chalk"
      local fork = require "support.fork"
      local jobs = chalk.count("jobs", { tags = { { tag = "t" } } })
      for i = 1, 1000 do jobs:with(i):inc() end
      local http = require "support.http_client"
      http.limit_descriptors(600)
      chalk.init { flush_interval = 0.5, exporters = { chalk.exporter.prometheus { listen = arg[1] } } }
      io.write(fork.pid(), "\n")
      io.flush()
      while not io.open(arg[2]) do
        jobs:with(1):inc()
        require("support.wait").sleep(0.001)
      end
      os.exit(0)
    ]]

    local http = require "support.http_client"
    local uv = require "luv"

    local function status(pid, field)
      return tonumber(files.read(("/proc/%d/status"):format(pid)):match(field .. ":%s*(%d+)"))
    end

    it("leaves good scrapes quick, and memory and descriptors within limits", function()
      local before = http.limit_descriptors(4096)
      local port, stop = ports.tcp(), files.name()
      local service = children.start(SERVICE, {}, "127.0.0.1:" .. port, stop)
      require("chalk.net.http_socket").survive_sigpipe() -- this process writes to connections that are closed
      local bed = http.fixture()
      bed.server = { port = port, close = function() end, count = 0 }
      finally(function()
        files.make_at(stop)
        bed:close()
        http.limit_descriptors(before)
        service.finish()
      end)
      local function scrape()
        local started = http.clock()
        local client = bed:connect():send("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"):listen()
        local answer = client:response()
        local took = http.clock() - started
        client:close()
        assert.equal(200, answer.status)
        assert.matches('\njobs_total{t="1000"} 1\n', answer.body)
        return took
      end
      for _ = 1, 20 do
        scrape()
      end
      local resident = status(service.pid, "VmRSS")
      -- A third of the connections sends nothing, a third never ends its request's head, and a third sends garbage.
      -- Some send requests and never read the answers.
      local bad = {}
      for n = 1, 1000 do
        bad[n] = bed:connect()
        if n % 3 == 1 then bad[n]:send "GET /metrics HTTP/1.1\r\nX: endless" end
        if n % 3 == 2 then bad[n]:send "\0\255\r\n\r\ngarbage\r\n\r\n" end
        if n % 50 == 0 then bad[n]:send(("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"):rep(20)) end
      end
      local noise = uv.new_timer()
      noise:start(20, 20, function()
        for n = 1, 1000, 7 do
          if
            bad[n].connected
            and not bad[n].handle:is_closing()
            and bad[n].handle:get_write_queue_size() < 1000
          then
            bad[n].handle:write("x", function() end)
          end
        end
      end)
      local times, most_fds, most_rss = {}, 0, 0
      for n = 1, 60 do
        times[n] = scrape()
        most_fds = math.max(most_fds, descriptors.count(service.pid))
        most_rss = math.max(most_rss, status(service.pid, "VmRSS"))
      end
      noise:close()
      table.sort(times)
      -- On an idle machine a scrape takes some milliseconds.
      assert.is_true(times[30] < 1, ("half of the scrapes took more than %.0f ms"):format(times[30] * 1000))
      assert.is_true(times[60] < 8, ("a scrape took %.1f s"):format(times[60]))
      assert.is_true(most_fds < 300, most_fds .. " descriptors")
      assert.is_true(SANITIZED or most_rss - resident < 32768, most_rss - resident .. " KiB more")
    end)
  end)
end)
