-- Resolves a host's name to its addresses without holding up the flush loop.
--
-- Addresses are kept for a minute. If the export that started a lookup stops waiting for it, the lookup continues, and
-- the next export uses its result. While a name does not resolve, the addresses found before stay in use, and the pause
-- between two lookups doubles.

local backoffs = require "chalk.net.backoff"
local system = require "chalk.net.system"

local M = {}

local KEPT = 60 -- seconds
local PATIENCE = 2 -- seconds that an export waits for a lookup
local FIRST_PAUSE, LAST_PAUSE = 0.5, 30 -- seconds between two lookups that fail

---@class chalk.net.Resolver
---@field list chalk.net.Sockaddr[]? the addresses that were found last
---@field message string? why the last lookup failed; nil if it did not
local Resolver = {}
Resolver.__index = Resolver

local function look_up(host, done)
  local ok, message = pcall(require("luv").getaddrinfo, host, nil, { socktype = "dgram" }, done)
  if not ok then done(tostring(message)) end
end

--- Makes a resolver of one name. A numeric address needs no lookup.
---@param host string
---@param port integer
---@param options { clock: fun(): number, lookup: fun(host: string, done: fun(err: string?, found: table?))? }
---@return chalk.net.Resolver
function M.new(host, port, options)
  local list = system.addresses(host, port, true)
  return setmetatable({
    host = host,
    port = port,
    clock = options.clock,
    lookup = options.lookup or look_up,
    list = list,
    due = list and math.huge or -math.huge,
    backoff = backoffs.new(FIRST_PAUSE, LAST_PAUSE),
    waiting = {},
  }, Resolver)
end

function Resolver:found(list)
  self.list, self.message = list, nil
  self.backoff:succeeded()
  self.due = self.clock() + KEPT
end

function Resolver:failed(message)
  self.message = ("%s does not resolve: %s"):format(self.host, message)
  self.due = self.clock() + self.backoff:failed()
end

local function sockaddrs(found, port)
  local list, seen = {}, {}
  for _, one in ipairs(found) do
    local address = (system.addresses(one.addr, port, true) or {})[1]
    if address and not seen[address.text] then
      seen[address.text] = true
      list[#list + 1] = address
    end
  end
  return list
end

function Resolver:finish(err, found)
  self.is_looking = false
  local list = sockaddrs(found or {}, self.port)
  if err or #list == 0 then
    self:failed(tostring(err or "no address"))
  else
    self:found(list)
  end
  local waiting = self.waiting
  self.waiting = {}
  for ready in pairs(waiting) do
    ready()
  end
end

local function start(self)
  if self.is_looking then return end
  self.is_looking = true
  self.lookup(self.host, function(err, found) self:finish(err, found) end)
end

-- Looks the name up and blocks until the answer.
local function block(self)
  local list, message = system.addresses(self.host, self.port)
  if list and #list > 0 then return self:found(list) end
  self:failed(message or "no address")
end

-- Waits for the lookup in progress, up to PATIENCE seconds.
local function wait(self, pause)
  local mine
  local answered = pause:callback(PATIENCE, function(ready)
    mine = ready
    self.waiting[ready] = true
  end)
  self.waiting[mine] = nil
  if not answered then self.message = ("%s did not resolve within %g s"):format(self.host, PATIENCE) end
end

local function renew(self, pause)
  if not pause:yields() then return block(self) end
  local is_slow = self.is_looking
  start(self)
  -- A lookup that an earlier export started is slow. While there are older addresses, no export waits for it again.
  if self.is_looking and not (is_slow and self.list) then wait(self, pause) end
end

--- Returns the addresses; or nil and a message. Waits for a lookup if the addresses are missing or older than a minute.
---@param pause chalk.net.Pause
---@return chalk.net.Sockaddr[]?, string? message
function Resolver:addresses(pause)
  if self.clock() >= self.due then renew(self, pause) end
  if self.list then return self.list end
  return nil, self.message
end

--- Tells the resolver that no receiver answers at its addresses, so that the next call looks the name up again.
function Resolver:doubt()
  if self.due ~= math.huge and not self.message then self.due = -math.huge end
end

return M
