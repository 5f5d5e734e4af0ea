-- Prints an event stream live, from chalk.exporter.stream or from the Rust crate metrics-exporter-tcp.
--
--     luajit examples/watch.lua [HOST:PORT]     default 127.0.0.1:5000; an IPv6 address is written as [::1]:5000
--
--     # http_request_count counter, count: Requests answered
--     12:00:00.123456 http_request_count{endpoint="/fast",status="200"} + 1
--     12:00:00.123471 http_requests_in_flight = 3
--     12:00:00.123493 http_request_latency{endpoint="/fast"} 0.00071
--
-- After a count stands the number added (+). After a gauge stands its new value (=), or the number added (+) or
-- subtracted (-). After a histogram stands the recorded value. The program ends with exit code 0 when the server closes
-- the connection and on SIGINT or SIGTERM, and with exit code 1 if it cannot connect or the bytes are no event stream.

local reader = require "chalk.exporter.stream.reader"
local uv = require "luv"

-- Text

-- Escapes control characters in a text. Names and labels come from other programs, and could move the terminal's
-- cursor.
local function safe(text)
  text = text:gsub('[%c\\"]', { ["\\"] = "\\\\", ['"'] = '\\"', ["\n"] = "\\n" })
  text = text:gsub("%c", function(c) return ("\\x%02x"):format(c:byte()) end)
  return (text:gsub("\194([\128-\159])", function(c) return ("\\u{%02x}"):format(c:byte()) end))
end

-- Writes a number with as many digits as are needed to read back the same number.
local function number(value)
  local text = ("%.15g"):format(value)
  return tonumber(text) == value and text or ("%.17g"):format(value)
end

local function labels(metric)
  local list = {}
  for key, value in pairs(metric.labels) do
    list[#list + 1] = ('%s="%s"'):format(safe(key), safe(value))
  end
  table.sort(list)
  return list[1] and "{" .. table.concat(list, ",") .. "}" or ""
end

local function clock(metric)
  if not metric.seconds then return "--:--:--.------" end
  return ("%s.%06d"):format(os.date("%H:%M:%S", metric.seconds) or "--:--:--", metric.nanos / 1000)
end

local SIGNS = {
  increment_counter = "+ ",
  set_counter = "= ",
  increment_gauge = "+ ",
  decrement_gauge = "- ",
  set_gauge = "= ",
  record_histogram = "",
}

local function metric_line(metric)
  local sign = SIGNS[metric.operation]
  local what = sign and sign .. number(metric.value) or "?"
  return ("%s %s%s %s\n"):format(clock(metric), safe(metric.name), labels(metric), what)
end

local function metadata_line(metadata)
  local unit = metadata.unit and ", " .. safe(metadata.unit) or ""
  local description = metadata.description and metadata.description ~= "" and ": " .. safe(metadata.description)
    or ""
  return ("# %s %s%s%s\n"):format(safe(metadata.name), metadata.type, unit, description)
end

local function line(event) return event.metric and metric_line(event.metric) or metadata_line(event.metadata) end

-- The connection

local function usage(message)
  io.stderr:write("watch.lua: ", message, "\nusage: luajit examples/watch.lua [HOST:PORT]\n")
  os.exit(2)
end

local address = arg[1] or "127.0.0.1:5000"
local host, port = address:match "^%[([%x:.]+)%]:(%d+)$"
if not host then
  host, port = address:match "^([^:]+):(%d+)$"
end
if arg[2] or not host or tonumber(port) > 65535 then usage(("%q is not a HOST:PORT"):format(address)) end

local socket, stream, code = uv.new_tcp(), reader.new(), nil

-- Ends the program. Only the first call has an effect.
local function finish(exit_code, message)
  if code then return end
  code = exit_code
  if message then io.stderr:write("watch.lua: ", message, "\n") end
  uv.stop()
end

-- Prints all events that arrived at once with one write. A slow terminal or pipe slows the reading down, and the server
-- then drops this client's oldest events. If the terminal or pipe is gone, the program ends.
local function show(bytes)
  local lines = {}
  local ok, problem = pcall(function()
    for event in stream:feed(bytes) do
      lines[#lines + 1] = line(event)
    end
  end)
  if not (io.write(table.concat(lines)) and io.flush()) then return finish(0) end
  if not ok then finish(1, problem) end
end

local function ended()
  if stream:pending() > 0 then return finish(1, "the connection ended within an event") end
  finish(0, "the server closed the connection")
end

local function connected(refused)
  if refused then return finish(1, ("cannot connect to %s: %s"):format(address, refused)) end
  socket:read_start(function(problem, bytes)
    if problem then return finish(1, ("the connection to %s broke: %s"):format(address, problem)) end
    if bytes then
      show(bytes)
    else
      ended()
    end
  end)
end

for _, name in ipairs { "sigint", "sigterm" } do
  uv.new_signal():start(name, function() finish(0) end)
end
local addresses, unknown = uv.getaddrinfo(host, nil, { socktype = "stream" })
if addresses then
  socket:connect(addresses[1].addr, tonumber(port), connected)
else
  finish(1, ("cannot resolve %s: %s"):format(host, unknown))
end
if not code then uv.run() end

-- All handles must be closed before the VM is: luv up to 1.44 crashes if one is still closing then.
uv.walk(function(handle)
  if not handle:is_closing() then handle:close() end
end)
uv.run()
os.exit(code)
