--- Many scrapes at once take the memory of one, and a scrape that comes alone sees everything recorded before it.

package.path = "spec/?.lua;" .. package.path

local uv = require "luv"
local chalk = require "chalk"
local files = require "support.files"
local nginx = require "support.nginx"
local request = require "support.request"
local view = require "chalk.read.view"
local wait = require "support.wait"

describe("views for scrapes", function()
  local client, taken, now, take

  before_each(function()
    client, taken, now = chalk.new(), 0, 100
    client:count("requests"):inc()
    take = view.sharing(function()
      taken = taken + 1
      return view.take(client.segment)
    end, function() return now end)
  end)

  it("are shared by scrapes that begin within a second of one that is still being read", function()
    local first, second = take(), take()
    now = now + 0.9
    local third = take()
    assert.equal(1, taken)
    now = now + 0.2
    local late = take()
    assert.equal(2, taken)
    view.free(first)
    view.free(second)
    assert.is_truthy(third.snapshot)
    view.free(third)
    assert.is_nil(third.snapshot)
    assert.is_truthy(late.snapshot)
    view.free(late)
  end)

  it("are new if no other scrape is being read", function()
    view.free(take())
    view.free(take())
    assert.equal(2, taken)
  end)

  it("are at most 8, however many scrapes read slowly", function()
    local slow = {}
    for i = 1, 8 do
      slow[i], now = assert(take()), now + 2
    end
    local none, message = take()
    assert.is_nil(none)
    assert.truthy(message:find("too many scrapes", 1, true))
    view.free(slow[3])
    assert.is_truthy(take())
  end)

  it("that nobody freed are freed by the collector", function()
    for _ = 1, 20 do
      assert.is_truthy(take())
      now = now + 2
    end
  end)
end)

describe("scrapes that read slowly", function()
  local client, open

  after_each(function()
    for _, socket in ipairs(open) do
      socket:close()
    end
    client:shutdown()
    uv.run "nowait" -- a VM that ends over a closing handle crashes luv
  end)

  -- Sends a request and reads nothing of the answer.
  local function scrape(port)
    local socket, asked = uv.new_tcp(), false
    open[#open + 1] = socket
    socket:connect("127.0.0.1", port, function(problem)
      assert(not problem, problem)
      socket:write("GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n", function() asked = true end)
    end)
    while not asked do
      uv.run "once"
    end
  end

  local function resident() return tonumber(files.read("/proc/self/status"):match "RssAnon:%s+(%d+)") / 1024 end

  it("together take the memory of one snapshot", function()
    local SERIES, SCRAPES = 60000, 40 -- of 32 bytes each in a snapshot: 77 MB if each had its own
    local port = nginx.free_port()
    client = chalk.new()
    local requests = client:count("requests", { tags = { "path" } })
    for i = 1, SERIES do
      requests:with(("/%d/"):format(i) .. ("long"):rep(60)):inc() -- more than sockets have room for
    end
    assert(client:try_init { exporters = { chalk.exporter.prometheus { listen = "127.0.0.1:" .. port } } })
    wait.till(function() return request.get(port, { path = "/metrics" }) end, 20, "a scrape")
    collectgarbage()
    local before = resident()
    open = {}
    for _ = 1, SCRAPES do
      scrape(port)
    end
    request.turn(1)
    assert.is_true(resident() - before < 30, ("%g MiB more"):format(resident() - before))
  end)
end)
