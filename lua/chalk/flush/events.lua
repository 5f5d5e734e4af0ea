-- The reader of the event tap: switches it on for what exporters subscribe to, takes the events out of the writers'
-- rings, batch by batch, and hands each batch to every subscriber. The flusher has one, for rings have one reader.
--
-- Between two holders of the flusher's role the tap stays on for those who `keep`: what is recorded meanwhile waits in
-- the rings for the next.

local core = require "chalk.core"
local kinds = require "chalk.define.kinds"
local log = require "chalk.base.log"

local bit = require "bit"
local C = core.C

local M = {}

local BATCHES = 64 -- at most in one go: writers may be as fast as this
local ABANDONED = 60 -- seconds without a reader after which a tap that another process switched on is switched off

---@class chalk.Subscription
---@field kinds string[] names of kinds
---@field events integer how many a ring has to hold at least
---@field keep boolean? also what was recorded while nobody had the role
---@field take fun(tap: ffi.cdata*, n: integer) a batch, as chalk_tap_events has it

---@class chalk.Events
local Events = {}
Events.__index = Events

---@param client chalk.Client
---@return chalk.Events
function M.new(client) return setmetatable({ client = client, segment = client.segment, list = {} }, Events) end

--- The bits of kinds of metrics, as the core takes them.
---@param names string[]
---@return integer
function M.mask(names)
  local mask = 0
  for _, kind in ipairs(names) do
    mask = bit.bor(mask, bit.lshift(1, C[kinds.of[kind].constant]))
  end
  return mask
end

-- What the tap is to be on for: of all who subscribed, or of those who keep.
local function wanted(self, only_keep)
  local mask, events = 0, 0
  for _, subscription in ipairs(self.list) do
    if subscription.keep or not only_keep then
      mask = bit.bor(mask, M.mask(subscription.kinds))
      events = math.max(events, subscription.events)
    end
  end
  return mask, events
end

-- Without a reader it is on for nobody: dropped series would wait for one.
local function switch(self, only_keep)
  local mask, events = 0, 0
  if self.tap then
    mask, events = wanted(self, only_keep)
  end
  C.chalk_tap_switch(self.segment, mask, events, 0)
end

local function open(self, keep)
  local tap = C.chalk_tap_open(self.segment, keep and 1 or 0, core.message)
  if tap == nil then return log.write("error", "events: " .. core.said()) end
  self.tap = tap
  -- Not ffi.gc: a last flush, from a finalizer of the VM's end, comes after those. One for all taps: an older one would
  -- close the newer tap.
  self.guard = self.guard or core.finalizer(function() self:close() end)
end

--- Lets go of the rings.
function Events:close()
  local tap = self.tap
  self.tap = nil
  if tap then C.chalk_tap_close(tap) end
end

--- From now on the subscriber is handed what is recorded, while this process has the role.
---@param subscription chalk.Subscription
function Events:subscribe(subscription)
  self.list[#self.list + 1] = subscription
  if not self.holding then return end
  if not self.tap then open(self, subscription.keep) end
  switch(self)
end

---@param subscription chalk.Subscription
function Events:unsubscribe(subscription)
  for i, other in ipairs(self.list) do
    if other == subscription then
      table.remove(self.list, i)
      break
    end
  end
  if not self.list[1] then self:close() end
  if self.holding then switch(self) end
end

-- Whether another process may be reading, when it has the role.
local function is_read(self)
  local passes, now = C.chalk_tap_passes(self.segment), C.chalk_now()
  if passes ~= self.passes then
    self.passes, self.passed_at = passes, now
  end
  return now - self.passed_at < ABANDONED
end

--- The role was taken: the tap is on for what is subscribed to here, and nothing else; but of a role that is taken by
--- turns, who subscribes to nothing leaves the others theirs.
---@param lasting boolean?
function Events:hold(lasting)
  self.holding = true
  if self.list[1] and not self.tap then open(self, true) end
  if self.list[1] or not (lasting and is_read(self)) then switch(self) end
end

--- The role is given back. `lasting`: to be taken again.
---@param lasting boolean?
function Events:release(lasting)
  self.holding = false
  if not lasting then switch(self, true) end
end

--- In a forked child the tap is the parent's.
function Events:forked()
  self:close()
  self.holding = false
end

--- The VM is closing: where the tap was freed before, the last events are for another one.
function Events:forsake()
  if not self.tap and self.holding and self.list[1] then open(self, true) end
end

local function hand_out(self, n)
  for _, subscription in ipairs { unpack(self.list) } do -- which may change meanwhile
    local ok, message = pcall(subscription.take, self.tap, n)
    if not ok then log.write("error", "events: " .. log.text(message)) end
  end
end

--- Counts events that went no further, by where.
---@param where "ring"|"series"|"client"|"queue"
---@param n integer
function Events:dropped(where, n)
  if n > 0 then self.client.own.stream_dropped:with(where):inc(n) end
end

--- Hands out what was recorded since the last time: `all` of it, or no more than takes a moment.
---@param all boolean?
function Events:pump(all)
  if not self.tap or self.pumping or not self.holding then return end
  self.pumping = true
  local batches, passes = 0, 0
  repeat
    local n = C.chalk_tap_read(self.tap)
    if n > 0 then hand_out(self, n) end
    batches = batches + 1
    -- The first pass to end may have begun before.
    if n < C.CHALK_TAP_BATCH then passes = passes + 1 end
  until n == 0 or not self.tap or passes == 2 or not all and batches == BATCHES
  self.pumping = false
  if self.tap then self:dropped("ring", tonumber(C.chalk_tap_dropped(self.tap))) end
end

return M
