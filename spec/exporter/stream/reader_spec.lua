--- The reader of the event stream. If this file fails, a reader returns other events than were sent, depending on how
--- the bytes are split, or damaged bytes make it fail without an error message.

local bytes = require "support.stream_bytes"
local cjson = require "cjson"
local ffi = require "ffi"
local files = require "support.files"
local stream_reader = require "chalk.exporter.stream.reader"

local frame, text, whole, double, varint = bytes.frame, bytes.text, bytes.whole, bytes.double, bytes.varint

local function events_of(stream, reader)
  local list = {}
  for event in (reader or stream_reader.new()):feed(stream) do
    list[#list + 1] = event
  end
  return list
end

-- Returns the only event of a stream.
local function event_of(stream)
  local list = events_of(stream)
  assert.equal(1, #list)
  return list[1]
end

local function metric_with(...) return event_of(frame(text(2, table.concat { ... }))).metric end

local function unhex(digits)
  return (digits:gsub("%s", ""):gsub("%x%x", function(pair) return string.char(tonumber(pair, 16)) end))
end

local REQUESTS = { name = "requests", type = "counter", unit = "count", description = "Größe ✓" }

-- A stream with every kind of event, and with one whose length takes two bytes.
local FRAMES = {
  bytes.metadata(REQUESTS),
  bytes.metadata { name = "waiting", type = "gauge" },
  bytes.metadata { name = "took", type = "histogram", unit = "seconds", description = "" },
  bytes.metric {
    name = "requests",
    seconds = 1700000000,
    nanos = 999999999,
    operation = "increment_counter",
    value = 3,
    labels = { { "endpoint", "/a" }, { "status", ("ä"):rep(80) } },
  },
  bytes.metric { name = "requests", operation = "set_counter", value = 2 ^ 53 },
  bytes.metric { name = "waiting", operation = "increment_gauge", value = 0.1 },
  bytes.metric { name = "waiting", operation = "decrement_gauge", value = -1e300 },
  bytes.metric { name = "waiting", operation = "set_gauge", value = 0 },
  bytes.metric { name = "took", operation = "record_histogram", value = 5e-324 },
}
local STREAM = table.concat(FRAMES) .. frame ""

local function metric(name, operation, value)
  return { metric = { name = name, seconds = 0, nanos = 0, labels = {}, operation = operation, value = value } }
end

local EVENTS = {
  { metadata = REQUESTS },
  { metadata = { name = "waiting", type = "gauge" } },
  { metadata = { name = "took", type = "histogram", unit = "seconds", description = "" } },
  {
    metric = {
      name = "requests",
      seconds = 1700000000,
      nanos = 999999999,
      operation = "increment_counter",
      value = 3,
      labels = { endpoint = "/a", status = ("ä"):rep(80) },
    },
  },
  metric("requests", "set_counter", 2 ^ 53),
  metric("waiting", "increment_gauge", 0.1),
  metric("waiting", "decrement_gauge", -1e300),
  metric("waiting", "set_gauge", 0),
  metric("took", "record_histogram", 5e-324),
}

describe("the event stream's reader", function()
  after_each(files.clean)

  it("reads bytes that were written by hand", function()
    local stream = unhex [[
      11 0a0f 0a0161 1002 1a0173 22050a20c3a90d
      1e 121c 0a0161 1206 0880e2cfaa06 1a06 0a016b 120176 49 000000000000f83f
      05 1203 2080 01
    ]]
    assert.same({
      { metadata = { name = "a", type = "histogram", unit = "s", description = "\n é\r" } },
      {
        metric = {
          name = "a",
          seconds = 1700000000,
          nanos = 0,
          labels = { k = "v" },
          operation = "record_histogram",
          value = 1.5,
        },
      },
      { metric = { name = "", labels = {}, operation = "increment_counter", value = 128 } },
    }, events_of(stream))
  end)

  it("returns the same events, wherever the bytes are split", function()
    assert.same(EVENTS, events_of(STREAM))
    for cut = 0, #STREAM do
      local reader = stream_reader.new()
      local found = events_of(STREAM:sub(1, cut), reader)
      for _, event in ipairs(events_of(STREAM:sub(cut + 1), reader)) do
        found[#found + 1] = event
      end
      assert.same(EVENTS, found)
      assert.equal(0, reader:pending())
    end
  end)

  it("returns an event as soon as its last byte arrives, and counts the bytes that are left at the end", function()
    local reader, last = stream_reader.new(), bytes.metric { name = "a", operation = "set_gauge", value = 1 }
    for i = 1, #last - 1 do
      assert.same({}, events_of(last:sub(i, i), reader))
      assert.equal(i, reader:pending())
    end
    assert.equal(1, #events_of(last:sub(-1), reader))
    assert.equal(0, reader:pending())
  end)

  it("returns to the next loop the events that a loop left", function()
    local reader, count = stream_reader.new(), 0
    for _ in reader:feed(STREAM) do
      count = count + 1
      if count == 3 then break end
    end
    local rest = events_of(STREAM, reader)
    assert.equal(2 * #EVENTS - 3, #rest)
    assert.same(EVENTS[4], rest[1])
  end)

  it("reads whole numbers exactly up to 2^53, and above as the nearest double", function()
    for _, value in ipairs { 0, 1, 127, 128, 2 ^ 32, 2 ^ 49 - 1, 2 ^ 49, 2 ^ 53 - 1, 2 ^ 53 } do
      assert.equal(value, metric_with(whole(4, value)).value)
    end
    assert.equal(2 ^ 64, metric_with(whole(4, 0xffffffffffffffffULL)).value)
    assert.equal(2 ^ 53, metric_with(whole(4, 2 ^ 53 + 1ULL)).value)
    assert.equal(2 ^ 53 + 4, metric_with(whole(4, 2 ^ 53 + 3ULL)).value)
    assert.equal(1, metric_with(varint(4 * 8) .. "\129\128\0").value) -- longer than it need be
  end)

  it("reads any double", function()
    for _, value in ipairs { 0.1, -1 / 3, 1.7976931348623157e308, 2.2250738585072014e-308, math.huge, -math.huge } do
      assert.equal(value, metric_with(double(8, value)).value)
    end
    local nan, zero = metric_with(double(8, 0 / 0)).value, metric_with(double(9, -0.0)).value
    assert.is_true(nan ~= nan)
    assert.equal(-math.huge, 1 / zero)
  end)

  it("reads timestamps before 1970 and without fields", function()
    local before = metric_with(text(2, whole(1, -5LL) .. whole(2, -7LL)))
    assert.same({ -5, -7 }, { before.seconds, before.nanos })
    local zero = metric_with(text(2, ""))
    assert.same({ 0, 0 }, { zero.seconds, zero.nanos })
    assert.is_nil(metric_with("").seconds)
  end)

  it("distinguishes absent fields from empty ones", function()
    assert.same({ metadata = { name = "", type = "counter" } }, event_of(frame(text(1, ""))))
    local empty = event_of(frame(text(1, text(3, "") .. text(4, "")))).metadata
    assert.same({ name = "", type = "counter", unit = "", description = "" }, empty)
    assert.same({ [""] = "x", k = "" }, metric_with(text(3, text(2, "x")), text(3, text(1, "k"))).labels)
    assert.is_nil(metric_with(text(1, "a")).operation)
  end)

  it("merges messages that occur twice, and returns the last value of a label and the last operation", function()
    local twice =
      event_of(frame(text(2, text(1, "a") .. whole(4, 1)) .. text(2, text(1, "b") .. double(8, 2)))).metric
    assert.same({ name = "b", labels = {}, operation = "set_gauge", value = 2 }, twice)
    local other = event_of(frame(text(2, whole(4, 1)) .. text(1, text(1, "m"))))
    assert.same({ metadata = { name = "m", type = "counter" } }, other)
    local label = text(3, text(1, "k") .. text(2, "1")) .. text(3, text(1, "k") .. text(2, "2"))
    assert.same({ k = "2" }, metric_with(label).labels)
    local time = metric_with(text(2, whole(1, 5)) .. text(2, whole(2, 6)))
    assert.same({ 5, 6 }, { time.seconds, time.nanos })
  end)

  it("skips fields of a later version", function()
    local unknown = whole(15, 0xffffffffffffffffULL)
      .. double(16, 1)
      .. text(2047, "x")
      .. varint(99 * 8 + 5)
      .. "1234"
    local misfit = double(1, 1) .. text(4, "x") .. varint(6 * 8 + 5) .. "1234" -- numbers that are known otherwise
    local label = text(3, unknown .. text(1, "k") .. unknown .. whole(2, 1) .. text(2, "v"))
    local time = text(2, unknown .. whole(1, 7) .. double(2, 1))
    local body = unknown .. text(1, "a") .. time .. label .. misfit .. whole(5, 9) .. unknown
    assert.same(
      { name = "a", seconds = 7, nanos = 0, labels = { k = "v" }, operation = "set_counter", value = 9 },
      event_of(frame(unknown .. text(2, body) .. whole(1, 1) .. unknown)).metric
    )
    assert.same(
      { name = "m", type = "unknown" },
      event_of(frame(text(1, unknown .. text(1, "m") .. whole(2, 3) .. whole(3, 1)))).metadata
    )
    assert.same({}, events_of(frame(unknown) .. frame ""))
  end)

  local inside = function(body) return frame(text(2, body)) end
  for what, stream in pairs {
    ["a varint without end"] = inside(("\128"):rep(10) .. "\1"),
    ["a varint of more than 64 bits"] = inside(varint(4 * 8) .. ("\255"):rep(9) .. "\2"),
    ["a varint that its message cuts off"] = inside "\32\128",
    ["a double that its message cuts off"] = inside "\65\0\0\0",
    ["a text longer than its message"] = inside "\10\5abcd",
    ["a text of 2^63 bytes"] = inside("\10" .. varint(2 ^ 63)),
    ["an event longer than its frame"] = frame "\18\5abcd",
    ["a message cut off in an unknown field"] = inside "\125\0\0\0",
    ["a group"] = inside "\123\124",
    ["a way of writing that there is not"] = inside "\126",
    ["field 0"] = inside "\0\0",
    ["a field above 2^29 - 1"] = inside(whole(2 ^ 29, 1)),
    ["a name that is not UTF-8"] = inside(text(1, "a\255")),
    ["a surrogate in a name"] = inside(text(1, "\237\160\128")),
    ["a label's key that is not UTF-8"] = inside(text(3, text(1, "\192\128"))),
    ["a label's value that is cut off"] = inside(text(3, text(2, "\226\130"))),
    ["a length of more than 64 bits"] = ("\255"):rep(10),
    ["an HTTP request"] = "GET / HTTP/1.1\r\nHost: 127.0.0.1:5000\r\nUser-Agent: curl/8.0.0-with-some-length\r\n\r\n",
  } do
    it("refuses " .. what .. ", and all bytes after it", function()
      local reader, good = stream_reader.new(), bytes.metadata(REQUESTS)
      local seen = 0
      local ok, message = pcall(function()
        for _ in reader:feed(good .. stream .. good) do
          seen = seen + 1
        end
      end)
      assert.is_false(ok)
      assert.matches("^event stream, frame at byte " .. #good .. ": .", message)
      assert.equal(1, seen)
      local again, same = pcall(events_of, good, reader)
      assert.is_false(again)
      assert.equal(message, same)
      assert.equal(0, reader:pending())
    end)
  end

  it("reports the position of a bad frame in a long stream", function()
    local reader = stream_reader.new()
    local copies = math.ceil(300000 / #STREAM)
    for _ = 1, copies do
      assert.equal(#EVENTS, #events_of(STREAM, reader))
    end
    assert.error_matches(function() events_of(STREAM .. inside "\0", reader) end, "byte " .. (copies + 1) * #STREAM)
  end)

  it("accepts a frame of exactly the size limit, and refuses a longer one before its bytes arrive", function()
    local function stream(size) return frame(text(1, text(4, ("x"):rep(size - 6)))) end
    local limit = 5000
    assert.equal(limit + 2, #stream(limit))
    assert.equal(1, #events_of(stream(limit), stream_reader.new { max_frame = limit }))
    local reader = stream_reader.new { max_frame = limit }
    local function start() events_of(stream(limit + 1):sub(1, 2), reader) end
    assert.error_matches(start, "5001 bytes is above the limit of 5000")
    assert.error_matches(
      function() events_of(varint(2 ^ 20 + 1)) end,
      "1048577 bytes is above the limit of 1048576"
    )
    for _, bad in ipairs { 0, -1, 1.5, 2 ^ 31, 0 / 0, "1" } do
      assert.error_matches(function() stream_reader.new { max_frame = bad } end, "max_frame must be a whole number")
    end
  end)

  it("reads a long frame byte by byte in linear time and with little memory", function()
    local stream = frame(text(1, text(4, ("x"):rep(1000000))))
    local reader, found = stream_reader.new(), 0
    collectgarbage()
    local before, started = collectgarbage "count", os.clock()
    for i = 1, #stream do
      for _ in reader:feed(stream:sub(i, i)) do
        found = found + 1
      end
    end
    assert.equal(1, found)
    collectgarbage()
    assert.is_true(collectgarbage "count" - before < 4096)
    assert.is_true(os.clock() - started < 10)
  end)

  it("keeps the bytes of a long frame in order when the buffer grows", function()
    local words = {}
    for i = 1, 20000 do
      words[i] = ("%05d"):format(i)
    end
    local description = table.concat(words)
    for _, sizes in ipairs { { 65300, 230, 200000 }, { 40000, 30000, 200000 }, { 65535, 200000 }, { 200000 } } do
      local reader, stream = stream_reader.new(), FRAMES[1]:rep(3)
      stream = stream .. frame(text(1, text(4, description))) .. stream
      local found, at = {}, 1
      for _, size in ipairs(sizes) do
        for event in reader:feed(stream:sub(at, at + size - 1)) do
          found[#found + 1] = event
        end
        at = at + size
      end
      assert.is_true(at > #stream)
      assert.equal(7, #found)
      assert.is_true(found[4].metadata.description == description)
      assert.same(EVENTS[1], found[7])
    end
  end)

  it("returns nothing but errors for random bytes", function()
    math.randomseed(6)
    local taken, refused = 0, 0
    for _ = 1, 20000 do
      local copy = ffi.new("uint8_t[?]", #STREAM)
      ffi.copy(copy, STREAM, #STREAM)
      for _ = 1, math.random(1, 4) do
        copy[math.random(0, #STREAM - 1)] = math.random(0, 255)
      end
      local ok, message = pcall(events_of, ffi.string(copy, #STREAM))
      assert.is_true(ok or message:find "^event stream, frame at byte %d+: " ~= nil, message)
      if ok then
        taken = taken + 1
      else
        refused = refused + 1
      end
    end
    assert.is_true(taken > 1000 and refused > 1000)
  end)
end)

describe("the reader and Google's protobuf library", function()
  after_each(files.clean)

  local CHECK = "env -u LD_PRELOAD /usr/bin/python3 spec/support/stream_check.py "

  local function output_of(command)
    local pipe = assert(io.popen(command .. "; echo exit:$?"))
    local output, code = pipe:read("*a"):match "^(.-)exit:(%d+)\n$"
    pipe:close()
    return output, tonumber(code)
  end

  -- Returns the events that the library finds in a stream, or raises its error.
  local function check(stream)
    local output, code = output_of(CHECK .. files.make(stream) .. " --steps 2>&1")
    return code == 0 and cjson.decode(output) or error(output, 0)
  end

  it("read the same in a stream made by hand", function()
    local found = check(table.concat(FRAMES))
    assert.equal(#EVENTS, found.events)
    assert.equal(0, found.pending)
    local null, at, steps = cjson.null, 0, {}
    for _, event in ipairs(EVENTS) do
      local sent = event.metadata
      if sent then
        at = at + 1
        local unit, description = sent.unit or null, sent.description or null
        assert.same(
          { name = sent.name, type = sent.type, unit = unit, description = description },
          found.metadata[at]
        )
      else
        local key = event.metric.name .. (event.metric.labels.status or "")
        steps[key] = steps[key] or {}
        table.insert(steps[key], { event.metric.operation, event.metric.value, 1 })
      end
    end
    for _, series in ipairs(found.series) do
      assert.same(steps[series.name .. (series.labels.status or "")], series.steps)
    end
    assert.same({ endpoint = "/a", status = ("ä"):rep(80) }, found.series[1].labels)
    assert.equal(4, #found.series)
  end)

  it("read the same in a stream that the library made", function()
    local lines = {}
    for i = 1, 500 do
      lines[#lines + 1] = cjson.encode { metadata = { name = "m" .. i, metricType = i % 3, unitValue = "bytes" } }
      lines[#lines + 1] = cjson.encode {
        metric = {
          name = "m" .. i,
          timestamp = "2023-11-14T22:13:20.000000123Z",
          labels = { a = "b" .. i, c = ("€"):rep(i) },
          setGauge = i / 7,
        },
      }
    end
    local json, made = files.make(table.concat(lines, "\n") .. "\n"), files.name()
    local output, code = output_of(CHECK .. "--make <" .. json .. " 2>&1 >" .. made)
    assert.equal(0, code, output)
    local events = events_of(files.read(made))
    assert.equal(1000, #events)
    for i = 1, 500 do
      local kind = ({ [0] = "counter", "gauge", "histogram" })[i % 3]
      assert.same({ metadata = { name = "m" .. i, type = kind, unit = "bytes" } }, events[2 * i - 1])
      assert.same({
        metric = {
          name = "m" .. i,
          seconds = 1700000000,
          nanos = 123,
          operation = "set_gauge",
          value = tonumber(("%.14g"):format(i / 7)),
          labels = { a = "b" .. i, c = ("€"):rep(i) },
        },
      }, events[2 * i])
    end
  end)

  it("both refuse bytes that are not an event, and both notice an incomplete last frame", function()
    assert.equal(3, check(FRAMES[2] .. FRAMES[1]:sub(1, 3)).pending)
    for _, bad in ipairs { frame(text(2, text(1, "a\255"))), frame "\18\5abcd", frame "\20", ("\255"):rep(10) } do
      assert.error_matches(function() check(FRAMES[1] .. bad) end, "stream_check.py: ")
      assert.has_error(function() events_of(FRAMES[1] .. bad) end)
    end
    assert.error_matches(function() check(frame(text(2, text(1, "a") .. text(2, "")))) end, "a metric lacks")
  end)
end)
