--- examples/watch.lua prints an event stream line by line. If this file fails, it prints wrong lines, or ends with an
--- unexpected exit code or message.

local bytes = require "support.stream_bytes"
local examples = require "support.examples"
local files = require "support.files"
local stream_server = require "support.stream_server"
local uv = require "luv"

local child = examples.child

local METADATA = bytes.metadata { name = "jobs", type = "counter", unit = "count", description = "Jobs\ndone" }

local function metric(operation, value, labels)
  return bytes.metric {
    name = "jobs",
    seconds = 1700000000,
    nanos = 42000,
    operation = operation,
    value = value,
    labels = labels,
  }
end

describe("watch.lua", function()
  local server, watch

  before_each(function() server = stream_server.start(METADATA) end)

  after_each(function()
    if watch then watch:stop() end
    server:stop()
    watch = nil
    files.clean()
  end)

  local function start(address)
    local command = 'exec "$0" examples/watch.lua "$@" 2>&1'
    watch = child.spawn("/bin/sh", { "-c", command, uv.exepath(), address or server:address() })
  end

  local function shows(text)
    local shown = child.wait(function() return watch.output:find(text, 1, true) end, 10)
    assert(shown, text .. " is not in:\n" .. watch.output)
  end

  local function ends(code)
    assert.equal(code, watch:finish(10), watch.output)
    assert.equal(0, watch.signal)
  end

  -- Returns a line without its date, which depends on the time zone.
  local function lines_shown()
    local found = {}
    for line in watch.output:gmatch "([^\n]*)\n" do
      found[#found + 1] = line:gsub("^%d%d:%d%d:%d%d", "T")
    end
    return found
  end

  it("prints metadata and every kind of record as it arrives, until the server ends", function()
    start()
    shows "# jobs counter, count: Jobs\\ndone\n"
    server:send(metric("increment_counter", 2 ^ 53, { { "z", "1" }, { "a", 'é"\27[2J\\' } }))
    shows "+ 9007199254740992\n"
    server:send(
      metric("set_counter", 7)
        .. metric("increment_gauge", 0.1)
        .. metric("decrement_gauge", 1 / 3)
        .. metric("set_gauge", -0.5)
        .. metric("record_histogram", 1e300)
    )
    server:send(bytes.frame(bytes.text(2, bytes.text(1, "new"))))
    shows "new"
    server:hang_up()
    ends(0)
    assert.same({
      "# jobs counter, count: Jobs\\ndone",
      'T.000042 jobs{a="é\\"\\x1b[2J\\\\",z="1"} + 9007199254740992',
      "T.000042 jobs = 7",
      "T.000042 jobs + 0.1",
      "T.000042 jobs - 0.33333333333333331",
      "T.000042 jobs = -0.5",
      "T.000042 jobs 1e+300",
      "--:--:--.------ new ?",
      "watch.lua: the server closed the connection",
    }, lines_shown())
  end)

  for _, signal in ipairs { "sigint", "sigterm" } do
    it("ends in the middle of a stream on " .. signal, function()
      start()
      shows "# jobs"
      watch.handle:kill(signal)
      ends(0)
    end)
  end

  it("fails with a message if nothing listens at the address", function()
    local other = stream_server.start()
    local address = other:address()
    other:stop()
    start(address)
    ends(1)
    assert.equal("watch.lua: cannot connect to " .. address .. ": ECONNREFUSED\n", watch.output)
  end)

  it("fails with a message if the bytes are not an event stream, or the last frame is incomplete", function()
    start()
    shows "# jobs"
    server:send("HTTP/1.1 200 OK\r\n" .. ("x"):rep(100))
    ends(1)
    assert.matches("event stream, frame at byte " .. #METADATA .. ": ", watch.output)
    start()
    shows "# jobs"
    server:send(METADATA:sub(1, -2))
    server:hang_up()
    ends(1)
    assert.matches("the connection ended within an event\n$", watch.output)
  end)

  it("fails with a message if the connection is reset", function()
    start()
    shows "# jobs"
    server:reset()
    ends(1)
    assert.matches("the connection to %S+ broke: ECONNRESET\n$", watch.output)
  end)

  it("ends quietly when its output is closed, as in `watch.lua | head`", function()
    local path = files.name()
    local command = '{ "$0" examples/watch.lua "$1"; echo "exit:$?" >"$2"; } 2>&1 | head -n 1'
    watch = child.spawn("/bin/sh", { "-c", command, uv.exepath(), server:address(), path })
    shows "# jobs"
    local ended = child.wait(function()
      server:send(metric("set_counter", 1))
      return files.read(path) ~= ""
    end, 10)
    assert.is_true(ended)
    assert.matches("^exit:0\n$", (files.read(path):gsub("141", "0"))) -- or by SIGPIPE, as any command
    ends(0)
    assert.equal("# jobs counter, count: Jobs\\ndone\n", watch.output)
  end)

  it("explains its arguments", function()
    for _, address in ipairs { "5000", ":5000", "host:", "127.0.0.1:65536", "[::1:5000" } do
      start(address)
      ends(2)
      assert.matches('^watch.lua: %b"" is not a HOST:PORT\nusage: ', watch.output)
    end
  end)
end)
