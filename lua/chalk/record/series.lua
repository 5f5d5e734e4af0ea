-- Series handles and their verbs. A handle is a chalk_series (see chalk.h). A count's record is a comparison and a
-- store; all others are one call of the core.
--
-- LuaJIT leaves out a store of the value that it stored in the same place before, which in a loop is every store but
-- the first. It does not know that other processes store there too. So only a sum that was just worked out may be
-- stored from here: LuaJIT always takes that for a new value.
--
-- The order of reads in `inc` matters in the interpreter, where reading a pointer allocates, so that a finalizer may
-- run and bind this very handle anew. `epoch` is read first, then the pointers; after the comparison nothing
-- allocates. If the handle was bound anew in between, the comparison fails.

local core = require "chalk.core"
local kinds = require "chalk.define.kinds"
local sketch = require "chalk.record.sketch"

local ffi, C = core.ffi, core.C
local type = type

local COUNT, GAUGE, HISTOGRAM = C.CHALK_COUNT, C.CHALK_GAUGE, C.CHALK_HISTOGRAM
local MOST = 2 ^ 53

-- The kinds by the core's numbers.
local KINDS = {}
for _, kind in pairs(kinds.of) do
  KINDS[C[kind.constant]] = kind
end

-- A handle that is of no kind.
local UNBOUND = { name = "series", verbs = { "none" } }

local M = {}

-- The clients of this VM by the number that handles carry. They outlive a reload of the modules, as the metatype of
-- handles does, whose functions are those of the first load.
local registry = debug.getregistry()
local vm = registry["chalk.record.series"] or { clients = setmetatable({}, { __mode = "v" }), last = 0 }
registry["chalk.record.series"] = vm
local clients = vm.clients

--- Gives a client its number.
---@param client chalk.Client
---@return integer
function M.register(client)
  vm.last = vm.last + 1
  clients[vm.last] = client
  return vm.last
end

---@class chalk.Series
local Series = {}

local function shown(value)
  if type(value) == "string" then return ("%q"):format(value:sub(1, 40)) end
  return tostring(value)
end

-- What a caller did wrong: raised at the line that called the verb, whose frame the tail calls have replaced; or a
-- level above where they have not.
local function refuse(self, kind, message, level)
  local client = clients[self.client]
  if not client then return end
  message = client:metric_name(self.metric) .. ": " .. message
  if client:report(kind, message) then return end
  error(message, level or 2)
end

--- That a kind of metric lacks a verb, in words.
---@param kind chalk.Kind
---@param verb string
---@return string
function M.no_verb(kind, verb)
  return ("a %s has no %s; its verbs are %s"):format(kind.name, verb, table.concat(kind.verbs, ", "))
end

local function wrong_verb(self, verb, level)
  local kind = KINDS[self.kind] or UNBOUND
  return refuse(self, "verb", M.no_verb(kind, verb), level)
end

local function nothing() end

--- Whether it can be called, be it a function or not.
---@return boolean
function M.is_callable(f)
  local meta = debug.getmetatable(f)
  return type(f) == "function" or meta ~= nil and meta.__call ~= nil
end

local is_callable = M.is_callable

-- The application's function runs, whatever becomes of the record.
local function time_other(self, f, ...)
  wrong_verb(self, "time", 3)
  if is_callable(f) then return f(...) end
end

local function bad_function(self, f) return refuse(self, "value", "time takes a function, not " .. shown(f)) end

local function start_other(self)
  wrong_verb(self, "start", 3)
  return nothing
end

local function bad_count(self, n)
  return refuse(self, "value", "a count takes a whole number from 0 to 2^53, not " .. shown(n))
end

local function bad_number(self, v)
  return refuse(self, "value", ("a %s takes a number, not %s"):format(KINDS[self.kind].name, shown(v)))
end

-- What the core answered where it did not just record: the handle was bound anew, or the record was refused.
local function noted(self, code, v)
  local client = clients[self.client]
  if not client then return end
  if code == C.CHALK_REBOUND then return client:on_stale() end
  if code == C.CHALK_FOLDED then
    client:on_stale()
    return client:count_overflow(client.by_number[self.metric])
  end
  if code == C.CHALK_ENUMBER then return client:count_error "not_finite" end
  if code == C.CHALK_EMEMORY then return client:count_error("memory", client.by_number[self.metric]) end
  if code ~= C.CHALK_EGONE or not client:redefine(self) then return end
  if self.kind == HISTOGRAM then return C.chalk_record(self, v) end
  if self.kind == GAUGE then return C.chalk_set(self, v) end
  return C.chalk_add(self, v)
end

local function slow_add(self, n)
  local code = C.chalk_add(self, n)
  if code ~= 0 then noted(self, code, n) end
end

local function add_gauge(self, n, sign)
  if n == nil then n = 1 end
  if type(n) ~= "number" then return bad_number(self, n) end
  return slow_add(self, n * sign)
end

local function inc_other(self, n)
  if self.kind == GAUGE then return add_gauge(self, n, 1) end
  return wrong_verb(self, "inc")
end

--- Adds n (default 1) to a count or a gauge.
---@param n number? a count takes whole numbers from 0 to 2^53
function Series:inc(n)
  local epoch = self.epoch
  local cell, shared, own = self.cell, self.shared, self.own
  if self.kind ~= COUNT then return inc_other(self, n) end
  if n == nil then
    n = 1
  elseif type(n) ~= "number" or not (n >= 0 and n <= MOST and n % 1 == 0) then
    return bad_count(self, n)
  end
  if shared[0] + own[0] == epoch then
    cell[0] = cell[0] + n
  else
    return slow_add(self, n)
  end
end

--- Takes n (default 1) off a gauge.
---@param n number?
function Series:dec(n)
  if self.kind ~= GAUGE then return wrong_verb(self, "dec") end
  return add_gauge(self, n, -1)
end

--- Sets a gauge.
---@param v number
function Series:set(v)
  if self.kind ~= GAUGE then return wrong_verb(self, "set") end
  if type(v) ~= "number" then return bad_number(self, v) end
  local code = C.chalk_set(self, v)
  if code ~= 0 then return noted(self, code, v) end
end

-- Not a histogram, or a record worth a note.
local function record_otherwise(self, code, v)
  if self.kind == COUNT then return self:inc(v) end
  if self.kind == GAUGE then return self:set(v) end
  return noted(self, code, v)
end

--- Records a value: of a histogram; on a count it is inc, on a gauge set.
---@param v number
function Series:record(v)
  if type(v) ~= "number" then
    if self.kind == COUNT then return self:inc(v) end
    return bad_number(self, v)
  end
  local code = C.chalk_record(self, v)
  if code ~= 0 then return record_otherwise(self, code, v) end
end

local function finish(self, started, ok, ...)
  self:record(C.chalk_now() - started)
  if not ok then error((...), 0) end
  return ...
end

--- Calls f and records the seconds it took; returns or raises what f does.
---@param f function
function Series:time(f, ...)
  if self.kind ~= HISTOGRAM then return time_other(self, f, ...) end
  if type(f) ~= "function" and not is_callable(f) then return bad_function(self, f) end
  return finish(self, C.chalk_now(), pcall(f, ...))
end

--- Starts a clock: the function returned records the seconds since, each time it is called.
---@return fun()
function Series:start()
  if self.kind ~= HISTOGRAM then return start_other(self) end
  local started = C.chalk_now()
  return function() return self:record(C.chalk_now() - started) end
end

--- The total over all processes: a number, or for a histogram a sketch.
---@return number|chalk.Sketch
function Series:value()
  local client = clients[self.client]
  if client then client:on_stale() end
  if self.kind == HISTOGRAM then return sketch.own(C.chalk_series_sketch(self)) end
  return C.chalk_value(self)
end

local Handle = ffi.typeof "chalk_series"

-- A name that no series has gives a function, which says so of the series that it is called on. LuaJIT asks for it only
-- when the table of verbs lacks the name, so verbs cost what they do without it.
local unknown = {}
function unknown.__index(_, name)
  return function(self)
    if ffi.istype(Handle, self) then return wrong_verb(self, tostring(name)) end
    error(
      ("chalk: %s is called on a series, with a colon: series:%s(...)"):format(tostring(name), tostring(name)),
      2
    )
  end
end
setmetatable(Series, unknown)

local metatable = { __index = Series }
function metatable.__tostring(self) return "chalk.series: " .. KINDS[self.kind].name end
pcall(ffi.metatype, Handle, metatable)

local HEAD = ffi.offsetof("chalk_series", "key")

--- A handle for a client of this VM, with room for a key.
---@param client chalk.Client
---@param size integer
---@return chalk.Series
function M.new(client, size)
  local series = Handle(size)
  series.client = client.number
  return series
end

--- Makes it a copy of the writer's scratch series, as just bound. False: the key is longer than size.
---@param series chalk.Series
---@param scratch ffi.cdata*
---@param size integer
---@return boolean
function M.copy(series, scratch, size)
  local key_size = scratch.key_size
  if key_size > size then return false end
  scratch.client = series.client
  ffi.copy(series, scratch, HEAD + key_size)
  return true
end

local function only_call(_, f, ...)
  if type(f) == "function" or is_callable(f) then return f(...) end
end

local function start_nothing() return nothing end

-- Verbs that nothing has are empty too.
local Null = { __index = function() return nothing end }

--- What stands in where nothing is to be recorded: every verb is an empty function, and time only calls its function.
---@param kind chalk.Kind
function M.null(kind)
  return setmetatable({
    inc = nothing,
    dec = nothing,
    set = nothing,
    record = nothing,
    time = only_call,
    start = start_nothing,
    value = function() return kind.holds == "sketch" and sketch.new() or 0 end,
  }, Null)
end

return M
