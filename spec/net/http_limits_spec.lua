--- Limits of the HTTP server. If this file fails, a slow or hostile peer takes memory or descriptors of the
--- application, or keeps others from being answered.

local uv = require "luv"
local support = require "support.http_client"
local wire = require "chalk.net.http_response"

local wait, clock, limit_descriptors = support.wait, support.clock, support.limit_descriptors

describe("http, with slow, greedy and vanishing peers,", function()
  local bed

  before_each(function() bed = support.fixture() end)

  after_each(function() bed:close() end)

  it("holds about one chunk in memory for a slow reader, and serves others in the meantime", function()
    local path = os.tmpname()
    os.remove(path)
    bed:serve { address = "unix://" .. path }
    local pulled, chunk = 0, ("x"):rep(65536)
    bed.handler = function(request)
      if request.path == "/quick" then return wire.text(200, "quick") end
      return {
        body = function()
          pulled = pulled + 1
          return pulled <= 2000 and chunk or nil
        end,
      }
    end
    local slow = bed:connect(path):send "GET / HTTP/1.1\r\n\r\n"
    assert.is_true(wait(function() return pulled > 1 end))
    local before
    for _ = 1, 50 do
      before = pulled
      assert.equal("quick\n", bed:open(path):get("/quick").body)
    end
    assert.equal(before, pulled)
    assert.is_true(pulled < 20, pulled .. " chunks were made for a reader that reads nothing")
    slow.handle:read_start(function(_, data) slow.bytes = (slow.bytes or 0) + #(data or "") end)
    assert.is_true(wait(function() return (slow.bytes or 0) > 2000 * 65536 end, 30))
  end)

  it("makes one chunk per iteration, so that a short request does not wait for a long body", function()
    bed:serve()
    local pulled = 0
    bed.handler = function(request)
      if request.path == "/quick" then return wire.text(200, tostring(pulled)) end
      return {
        body = function()
          pulled = pulled + 1
          return pulled <= 100000 and "x" or nil
        end,
      }
    end
    local long, quick = bed:open(), bed:open()
    long:send "GET / HTTP/1.1\r\n\r\n"
    assert.is_true(wait(function() return pulled > 0 end))
    assert.is_true(tonumber(quick:get("/quick").body) < 100000)
  end)

  it("frees everything when a client disconnects in the middle of a body", function()
    bed:serve()
    local ends, held = 0, setmetatable({}, { __mode = "k" })
    bed.handler = function()
      local snapshot = {}
      held[snapshot] = true
      return {
        gzip = true,
        body = function() return snapshot and tostring(math.random()):rep(3000) end,
        done = function(complete) ends = ends + (complete and 0 or 1) end,
      }
    end
    for n = 1, 20 do
      local client = bed:open():send "GET / HTTP/1.1\r\nAccept-Encoding: gzip\r\n\r\n"
      assert.is_true(wait(function() return #client:received() > 100000 end))
      if n % 2 == 0 then
        client.handle:close_reset()
        client.closed = true
      else
        client:close()
      end
    end
    assert.is_true(wait(function() return bed.server.count == 0 and ends == 20 end))
    assert.is_true(
      wait(function()
        jit.flush() -- traces keep functions they were compiled for
        collectgarbage()
        return next(held) == nil
      end),
      "a response is held that nobody reads"
    )
    assert.equal(0, #bed.logged)
  end)

  it("answers a good request among 1,000 connections of garbage and endless headers", function()
    local before = limit_descriptors(4096)
    finally(function() limit_descriptors(before) end)
    bed:serve()
    for n = 1, 1000 do
      local client = bed:connect()
      client:send(n % 2 == 0 and "\0\255garbage\r\n\r\n" or "GET / HTTP/1.1\r\nX: endless"):listen()
    end
    local good, most = bed:connect():send("GET /metrics HTTP/1.1\r\n\r\n"):listen(), 0
    local noise = uv.new_timer()
    noise:start(1, 1, function()
      most = math.max(most, bed.server.count)
      for n = 1, 1000, 2 do
        local client = bed.clients[n]
        if client.connected and not client.ended then client:send "x" end
      end
    end)
    assert.equal("GET", good:response().body)
    assert.equal("GET", bed:open():get("/metrics").body)
    noise:close()
    assert.is_true(most <= 256)
  end)

  it("closes the connection that has waited longest when it is full, but none that is being answered", function()
    bed:serve { limits = { connections = 3 } }
    bed.handler = function()
      return { body = function() return ("x"):rep(65536) end }
    end
    local answered = bed:connect():send "GET / HTTP/1.1\r\n\r\n"
    assert.is_true(wait(function() return bed.server.count == 1 end))
    local waiting = {}
    for n = 1, 4 do
      waiting[n] = bed:open():send "GET /"
      assert.is_true(
        wait(function() return n <= 2 and bed.server.count == n + 1 or n > 2 and waiting[n - 2].ended end)
      )
    end
    assert.is_true(waiting[1].ended and waiting[2].ended)
    assert.is_nil(waiting[3].ended or waiting[4].ended or answered.ended)
    waiting[3]:send(" HTTP/1.1\r\n\r\n").handle:read_stop()
    waiting[4]:send(" HTTP/1.1\r\n\r\n").handle:read_stop()
    assert.is_true(
      wait(function()
        local late = bed:open()
        return wait(function() return late.ended end, 0.2)
      end),
      "a new connection replaced one that is being answered"
    )
    assert.equal(3, bed.server.count)
  end)

  it("closes connections that send no complete head, stay idle or read nothing for too long", function()
    bed:serve { limits = { header_timeout = 0.1, idle_timeout = 0.3, request_timeout = 0.2 } }
    local started, taken = clock(), {}
    bed.handler = function(request)
      local endless = { body = function() return ("x"):rep(65536) end }
      return request.path == "/long" and endless or wire.text(200, "x")
    end
    local cases =
      { silent = bed:open(), partial = bed:open():send "GET /", idle = bed:open(), stuck = bed:connect() }
    cases.stuck:send "GET /long HTTP/1.1\r\n\r\n"
    local drip = uv.new_timer()
    drip:start(10, 10, function() cases.partial:send "x" end)
    cases.idle:get "/"
    for _, name in ipairs { "silent", "partial", "idle" } do
      assert.is_true(wait(function() return cases[name].ended end), name)
      taken[name] = clock() - started
    end
    drip:close()
    assert.is_true(taken.silent >= 0.09 and taken.idle >= 0.29)
    assert.is_true(wait(function() return bed.server.count == 0 end))
  end)

  it("pauses when descriptors run out, instead of spinning, and recovers", function()
    bed:serve()
    local client = bed:connect():send "GET /metrics HTTP/1.1\r\n\r\n"
    local before = limit_descriptors(3)
    local cpu, ended = os.clock(), clock() + 0.5
    pcall(wait, function() return clock() > ended end)
    limit_descriptors(before)
    assert.is_true(os.clock() - cpu < 0.25, "the loop spun")
    assert.equal(1, #bed.logged)
    assert.truthy(bed.logged[1]:find "^warning .*EMFILE")
    assert.equal("GET", client:listen():response().body)
  end)
end)
