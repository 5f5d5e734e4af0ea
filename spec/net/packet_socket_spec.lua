--- The client socket for packets. If this file fails, packets to a receiver that is replaced, slow or full are lost
--- without notice, or the flush loop waits for a receiver.

local uv = require "luv"
local receivers = require "support.receivers"
local sockets = require "chalk.net.packet_socket"

local run, start, join, turn_until = receivers.run, receivers.start, receivers.join, receivers.turn_until

-- Sends packets as a flush does. Returns how many are known to have arrived, and the message if one has not.
local function flush(socket, packets, blocking)
  local good = 0
  local ok, message = socket:open(blocking)
  for i, packet in ipairs(ok and packets or {}) do
    ok, message = socket:confirm()
    if not ok then return good, message end
    good = i - 1
    ok, message = socket:send(packet)
    if not ok then return good, message end
  end
  if not ok then return good, message end
  ok, message = socket:finish()
  return ok and #packets or good, message
end

local function numbered(n, size)
  local list = {}
  for i = 1, n do
    list[i] = ("packet %d"):format(i)
    if size then list[i] = list[i] .. ("."):rep(size - #list[i]) end
  end
  return list
end

local function ticks()
  local timer, task = uv.new_timer(), { n = 0 }
  timer:start(1, 1, function() task.n = task.n + 1 end)
  function task.stop() timer:close() end
  return task
end

describe("a packet socket", function()
  local open, path

  local function keep(closable)
    open[#open + 1] = closable
    return closable
  end

  local function socket_to(kind, options, port, host)
    return keep(sockets.new({ kind = kind, host = host or "127.0.0.1", port = port, path = path }, options))
  end

  before_each(function()
    open = {}
    path = os.tmpname()
    os.remove(path)
  end)

  after_each(function()
    for _, closable in ipairs(open) do
      closable:close()
    end
    uv.run "nowait"
    os.remove(path)
  end)

  describe("over UDP", function()
    it("delivers packets and counts them", function()
      local receiver = keep(receivers.udp())
      local socket = socket_to("udp", nil, receiver.port)
      local sent = numbered(20)
      assert.equal(20, run(function() return flush(socket, sent) end))
      assert.same(sent, receiver:packets())
      assert.equal(20, socket.packets_sent)
      assert.equal(#table.concat(sent), socket.bytes_sent)
      assert.equal(0, socket.packets_dropped)
    end)

    it("speaks IPv6", function()
      local receiver = keep(receivers.udp "::1")
      local socket = socket_to("udp", nil, receiver.port, "::1")
      assert.equal(3, run(function() return flush(socket, numbered(3)) end))
      assert.same(numbered(3), receiver:packets())
    end)

    it("knows exactly which packets were refused, in every flush", function()
      local receiver = receivers.udp()
      local port = receiver.port
      local socket = socket_to("udp", nil, port)
      assert.equal(5, run(function() return flush(socket, numbered(5)) end))
      receiver:close()
      for n = 1, 10 do
        local good, message = run(function() return flush(socket, numbered(4)) end)
        assert.equal(0, good)
        assert.equal(("cannot send to 127.0.0.1:%d: Connection refused"):format(port), message)
        assert.equal(n, socket.packets_dropped)
      end
      receiver = keep(receivers.udp(nil, port))
      assert.equal(4, run(function() return flush(socket, numbered(4)) end))
      assert.same(numbered(4), receiver:packets())
      assert.equal(9, socket.packets_sent)
    end)

    it("counts the same packets as a receiver that goes away and comes back many times", function()
      local receiver = receivers.udp()
      local port, arrived, confirmed = receiver.port, 0, 0
      local socket = socket_to("udp", nil, port)
      for n = 1, 60 do
        local is_up = n % 3 > 0
        if is_up and not receiver then receiver = receivers.udp(nil, port) end
        confirmed = confirmed + run(function() return flush(socket, numbered(n % 4 + 1)) end)
        if receiver then arrived = arrived + #receiver:packets() end
        if receiver and n % 3 == 2 then
          receiver:close()
          receiver = nil
        end
      end
      assert.is_true(confirmed > 30)
      assert.equal(confirmed, arrived)
      assert.equal(confirmed, socket.packets_sent)
    end)

    it("tries the next address of a name in the same flush", function()
      local receiver = keep(receivers.udp "127.0.0.1")
      local function lookup(_, done) done(nil, { { addr = "::1" }, { addr = "127.0.0.1" } }) end
      local socket = socket_to("udp", { lookup = lookup }, receiver.port, "both.test")
      assert.equal(3, run(function() return flush(socket, numbered(3)) end))
      assert.same(numbered(3), receiver:packets())
      assert.equal(3, run(function() return flush(socket, numbered(3)) end))
      assert.equal(1, socket.reconnects)
    end)

    it("resolves a real name", function()
      local receiver = keep(receivers.udp "127.0.0.1")
      local socket = socket_to("udp", nil, receiver.port, "localhost")
      assert.equal(2, run(function() return flush(socket, numbered(2)) end))
      assert.equal(2, run(function() return flush(socket, numbered(2), true) end))
    end)

    it("fails for a name that does not resolve, and tries it again later", function()
      local receiver = keep(receivers.udp())
      local now, asked, answer = 0, 0, nil
      local function lookup(_, done)
        asked = asked + 1
        local timer = uv.new_timer()
        timer:start(1, 0, function()
          timer:close()
          done(not answer and "EAI_AGAIN" or nil, answer)
        end)
      end
      local options = { lookup = lookup, clock = function() return now end }
      local socket = socket_to("udp", options, receiver.port, "later.test")
      local function once() return flush(socket, numbered(1)) end
      assert.same({ 0, "later.test does not resolve: EAI_AGAIN" }, { run(once) })
      assert.is_false(socket:ready())
      run(once)
      assert.equal(1, asked)
      now, answer = 1, { { addr = "127.0.0.1" } }
      assert.is_true(socket:ready())
      assert.equal(1, run(once))
      now = 30
      assert.equal(1, run(once))
      assert.equal(2, asked)
      now, answer = 100, nil
      assert.equal(1, run(once), "what it was before is still good")
      assert.equal(3, asked)
    end)

    it("does not wait long for a slow lookup, and uses its result later", function()
      local receiver = keep(receivers.udp())
      local answer
      local function lookup(_, done) answer = done end
      local socket = socket_to("udp", { lookup = lookup }, receiver.port, "slow.test")
      local good, message = run(function() return flush(socket, numbered(1)) end)
      assert.equal(0, good)
      assert.equal("slow.test did not resolve within 2 s", message)
      answer(nil, { { addr = "127.0.0.1" } })
      assert.equal(1, run(function() return flush(socket, numbered(1)) end))
    end)

    it("reports a real name that does not resolve", function()
      local socket = socket_to("udp", nil, 8125, "no-such-host.invalid")
      for _, blocking in ipairs { false, true } do
        local good, message = run(function() return flush(socket, numbered(1), blocking) end)
        assert.equal(0, good)
        assert.truthy(message:find "no%-such%-host%.invalid d", message)
      end
    end)
  end)

  describe("over a datagram socket", function()
    it("fails while there is no file, and delivers when there is one", function()
      local socket = socket_to "unixgram"
      for _ = 1, 3 do
        local good, message = run(function() return flush(socket, numbered(2)) end)
        assert.equal(0, good)
        assert.equal(("cannot connect to unixgram://%s: No such file or directory"):format(path), message)
      end
      local receiver = keep(receivers.unixgram(path))
      assert.equal(2, run(function() return flush(socket, numbered(2)) end))
      assert.same(numbered(2), receiver:packets())
    end)

    it("follows a socket file that is replaced, although the old receiver still lives", function()
      local socket, old = socket_to "unixgram", keep(receivers.unixgram(path))
      assert.equal(2, run(function() return flush(socket, numbered(2)) end))
      assert.equal(2, #old:packets())
      os.remove(path)
      assert.equal(0, run(function() return flush(socket, numbered(2)) end))
      local new = keep(receivers.unixgram(path))
      assert.equal(2, run(function() return flush(socket, numbered(2)) end))
      assert.same({ {}, numbered(2) }, { old:packets(), new:packets() })
      assert.equal(1, socket.reconnects)
    end)

    it("goes on with a receiver that is replaced in the middle of a flush", function()
      local socket, old = socket_to "unixgram", receivers.unixgram(path)
      local new
      run(function()
        assert(socket:open())
        assert(socket:send "one" and socket:confirm())
        assert.same({ "one" }, old:packets())
        old:close()
        os.remove(path)
        new = keep(receivers.unixgram(path))
        assert(socket:send "two" and socket:finish())
      end)
      assert.same({ "two" }, new:packets())
      assert.same({ 2, 0 }, { socket.packets_sent, socket.packets_dropped })
    end)

    it("fails at once if the receiver is gone and its file remains", function()
      local socket, receiver = socket_to "unixgram", receivers.unixgram(path)
      assert.equal(1, run(function() return flush(socket, numbered(1)) end))
      receiver:close()
      local good, message = run(function() return flush(socket, numbered(3)) end)
      assert.same({ 0, ("cannot connect to unixgram://%s: Connection refused"):format(path) }, { good, message })
      assert.equal(1, socket.packets_dropped)
    end)

    for _, blocking in ipairs { false, true } do
      local how = blocking and "blocks" or "lets the loop run"
      it(how .. " while the receiver's queue is full, and fails after write_timeout", function()
        local socket = socket_to("unixgram", { write_timeout = 0.15 })
        local receiver = keep(receivers.unixgram(path))
        local others, began = ticks(), receivers.clock()
        local sent = numbered(2000, 8192)
        local good, message = run(function() return flush(socket, sent, blocking) end)
        others.stop()
        assert.is_true(good > 0 and good < 2000)
        assert.equal(("cannot send to unixgram://%s: nothing was read for 0.15 s"):format(path), message)
        assert.is_true(receivers.clock() - began >= 0.15)
        assert.is_true(blocking and others.n < 10 or not blocking and others.n > 10)
        assert.equal(good, #receiver:packets())
        assert.equal(good, socket.packets_sent)
      end)
    end

    it("goes on as soon as a full queue is read", function()
      local socket = socket_to("unixgram", { write_timeout = 10 })
      local receiver = keep(receivers.unixgram(path))
      local sent, got = numbered(1000, 500), {}
      local task = start(function() return flush(socket, sent) end)
      assert.falsy(task.done)
      turn_until(function()
        for _, packet in ipairs(receiver:packets()) do
          got[#got + 1] = packet
        end
        return #got == #sent
      end)
      assert.equal(1000, join(task))
      assert.same(sent, got)
    end)

    it("notices that the receiver dies while its queue is full", function()
      local socket = socket_to("unixgram", { write_timeout = 30 })
      local receiver = receivers.unixgram(path)
      local task = start(function() return flush(socket, numbered(1000, 500)) end)
      assert.falsy(task.done)
      receiver:close()
      local _, message = join(task)
      assert.truthy(message:find("Connection refused", 1, true), message)
    end)

    it("refuses a packet that is too large, and sends the others", function()
      local socket = socket_to("unixgram", { max_packet = 100 })
      local receiver = keep(receivers.unixgram(path))
      run(function()
        assert(socket:open())
        local ok, message, too_large = socket:send(("x"):rep(101))
        assert.same({ nil, true }, { ok, too_large })
        assert.truthy(message:find("Message too long", 1, true))
        assert(socket:send(("x"):rep(100)) and socket:finish())
      end)
      assert.same({ ("x"):rep(100) }, receiver:packets())
      assert.same({ 1, 101 }, { socket.packets_dropped, socket.bytes_dropped })
    end)

    it("reports why it can never connect to a path", function()
      path = "/" .. ("p"):rep(108)
      local _, message = socket_to("unixgram"):open()
      assert.truthy(message:find("the path is longer than 107 bytes", 1, true))
      path = "/tmp"
      _, message = socket_to("unixgram"):open()
      assert.equal("cannot connect to unixgram:///tmp: Connection refused", message)
    end)
  end)

  describe("over a stream socket", function()
    it("writes the size of each packet before it", function()
      local socket, receiver = socket_to "unixstream", keep(receivers.unixstream(path))
      assert.equal(2, run(function() return flush(socket, { "abc", ("d"):rep(300) }) end))
      assert.is_true(receiver:accept())
      assert.equal("\3\0\0\0abc\44\1\0\0" .. ("d"):rep(300), receiver:read())
    end)

    it("keeps packets whole for a slow reader", function()
      local socket = socket_to("unixstream", { write_timeout = 10 })
      local receiver = keep(receivers.unixstream(path))
      local sent, got = numbered(400, 8192), {}
      local task = start(function() return flush(socket, sent) end)
      assert.is_true(receiver:accept())
      assert.falsy(task.done)
      turn_until(function()
        receiver.text = receiver.text .. (receiver:read() or "")
        if #receiver.text < 50000 and not task.done then return end
        for _, packet in ipairs(receiver:packets()) do
          got[#got + 1] = packet
        end
        return #got == #sent
      end)
      assert.equal(400, join(task))
      assert.same(sent, got)
    end)

    it("closes the connection if it gives up in the middle of a packet, and opens a new one", function()
      local socket = socket_to("unixstream", { write_timeout = 0.1, max_packet = 1000000 })
      local receiver = keep(receivers.unixstream(path))
      local sent = numbered(3, 900000)
      local good, message = run(function() return flush(socket, sent) end)
      assert.equal(0, good)
      assert.truthy(message:find("nothing was read for 0.1 s", 1, true))
      assert.is_true(receiver:accept())
      assert.same({}, receiver:packets())
      assert.is_true(#receiver.text > 0, "part of a packet came, and then the end")
      assert.equal("", receiver:read())
      assert.equal(1, run(function() return flush(socket, { "again" }) end))
      assert.is_true(receiver:accept())
      assert.same({ "again" }, receiver:packets())
      assert.same({ 1, 1 }, { socket.packets_dropped, socket.reconnects })
    end)

    it("closes the connection of an export that never ended, if it stopped in the middle of a packet", function()
      local socket = socket_to("unixstream", { write_timeout = 30, max_packet = 1000000 })
      local receiver = keep(receivers.unixstream(path))
      local task = start(function() return flush(socket, numbered(1, 900000)) end)
      assert.falsy(task.done)
      assert.is_true(receiver:accept())
      socket.pause:cancel() -- as at the end of a VM, when nothing resumes the coroutine
      assert.equal(1, run(function() return flush(socket, { "again" }) end))
      assert.is_true(receiver:accept())
      assert.same({ "again" }, receiver:packets())
    end)

    it("loses nothing if a receiver hangs up between two flushes, or during one", function()
      local socket, receiver = socket_to "unixstream", keep(receivers.unixstream(path))
      assert.equal(1, run(function() return flush(socket, { "one" }) end))
      assert.is_true(receiver:accept())
      assert.same({ "one" }, receiver:packets())
      receiver:hang_up()
      run(function()
        assert(socket:open())
        assert(socket:send "two" and socket:confirm())
        assert.is_true(receiver:accept())
        assert.same({ "two" }, receiver:packets())
        receiver:hang_up()
        assert(socket:send "three" and socket:finish())
      end)
      assert.is_true(receiver:accept())
      assert.same({ "three" }, receiver:packets())
      assert.same({ 3, 0, 2 }, { socket.packets_sent, socket.packets_dropped, socket.reconnects })
    end)

    it("fails when the receiver dies while its buffer is full", function()
      local socket = socket_to("unixstream", { write_timeout = 30, max_packet = 1000000 })
      local receiver = receivers.unixstream(path)
      local task = start(function() return flush(socket, numbered(2, 900000)) end)
      assert.falsy(task.done)
      receiver:close()
      local good, message = join(task)
      assert.equal(0, good)
      assert.truthy(message:find("Broken pipe", 1, true) or message:find("reset", 1, true), message)
    end)

    it("waits for a listener whose backlog is full, and fails after write_timeout", function()
      local receiver = keep(receivers.unixstream(path, 0))
      local first = socket_to "unixstream"
      assert(first:open())
      local second = socket_to("unixstream", { write_timeout = 0.05 })
      local _, message = run(function() return second:open() end)
      assert.truthy(message:find("nothing was read for 0.05 s", 1, true), message)
      second.write_timeout = 10
      local task = start(function() return flush(second, { "hello" }) end)
      assert.falsy(task.done)
      assert.is_true(receiver:accept())
      assert.equal(1, join(task))
    end)
  end)

  it("finds out whether a path takes datagrams or a stream, and again when it is replaced", function()
    local socket = socket_to "unix"
    local receiver = receivers.unixgram(path)
    assert.equal(1, run(function() return flush(socket, { "gram" }) end))
    assert.same({ "gram" }, receiver:packets())
    receiver:close()
    os.remove(path)
    receiver = receivers.unixstream(path)
    assert.equal(1, run(function() return flush(socket, { "stream" }) end))
    assert.is_true(receiver:accept())
    assert.same({ "stream" }, receiver:packets())
    receiver:close()
    os.remove(path)
    receiver = keep(receivers.unixgram(path))
    assert.equal(1, run(function() return flush(socket, { "gram" }) end))
    assert.same({ "gram" }, receiver:packets())
    local _, message = sockets.new({ kind = "unixstream", path = path }):open()
    assert.truthy(message:find("wrong type", 1, true), message)
  end)

  it("tries again after a pause that doubles, up to a limit, and at once after a success", function()
    local now = 0
    local socket = socket_to("unixgram", { clock = function() return now end, max_backoff = 1 })
    local pauses = {}
    for n = 1, 6 do
      assert.is_nil(socket:open())
      local failed = now
      repeat
        now = now + 0.01
      until socket:ready()
      pauses[n] = ("%.1f"):format(now - failed)
    end
    assert.same({ "0.1", "0.2", "0.4", "0.8", "0.9", "0.9" }, pauses)
    keep(receivers.unixgram(path))
    assert.equal(1, run(function() return flush(socket, { "x" }) end))
    assert.is_true(socket:ready())
  end)

  it("sends packets from a buffer or a string, without a coroutine or a loop", function()
    local ffi = require "ffi"
    local receiver = keep(receivers.unixgram(path))
    local socket = socket_to "unixgram"
    local buffer = ffi.new("char[16]", "from a buffer")
    assert(socket:open())
    assert(socket:send(buffer, 6) and socket:confirm())
    assert(socket:send "from a string" and socket:finish())
    assert.same({ "from a", "from a string" }, receiver:packets())
  end)

  it("can be closed while an export waits, and leaves nothing open in the loop", function()
    local socket = socket_to("unixgram", { write_timeout = 30 })
    keep(receivers.unixgram(path))
    local task = start(function() return flush(socket, numbered(1000, 500)) end)
    assert.falsy(task.done)
    socket:close()
    uv.run "nowait"
    uv.walk(function(handle) assert.not_equal("poll", uv.handle_get_type(handle)) end)
    assert.falsy(task.done)
  end)
end)
