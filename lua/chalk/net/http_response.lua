--- Makes the bytes of HTTP responses. It has no socket.
--
-- A handler returns a status, headers and a body. The body is a string, or a function that returns the next chunk, and
-- nil at the end. frame() makes of these a head, which is sent at once, and a *pull*: a function that returns the next
-- bytes to send, "" if there are none yet, and nil at the end. Pulls are nested:
--
--     chunked(compressed(body))     the body's chunks, compressed by gzip, in the form of HTTP's chunked transfer
--
-- A chunk is made only when the connection asks for it. So a response of any length holds one chunk in memory.

local gzip = require "chalk.net.gzip"
local parser = require "chalk.net.http_parser"

local M = {}

local SLICE = 65536 -- bytes of a string that are compressed at once

local REASONS = {
  [200] = "OK",
  [204] = "No Content",
  [304] = "Not Modified",
  [400] = "Bad Request",
  [401] = "Unauthorized",
  [403] = "Forbidden",
  [404] = "Not Found",
  [405] = "Method Not Allowed",
  [406] = "Not Acceptable",
  [429] = "Too Many Requests",
  [431] = "Request Header Fields Too Large",
  [500] = "Internal Server Error",
  [503] = "Service Unavailable",
  [505] = "HTTP Version Not Supported",
}

local DAYS = { "Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat" }
local MONTHS = { "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec" }

-- Headers that a handler cannot set, because frame() decides how the message ends and how it is encoded.
local FRAMING = {
  ["connection"] = true,
  ["content-encoding"] = true,
  ["content-length"] = true,
  ["date"] = true,
  ["transfer-encoding"] = true,
  ["vary"] = true,
}

---@class chalk.http.Response
---@field status integer? (200)
---@field headers table<string, string>?
---@field body (string|fun(): string?)? a string, or a function that returns the next chunk, and nil at the end
---@field gzip boolean? whether to compress the body if the request accepts that
---@field close boolean? whether to close the connection after the response
---@field done (fun(complete: boolean))? called once at the end; `complete`: whether the whole response was sent

---@class chalk.http.Frame
---@field head string
---@field body string? bytes that follow the head at once
---@field pull (fun(): (string|string[])?)? returns the bytes that follow later
---@field keep_alive boolean
---@field paced boolean whether the peer asks for each chunk
---@field asked integer how many chunks the peer has asked for and not received
---@field ready string? a chunk that the peer has not asked for yet
---@field release fun(complete: boolean) must be called at the end, sent or not; may be called again

--- Makes a response of plain text.
---@param status integer
---@param message string
---@param headers table<string, string>? further headers
---@return chalk.http.Response
function M.text(status, message, headers)
  local all = { ["Content-Type"] = "text/plain; charset=utf-8" }
  for name, value in pairs(headers or {}) do
    all[name] = value
  end
  if status == 405 and not all.Allow then all.Allow = "GET, HEAD" end
  return { status = status, headers = all, body = message .. "\n" }
end

-- The date as IMF-fixdate (RFC 9110, section 5.6.7). strftime is not used, because its names depend on the locale.
local function date()
  local t = os.date "!*t"
  return ("%s, %02d %s %d %02d:%02d:%02d GMT"):format(
    DAYS[t.wday],
    t.day,
    MONTHS[t.month],
    t.year,
    t.hour,
    t.min,
    t.sec
  )
end

local function slices(text)
  local position = 1
  return function()
    if position > #text then return nil end
    local slice = text:sub(position, position + SLICE - 1)
    position = position + SLICE
    return slice
  end
end

local function compressed(pull, stream)
  local finished = false
  return function()
    if finished then return nil end
    local chunk = pull()
    if chunk then return stream:write(chunk) end
    finished = true
    return stream:finish()
  end
end

local function chunked(pull)
  local finished = false
  return function()
    if finished then return nil end
    local chunk = pull()
    if not chunk then
      finished = true
      return "0\r\n\r\n"
    elseif chunk == "" then
      return "" -- a chunk of no bytes would end the body
    end
    return { ("%x\r\n"):format(#chunk), chunk, "\r\n" } -- not concatenated, because chunks are large
  end
end

-- Control characters in a value become spaces, because a line break would start another header.
local function add_header(lines, name, value) lines[#lines + 1] = name .. ": " .. tostring(value):gsub("%c", " ") end

local function add_vary(lines, response, vary)
  if response.gzip then vary = vary and vary .. ", Accept-Encoding" or "Accept-Encoding" end
  if vary then add_header(lines, "Vary", vary) end
end

local function add_headers(lines, response)
  local vary
  for name, value in pairs(response.headers or {}) do
    local lower = name:lower()
    if lower == "vary" then
      vary = value
    elseif not FRAMING[lower] then
      add_header(lines, name, value)
    end
  end
  add_vary(lines, response, vary)
end

local function add_connection(lines, version, keep_alive)
  if not keep_alive then
    add_header(lines, "Connection", "close")
  elseif version == "1.0" then
    add_header(lines, "Connection", "keep-alive")
  end
end

-- A peer finds the end of the body by its length, by the last chunk, or in HTTP/1.0 by the end of the connection.
local function add_framing(lines, version, body, streamed)
  if not streamed then
    add_header(lines, "Content-Length", #body)
  elseif version ~= "1.0" then
    add_header(lines, "Transfer-Encoding", "chunked")
  end
end

local function releaser(stream, done)
  return function(complete)
    if stream then stream:close() end
    local call = done
    done = nil
    if call then call(complete) end
  end
end

local function build_pull(body, stream, version)
  local pull = type(body) == "string" and slices(body) or body
  if stream then pull = compressed(pull, stream) end
  return version == "1.0" and pull or chunked(pull)
end

--- Makes the frame of a response. Raises a message if the response is malformed.
---@param request chalk.http.Request
---@param response chalk.http.Response
---@param keep_alive boolean whether the connection may stay open
---@return chalk.http.Frame
function M.frame(request, response, keep_alive)
  local status, body, version = response.status or 200, response.body or "", request.version
  if type(body) ~= "string" and type(body) ~= "function" then
    error("a response's body is a string or a function, not a " .. type(body))
  end
  local bodiless = status == 204 or status == 304
  local silent = bodiless or request.method == "HEAD"
  local wants_gzip = response.gzip
    and not bodiless
    and gzip.available()
    and parser.accepts_gzip(request.headers["accept-encoding"])
  local streamed = not bodiless and (type(body) == "function" or wants_gzip)
  local paced = streamed and not silent and request.headers["chalk-paced"] == "1"
  keep_alive = keep_alive and not response.close and not paced and not (streamed and version == "1.0")

  local lines = { ("HTTP/1.1 %d %s"):format(status, REASONS[status] or "Unknown"), "Date: " .. date() }
  add_headers(lines, response)
  local stream = wants_gzip and not silent and gzip.new() or nil
  if wants_gzip and (silent or stream) then add_header(lines, "Content-Encoding", "gzip") end
  if not bodiless then add_framing(lines, version, body, streamed) end
  add_connection(lines, version, keep_alive)

  return {
    head = table.concat(lines, "\r\n") .. "\r\n\r\n",
    body = not silent and not streamed and body or nil,
    pull = not silent and streamed and build_pull(body, stream, version) or nil,
    keep_alive = keep_alive,
    paced = paced,
    asked = 0,
    release = releaser(stream, response.done),
  }
end

return M
