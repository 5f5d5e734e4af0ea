--- The addresses of servers that receive packets: their forms, and the parser.
--
--     127.0.0.1:8125   agent:8125   [::1]:8125     UDP; also udp://agent:8125, and udp://agent with a default port
--     unix:///run/dsd.socket                       a socket file; connecting finds out its type
--     unixgram:///run/dsd.socket                   a socket file for datagrams
--     unixstream:///run/dsd.socket                 a socket file for a stream; each packet follows its length in
--                                                  4 bytes, little-endian
--
-- Names are not resolved here. A name of the wrong form is an error; a name that does not resolve may do so later.

local quote = require "chalk.base.quote"

local M = {}

local LONGEST_PATH = 107 -- sockaddr_un has 108 bytes, one of them for the NUL
local LONGEST_HOST = 253
local FORMS = '"host:port", "[IPv6]:port", "unix:///path", "unixgram:///path" or "unixstream:///path"'

---@class chalk.net.Address
---@field kind "udp"|"unix"|"unixgram"|"unixstream"
---@field host string? for UDP, without brackets
---@field port integer? for UDP
---@field path string? for the other kinds

local function is_ipv4(host)
  local a, b, c, d = host:match "^(%d%d?%d?)%.(%d%d?%d?)%.(%d%d?%d?)%.(%d%d?%d?)$"
  return a ~= nil and math.max(a, b, c, d) <= 255
end

-- Counts the groups in a part of an IPv6 address, of which a whole address has eight. An IPv4 address at the end counts
-- as two. Returns nil if the part is malformed.
local function groups_of(part, at_end)
  local n = 0
  local groups = part
  local v4 = at_end and part:match "[%d.]+$"
  if v4 and is_ipv4(v4) then
    n, groups = 2, part:sub(1, -#v4 - 1):gsub(":$", "")
  end
  if groups == "" then return n end
  for group in (groups .. ":"):gmatch "([^:]*):" do
    if not group:find "^%x%x?%x?%x?$" then return nil end
    n = n + 1
  end
  return n
end

--- Whether a text is an IPv6 address without brackets, with or without a zone.
---@param text string
---@return boolean
function M.is_ipv6(text)
  local address, zone = text:match "^([^%%]*)(.*)$"
  if zone ~= "" and not zone:find "^%%[%w_.-]+$" then return false end
  local head, tail = address:match "^(.-)::(.*)$"
  if not head then return groups_of(address, true) == 8 end
  local before, after = groups_of(head, false), groups_of(tail, true)
  return before ~= nil and after ~= nil and before + after <= 7
end

local function is_name(host)
  return #host <= LONGEST_HOST and host:find "^[%w_][%w_.-]*$" ~= nil and not host:find("..", 1, true)
end

-- A host of digits and dots only is an IPv4 address, and never a name: it would be a mistyped address.
local function is_host(host)
  if host:find "^[%d.]+$" then return is_ipv4(host) end
  return is_name(host)
end

local function udp(text, default_port)
  local bracketed, rest = text:match "^%[([^%[%]]*)%](.*)$"
  local host = bracketed
  if not bracketed then
    host, rest = text:match "^([^:]*)(.*)$"
  end
  local digits = rest:match "^:(%d+)$"
  if not digits and not (default_port and rest == "") then
    return nil, ("no port in %s: expected %s"):format(quote(text), FORMS)
  end
  local port = digits and tonumber(digits) or default_port
  if port < 1 or port > 65535 then return nil, ("bad port in %s: expected 1 to 65535"):format(quote(text)) end
  if not (bracketed and M.is_ipv6 or is_host)(host) then
    return nil, ("bad host in %s: expected a name, an IPv4 address or [an IPv6 address]"):format(quote(text))
  end
  return { kind = "udp", host = host, port = port }
end

local function file(kind, path, text)
  if not path:find "^/." or path:find "%z" then
    return nil, ("no absolute path in %s: expected %s:///path"):format(quote(text), kind)
  elseif #path > LONGEST_PATH then
    return nil, ("the path in %s is longer than %d bytes"):format(quote(text), LONGEST_PATH)
  end
  return { kind = kind, path = path }
end

local FILES = { unix = true, unixgram = true, unixstream = true }

--- Parses an address. Returns nil and a message if it is malformed.
---@param text string
---@param default_port integer? the port if the text has the form udp://host
---@return chalk.net.Address? address, string? message
function M.parse(text, default_port)
  local scheme, rest = text:match "^(%a[%w+.-]*)://(.*)$"
  if not scheme then return udp(text, nil) end
  if scheme == "udp" then return udp((rest:gsub("/$", "")), default_port) end
  if FILES[scheme] then return file(scheme, rest, text) end
  return nil, ("unknown kind of address %s: expected %s"):format(quote(text), FORMS)
end

-- Values of errno that Linux, the BSDs and macOS share.
local EACCES, ENOTDIR, EISDIR = 13, 20, 21
local WRONG = {
  [EACCES] = "is not allowed to this user",
  [ENOTDIR] = "leads through a file",
  [EISDIR] = "is a directory",
}

--- Looks, without connecting, for a reason why a socket file can never be reached. A missing file is no problem,
--- because the server may start later.
---@param address chalk.net.Address
---@param open (fun(path: string, mode: string): any, string?, integer?)? replaces io.open
---@return string? message nil: no problem was found
function M.problem(address, open)
  if not address.path then return nil end
  -- Opening for writing too does not wait for the other end of a pipe, and fails for a directory.
  local opened, _, errno = (open or io.open)(address.path, "r+")
  if opened then opened:close() end
  local wrong = opened and "is not a socket" or WRONG[errno]
  return wrong and ("the path %s %s"):format(quote(address.path, LONGEST_PATH), wrong) or nil
end

return M
