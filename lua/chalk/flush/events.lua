-- The reader of the event tap. It switches the tap on for the kinds to which exporters subscribe, takes events out of
-- the writers' rings in batches, and hands each batch to every subscriber. A ring has only one reader at a time, so
-- only the holder of the flusher's role reads: `hold` begins reading and `release` ends it.
--
-- Between two holders the tap stays on for subscriptions with `keep`. Events that are recorded in that time wait in the
-- rings for the next holder.

local core = require "chalk.core"
local kinds = require "chalk.define.kinds"
local log = require "chalk.base.log"

local bit = require "bit"
local C = core.C

local M = {}

local BATCHES = 64 -- that one call of `pump` reads at most, because writers may record as fast as the reader reads
local ABANDONED = 60 -- seconds without a reader, after which a tap that another process switched on is switched off

---@class chalk.Subscription
---@field kinds string[] names of the kinds of metrics whose records are wanted
---@field events integer how many events each ring must hold at least
---@field keep boolean? whether events are kept that are recorded while no process holds the role
---@field take fun(tap: ffi.cdata*, n: integer) receives a batch: the first n events of chalk_tap_events(tap)

---@class chalk.Events
local Events = {}
Events.__index = Events

---@param client chalk.Client
---@return chalk.Events
function M.new(client) return setmetatable({ client = client, segment = client.segment, list = {} }, Events) end

--- Returns the core's bit mask of kinds.
---@param names string[]
---@return integer
function M.mask(names)
  local mask = 0
  for _, kind in ipairs(names) do
    mask = bit.bor(mask, bit.lshift(1, C[kinds.of[kind].constant]))
  end
  return mask
end

-- Returns the kinds and the ring size that all subscriptions want together, or those with `keep`.
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

-- Sets the tap to what is wanted. Without a reader the tap is off, because dropped series would wait for a reader.
local function switch(self, only_keep)
  local mask, events = 0, 0
  if self.tap then
    mask, events = wanted(self, only_keep)
  end
  C.chalk_tap_switch(self.segment, mask, events, 0)
end

-- Opens the reader. `keep`: it also reads the events that are in the rings already.
local function open(self, keep)
  local tap = C.chalk_tap_open(self.segment, keep and 1 or 0, core.message)
  if tap == nil then return log.write("error", "events: " .. core.said()) end
  self.tap = tap
  -- This is not ffi.gc, because lua_close runs the finalizers of cdata before the last flush. All taps share one
  -- finalizer, because that of an older tap would close the newer tap.
  self.guard = self.guard or core.finalizer(function() self:close() end)
end

--- Closes the reader.
function Events:close()
  local tap = self.tap
  self.tap = nil
  if tap then C.chalk_tap_close(tap) end
end

--- Adds a subscriber. While this process holds the role, it receives all events from now on.
---@param subscription chalk.Subscription
function Events:subscribe(subscription)
  self.list[#self.list + 1] = subscription
  if not self.holding then return end
  if not self.tap then open(self, subscription.keep) end
  switch(self)
end

--- Removes a subscriber. Without any the tap is off.
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

-- Whether the tap has been read in the last ABANDONED seconds, perhaps by another process while it held the role.
local function is_read(self)
  local passes, now = C.chalk_tap_passes(self.segment), C.chalk_now()
  if passes ~= self.passes then
    self.passes, self.passed_at = passes, now
  end
  return now - self.passed_at < ABANDONED
end

--- Begins reading, after this process took the role. The tap is set to the subscriptions of this process. With
--- `lasting`, processes alternate in the role, so one without subscriptions leaves the tap on while another reads it.
---@param lasting boolean? as in chalk.Flusher
function Events:hold(lasting)
  self.holding = true
  if self.list[1] and not self.tap then open(self, true) end
  if self.list[1] or not (lasting and is_read(self)) then switch(self) end
end

--- Ends reading, before this process releases the role. Without `lasting`, only subscriptions with `keep` stay on.
---@param lasting boolean? as in chalk.Flusher
function Events:release(lasting)
  self.holding = false
  if not lasting then switch(self, true) end
end

--- Closes this process's copy of the reader, in a forked child. The reader itself belongs to the parent.
function Events:forked()
  self:close()
  self.holding = false
end

--- Prepares the last flush in a VM that is being closed: opens a new reader if the old one was freed already.
function Events:forsake()
  if not self.tap and self.holding and self.list[1] then open(self, true) end
end

local function hand_out(self, n)
  for _, subscription in ipairs { unpack(self.list) } do -- a copy: `take` may change the list
    local ok, message = pcall(subscription.take, self.tap, n)
    if not ok then log.write("error", "events: " .. log.text(message)) end
  end
end

--- Counts events that were dropped.
---@param where "ring"|"series"|"client"|"queue" where they were dropped
---@param n integer
function Events:dropped(where, n)
  if n > 0 then self.client.own.stream_dropped:with(where):inc(n) end
end

--- Hands events to the subscribers.
---@param all boolean? true: all events recorded until now; otherwise at most BATCHES batches
function Events:pump(all)
  if not self.tap or self.pumping or not self.holding then return end
  self.pumping = true
  local batches, passes = 0, 0
  repeat
    local n = C.chalk_tap_read(self.tap)
    if n > 0 then hand_out(self, n) end
    batches = batches + 1
    -- The first pass that ends may have begun in an earlier call, so only the end of a second one means that all
    -- events recorded before this call were read.
    if n < C.CHALK_TAP_BATCH then passes = passes + 1 end
  until n == 0 or not self.tap or passes == 2 or not all and batches == BATCHES
  self.pumping = false
  if self.tap then self:dropped("ring", tonumber(C.chalk_tap_dropped(self.tap))) end
end

return M
