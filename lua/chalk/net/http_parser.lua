--- Parses the heads of HTTP/1.x requests. It works on strings only and has no socket, clock or state.
--
-- A head is a request line and field lines, up to the first empty line (RFC 9112, sections 2 to 5). take() cuts one
-- head from the front of the bytes that a connection has received. A head that does not have exactly this form is
-- refused with a status. The parser never guesses, because a guess lets two parties read one message differently. Two
-- deviations are accepted: a few empty lines before the head, and LF alone as the end of a line.
--
-- The bytes may come from an attacker, so every step is linear in the size of the head. Patterns that could backtrack
-- over a run of blanks are avoided.

local M = {}

local TOKEN = "[%w!#$%%&'*+%-.^_`|~]" -- RFC 9110, section 5.6.2
local MAX_LEADING = 8 -- bytes of empty lines before a head
local SPACE, TAB, CR = 32, 9, 13

---@class chalk.http.Request
---@field method string as sent, e.g. "GET"
---@field path string the target before "?", not percent-decoded
---@field query string the target after "?", "" without one
---@field version "1.0"|"1.1"
---@field headers table<string, string> values by lower-case name; values of repeated headers are joined with ", "
---@field keep_alive boolean whether the connection may serve another request
---@field has_body boolean whether a body follows the head

local function trim(text)
  local first = text:find "[^ \t]"
  if not first then return "" end
  local last = #text
  while text:byte(last) == SPACE or text:byte(last) == TAB do
    last = last - 1
  end
  return text:sub(first, last)
end

--- Whether a comma-separated header lists a token, in any case of letters.
---@param value string? the header's value
---@param token string in lower case
---@return boolean
function M.has_token(value, token)
  for item in (value or ""):lower():gmatch "[^,%s]+" do
    if item == token then return true end
  end
  return false
end

local function quality(parameters)
  local text = parameters:lower():match ";%s*q%s*=([^;]*)"
  if not text then return 1 end
  local q = trim(text):match "^[01]%.?%d*$"
  return q and math.min(tonumber(q), 1) or 0
end

--- Whether an Accept-Encoding header wants gzip: listed itself or by "*", not with q=0, and not after "identity"
---(RFC 9110, section 12.5.3).
---@param value string? the header's value
---@return boolean
function M.accepts_gzip(value)
  local q = {}
  for item in (value or ""):gmatch "[^,]+" do
    local coding, parameters = item:match "^%s*([^%s;]+)(.*)$"
    if coding then q[coding:lower()] = quality(parameters) end
  end
  local gzip = q.gzip or q["x-gzip"] or q["*"] or 0
  return gzip > 0 and gzip >= (q.identity or 0)
end

-- "/path?query", or "http://host/path?query", which every server must understand (RFC 9112, section 3.2.2).
local function parse_target(target)
  if target:find "^[hH][tT][tT][pP][sS]?://" then
    local rest = target:match "^[^/]*//[^/?]*(.*)$"
    target = rest:sub(1, 1) == "/" and rest or "/" .. rest
  end
  local path, query = target:match "^([^?]*)%??(.*)$"
  return path, query
end

local function parse_request_line(line)
  local method, target, major, minor = line:match("^(" .. TOKEN .. "+) (%S+) HTTP/(%d)%.(%d)$")
  if not method or target:find "%c" then return nil, 400, "malformed request line" end
  if major ~= "1" then return nil, 505, "only HTTP/1.0 and HTTP/1.1 are served" end
  local path, query = parse_target(target)
  if path:sub(1, 1) ~= "/" and (method == "GET" or method == "HEAD") then
    return nil, 400, "malformed request target"
  end
  return { method = method, path = path, query = query, version = minor == "0" and "1.0" or "1.1" }
end

-- Values are collected in lists first. Joining them one by one would take quadratic time if many names are equal.
local function parse_fields(next_line)
  local lists = {}
  for line in next_line do
    local name, value = line:match("^(" .. TOKEN .. "+):(.*)$")
    if not name then return nil, 400, "malformed header line" end
    value = trim(value)
    if value:gsub("\t", ""):find "%c" then return nil, 400, "control character in a header" end
    name = name:lower()
    local list = lists[name] or {}
    lists[name] = list
    list[#list + 1] = value
  end
  local headers = {}
  for name, list in pairs(lists) do
    headers[name] = table.concat(list, ", ")
  end
  if lists.host and #lists.host > 1 then return nil, 400, "more than one Host header" end
  return headers
end

-- Whether a body follows the head. A head with both headers, or with a length that is not a number, is refused, because
-- it serves to smuggle requests (RFC 9112, section 6.3).
local function body_follows(headers)
  local length, encoding = headers["content-length"], headers["transfer-encoding"]
  if length and (encoding or not length:find "^%d+$") then return nil, 400, "malformed Content-Length" end
  return encoding ~= nil or (length ~= nil and length:find "[1-9]" ~= nil)
end

local function stays_open(request)
  local connection = request.headers.connection
  if M.has_token(connection, "close") then return false end
  return request.version == "1.1" or M.has_token(connection, "keep-alive")
end

local function lines_of(head)
  local next_line = head:gmatch "([^\n]*)\n"
  return function()
    local line = next_line()
    if line and line:byte(-1) == CR then line = line:sub(1, -2) end
    return line
  end
end

--- Parses one head.
---@param head string its lines, each with its line end, without the empty line
---@return chalk.http.Request? request nil: refused
---@return integer? status of the refusal
---@return string? message
function M.parse(head)
  local next_line = lines_of(head)
  local request, status, message = parse_request_line(next_line() or "")
  if not request then return nil, status, message end
  request.headers, status, message = parse_fields(next_line)
  if not request.headers then return nil, status, message end
  request.has_body, status, message = body_follows(request.headers)
  if request.has_body == nil then return nil, status, message end
  request.keep_alive = stays_open(request)
  return request
end

--- Takes the first head from the bytes received.
---
--- Returns a request and the position after its head; or nil if the head is not complete yet; or false, a status and a
--- message if the bytes are not a valid head, whatever follows them.
---@param buffer string
---@param max_size integer largest size of a head in bytes, with its empty line
---@param from integer? position from which to look for the end of the head; an earlier call has looked before it
---@return (chalk.http.Request|false)? request
---@return integer? position or status
---@return string? message
function M.take(buffer, max_size, from)
  local start = buffer:find "[^\r\n]" or #buffer + 1
  if start > MAX_LEADING + 1 then return false, 400, "too many empty lines" end
  if start > #buffer then return nil end
  if not buffer:find("^" .. TOKEN, start) then
    return false, 400, "malformed request line" -- refuses a TLS hello at once, which may contain no end of line
  end
  local head_end, last = buffer:find("\n\r?\n", math.max(start, from or 1))
  if (last or #buffer) - start + 1 > max_size then
    return false, 431, "the request's head is larger than " .. max_size .. " bytes"
  end
  if not head_end then return nil end
  local request, status, message = M.parse(buffer:sub(start, head_end))
  if not request then return false, status, message end
  return request, last + 1
end

return M
