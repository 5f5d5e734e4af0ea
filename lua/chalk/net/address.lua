--- Where a server that takes packets listens, as users write it.
--
--     127.0.0.1:8125   agent:8125   [::1]:8125     UDP; udp://agent:8125 too, and udp://agent with the caller's port
--     unix:///run/dsd.socket                       a socket file; connecting finds out which kind it is
--     unixgram:///run/dsd.socket                   datagrams
--     unixstream:///run/dsd.socket                 a stream: each payload after its length, 4 bytes, little-endian
--
-- Nothing is resolved here: a name that cannot be one is wrong, a name that nobody answers to may come.

local quote = require "chalk.base.quote"

local M = {}

local LONGEST_PATH = 107 -- of sockaddr_un's 108 bytes one is the NUL
local LONGEST_HOST = 253
local FORMS = '"host:port", "[IPv6]:port", "unix:///path", "unixgram:///path" or "unixstream:///path"'

---@class chalk.net.Address
---@field kind "udp"|"unix"|"unixgram"|"unixstream"
---@field host string? of UDP, without brackets
---@field port integer? of UDP
---@field path string? of the others

local function is_ipv4(host)
  local a, b, c, d = host:match "^(%d%d?%d?)%.(%d%d?%d?)%.(%d%d?%d?)%.(%d%d?%d?)$"
  return a ~= nil and math.max(a, b, c, d) <= 255
end

-- How many of the eight groups a part of an IPv6 address is; nil when it is none. IPv4 at its end is two.
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

--- Whether text is an IPv6 address, without brackets, perhaps with a zone.
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

-- A name that is all digits and dots can only be a mistyped address.
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

--- Reads an address.
---@param text string
---@param default_port integer? of udp://host
---@return chalk.net.Address? address, string? message
function M.parse(text, default_port)
  local scheme, rest = text:match "^(%a[%w+.-]*)://(.*)$"
  if not scheme then return udp(text, nil) end
  if scheme == "udp" then return udp((rest:gsub("/$", "")), default_port) end
  if FILES[scheme] then return file(scheme, rest, text) end
  return nil, ("unknown kind of address %s: expected %s"):format(quote(text), FORMS)
end

-- errno, alike on Linux, the BSDs and macOS
local EACCES, ENOTDIR, EISDIR = 13, 20, 21
local WRONG = {
  [EACCES] = "is not allowed to this user",
  [ENOTDIR] = "leads through a file",
  [EISDIR] = "is a directory",
}

--- What keeps a socket file from ever being reached, as far as it shows without connecting. That it is not there is no
--- problem: servers come later.
---@param address chalk.net.Address
---@param open (fun(path: string, mode: string): any, string?, integer?)? io.open
---@return string? message nil when there is none
function M.problem(address, open)
  if not address.path then return nil end
  -- For writing too: so it neither waits for the other end of a pipe nor passes for a directory.
  local opened, _, errno = (open or io.open)(address.path, "r+")
  if opened then opened:close() end
  local wrong = opened and "is no socket" or WRONG[errno]
  return wrong and ("the path %s %s"):format(quote(address.path, LONGEST_PATH), wrong) or nil
end

return M
