-- Series handles and their verbs. A handle is a chalk_series (see chalk.h). To record into a count, `inc` compares the
-- epoch and stores; all other records are one call of the core.
--
-- LuaJIT omits a store of the value that it stored at the same address before. In a loop that is every store but the
-- first, although another process may have stored something else in between. So the only value stored from Lua is a sum
-- that was just computed: LuaJIT always takes it for a new value.
--
-- The order of reads in `inc` matters in the interpreter. There, reading a pointer allocates memory, so a finalizer may
-- run and bind this very handle again. `inc` reads `epoch` first and the pointers after it, and allocates nothing after
-- the comparison. If the handle was bound again in between, the comparison fails.

local core = require "chalk.core"
local kinds = require "chalk.define.kinds"
local shown = require "chalk.base.shown"
local sketch = require "chalk.record.sketch"

local ffi, C = core.ffi, core.C
local type = type

local COUNT, GAUGE, HISTOGRAM = C.CHALK_COUNT, C.CHALK_GAUGE, C.CHALK_HISTOGRAM
local MAX_COUNT = 2 ^ 53 -- whole doubles are exact up to here

-- The kinds by their numbers in the core.
local KINDS = {}
for _, kind in pairs(kinds.of) do
  KINDS[C[kind.constant]] = kind
end

-- Stands for the kind of a handle that is not bound.
local UNBOUND = { name = "series", verbs = { "none" } }

local M = {}

-- The clients of this VM by the number that handles carry. They are in Lua's registry because the metatype of handles
-- keeps the functions of the first load when modules are loaded again, and these must find later clients too.
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

-- Refuses a record: counts the error and passes it to `on_error`, or raises it at the line that called the verb. Level
-- 2 is that line if only tail calls lead here; a function that calls this otherwise passes level 3.
local function refuse(self, kind, message, level)
  local client = clients[self.client]
  if not client then return end
  message = client:metric_name(self.metric) .. ": " .. message
  if client:report(kind, message) then return end
  error(message, level or 2)
end

--- The message that a kind of metric does not have a verb.
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

--- Whether a value can be called: it is a function, or has a metamethod `__call`.
---@param f any
---@return boolean
function M.is_callable(f)
  local meta = debug.getmetatable(f)
  return type(f) == "function" or meta ~= nil and meta.__call ~= nil
end

local is_callable = M.is_callable

-- `time` of a series that is not a histogram. The application's function runs even if the record is refused.
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

-- Handles a code of the core other than 0: the handle was bound again, or the record was refused.
local function after_code(self, code, v)
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
  if code ~= 0 then after_code(self, code, n) end
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
  elseif type(n) ~= "number" or not (n >= 0 and n <= MAX_COUNT and n % 1 == 0) then
    return bad_count(self, n)
  end
  if shared[0] + own[0] == epoch then
    cell[0] = cell[0] + n
  else
    return slow_add(self, n)
  end
end

--- Subtracts n (default 1) from a gauge.
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
  if code ~= 0 then return after_code(self, code, v) end
end

-- The series is not a histogram, or the core returned another code than 0.
local function record_otherwise(self, code, v)
  if self.kind == COUNT then return self:inc(v) end
  if self.kind == GAUGE then return self:set(v) end
  return after_code(self, code, v)
end

--- Records a value into a histogram. On a count it is the same as inc, on a gauge the same as set.
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

--- Calls f and records the seconds that it took; returns what f returns, or raises what f raises.
---@param f function
function Series:time(f, ...)
  if self.kind ~= HISTOGRAM then return time_other(self, f, ...) end
  if type(f) ~= "function" and not is_callable(f) then return bad_function(self, f) end
  return finish(self, C.chalk_now(), pcall(f, ...))
end

--- Starts a clock. The returned function records the seconds since then, each time it is called.
---@return fun()
function Series:start()
  if self.kind ~= HISTOGRAM then return start_other(self) end
  local started = C.chalk_now()
  return function() return self:record(C.chalk_now() - started) end
end

--- Reads the series' total over all processes: a number, or a sketch if it is a histogram.
---@return number|chalk.Sketch
function Series:value()
  local client = clients[self.client]
  if client then client:on_stale() end
  if self.kind == HISTOGRAM then return sketch.own(C.chalk_series_sketch(self)) end
  return C.chalk_value(self)
end

local Handle = ffi.typeof "chalk_series"

-- An unknown name yields a function that refuses it, so that the message can name the series it is called on. LuaJIT
-- looks here only when the table of verbs lacks the name, so verbs cost nothing more.
local unknown = {}
function unknown.__index(_, name)
  return function(self)
    if ffi.istype(Handle, self) then return wrong_verb(self, tostring(name)) end
    local text = tostring(name)
    error(("chalk: %s must be called on a series, with a colon: series:%s(...)"):format(text, text), 2)
  end
end
setmetatable(Series, unknown)

local metatable = { __index = Series }
function metatable.__tostring(self) return "chalk.series: " .. KINDS[self.kind].name end
pcall(ffi.metatype, Handle, metatable)

local HEAD = ffi.offsetof("chalk_series", "key")

--- Makes a handle, which is not bound yet.
---@param client chalk.Client
---@param size integer the bytes of the key that it can hold
---@return chalk.Series
function M.new(client, size)
  local series = Handle(size)
  series.client = client.number
  return series
end

--- Copies the writer's scratch series, into which the core binds, to a handle.
---@param series chalk.Series
---@param scratch ffi.cdata*
---@param size integer the bytes of the key that the handle can hold
---@return boolean fits false, and nothing copied, when the key is longer
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

-- Names that are not verbs yield the empty function too.
local Null = { __index = function() return nothing end }

--- Makes a null series, which stands for a series where nothing is recorded: its verbs are empty functions, and `time`
--- only calls its function.
---@param kind chalk.Kind
---@return table
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
