--- Responses as they go over the wire, again without a socket.
--
-- A handler answers with a status, headers and a body: a string, or a function that returns the next piece and nil at
-- the end. frame() turns that into a head, which is sent at once, and a pull: a function that returns the next bytes
-- to send, "" when there are none yet, and nil at the end. Pulls are stacked: the body, around it gzip, around that
-- chunks, which are lists of strings. Nothing is made before it is asked for, so what a response holds is one piece,
-- however long it is.

local gzip = require "chalk.net.gzip"
local parser = require "chalk.net.http_parser"

local M = {}

local SLICE = 65536

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

-- What decides where a message ends is not the handler's to say.
local FRAMING = {
  ["connection"] = true,
  ["content-encoding"] = true,
  ["content-length"] = true,
  ["date"] = true,
  ["transfer-encoding"] = true,
  ["vary"] = true,
}

---@class chalk.http.Response
---@field status integer|nil 200 when left out
---@field headers table<string, string>|nil
---@field body string|(fun(): string|nil)|nil a function is called for one piece after the other, and returns nil last
---@field gzip boolean|nil compress when the request allows it
---@field close boolean|nil close the connection afterwards
---@field done (fun(complete: boolean))|nil called once when the response was sent or given up

---@class chalk.http.Frame
---@field head string
---@field body string|nil bytes that follow the head at once
---@field pull (fun(): string|string[]|nil)|nil the source of what follows later
---@field keep_alive boolean
---@field paced boolean whether the peer asks for each piece
---@field asked integer how many pieces it has asked for and not been given
---@field ready string|nil a piece that waits for being asked for
---@field release fun(complete: boolean) to be called at the end, sent or not; may be repeated

---A plain text response.
---@param status integer
---@param message string
---@param headers table<string, string>|nil further headers
---@return chalk.http.Response
function M.text(status, message, headers)
  local all = { ["Content-Type"] = "text/plain; charset=utf-8" }
  for name, value in pairs(headers or {}) do
    all[name] = value
  end
  if status == 405 and not all.Allow then all.Allow = "GET, HEAD" end
  return { status = status, headers = all, body = message .. "\n" }
end

-- IMF-fixdate (RFC 9110, section 5.6.7); strftime's names would follow the program's locale.
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
    local piece = pull()
    if piece then return stream:write(piece) end
    finished = true
    return stream:finish()
  end
end

local function chunked(pull)
  local finished = false
  return function()
    if finished then return nil end
    local piece = pull()
    if not piece then
      finished = true
      return "0\r\n\r\n"
    elseif piece == "" then
      return "" -- a chunk of no bytes would end the body
    end
    return { ("%x\r\n"):format(#piece), piece, "\r\n" } -- not joined: pieces are large
  end
end

-- Line breaks in a value would start another header.
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

-- How the end of the body is found: by its length, by chunks, or for HTTP/1.0 by the end of the connection.
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

---Frames a response for the request it answers.
---@param request chalk.http.Request
---@param response chalk.http.Response
---@param keep_alive boolean whether the connection could go on
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
