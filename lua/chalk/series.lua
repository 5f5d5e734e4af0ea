-- Series handles and their verbs. A handle is a chalk_series (see chalk.h); a record is a comparison and a store.
--
-- The order of reads in a verb matters in the interpreter, where reading a pointer allocates, so that a finalizer may
-- run and bind this very handle anew. `epoch` is read first, then the pointers; after the comparison nothing
-- allocates. If the handle was bound anew in between, the comparison fails.

local core = require "chalk.core"
local sketch = require "chalk.sketch"

local ffi, C = core.ffi, core.C
local type = type

local COUNT, GAUGE, HISTOGRAM = C.CHALK_COUNT, C.CHALK_GAUGE, C.CHALK_HISTOGRAM
local MOST = 2 ^ 53
local KINDS = { [COUNT] = "count", [GAUGE] = "gauge", [HISTOGRAM] = "histogram" }
local VERBS = { [COUNT] = "inc, record", [GAUGE] = "set, inc, dec, record", [HISTOGRAM] = "record, time, start" }

local M = {}

-- The clients of this VM by the number that handles carry; the client module puts them here.
M.clients = setmetatable({}, { __mode = "v" })

---@class chalk.Series
local Series = {}

local function shown(value)
  if type(value) == "string" then return ("%q"):format(value:sub(1, 40)) end
  return tostring(value)
end

-- What a caller did wrong: raised at the line that called the verb, whose frame the tail calls have replaced.
local function refuse(self, kind, message)
  local client = M.clients[self.client]
  if not client then return end
  message = client:metric_name(self.metric) .. ": " .. message
  if client:report(kind, message) then return end
  error(message, 2)
end

local function wrong_verb(self, verb)
  local kind = self.kind
  return refuse(
    self,
    "verb",
    ("a %s has no %s; its verbs are %s"):format(KINDS[kind] or "series", verb, VERBS[kind] or "none")
  )
end

local function bad_count(self, n)
  return refuse(self, "value", "a count takes a whole number from 0 to 2^53, not " .. shown(n))
end

local function bad_number(self, v)
  return refuse(self, "value", ("a %s takes a number, not %s"):format(KINDS[self.kind], shown(v)))
end

-- The call of the core that could not record, or recorded in a way worth a note.
local function failed(self, code, v)
  local client = M.clients[self.client]
  if not client then return end
  if code == C.CHALK_ENUMBER then
    client:count_error "not_finite"
  elseif code == C.CHALK_EMEMORY then
    client:count_error "memory"
  elseif code == C.CHALK_EGONE and client:redefine(self) then
    if self.kind == HISTOGRAM then
      C.chalk_record(self, v)
    elseif self.kind == GAUGE then
      C.chalk_set(self, v)
    else
      C.chalk_add(self, v)
    end
  end
end

-- Off the inlined path: the handle is to be bound anew.
local function stale(self)
  local client = M.clients[self.client]
  if client then client:on_stale() end
end

local function slow_add(self, n)
  stale(self)
  local code = C.chalk_add(self, n)
  if code ~= 0 then failed(self, code, n) end
end

local function slow_set(self, v)
  stale(self)
  local code = C.chalk_set(self, v)
  if code ~= 0 then failed(self, code, v) end
end

local function add_gauge(self, n, sign)
  if n == nil then n = 1 end
  if type(n) ~= "number" then return bad_number(self, n) end
  if self.shared[0] + self.own[0] ~= self.epoch then stale(self) end
  local code = C.chalk_add(self, n * sign)
  if code ~= 0 then failed(self, code, n * sign) end
end

local function inc_other(self, n)
  if self.kind == GAUGE then return add_gauge(self, n, 1) end
  return wrong_verb(self, "inc")
end

--- Adds n (default 1) to a count or a gauge.
---@param n? number a count takes whole numbers from 0 to 2^53
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
---@param n? number
function Series:dec(n)
  if self.kind ~= GAUGE then return wrong_verb(self, "dec") end
  return add_gauge(self, n, -1)
end

--- Sets a gauge.
---@param v number
function Series:set(v)
  local epoch = self.epoch
  local cell, shared, own = self.cell, self.shared, self.own
  if self.kind ~= GAUGE then return wrong_verb(self, "set") end
  if type(v) ~= "number" then return bad_number(self, v) end
  if shared[0] + own[0] == epoch then
    cell[0] = v
    cell[1] = 1
  else
    return slow_set(self, v)
  end
end

local function record_other(self, v)
  if self.kind == COUNT then return self:inc(v) end
  return self:set(v)
end

--- Records a value: of a histogram; on a count it is inc, on a gauge set.
---@param v number
function Series:record(v)
  if self.kind ~= HISTOGRAM then return record_other(self, v) end
  if type(v) ~= "number" then return bad_number(self, v) end
  if self.shared[0] + self.own[0] ~= self.epoch then stale(self) end
  local code = C.chalk_record(self, v)
  if code ~= 0 then return failed(self, code, v) end
end

local function finish(self, started, ok, ...)
  self:record(C.chalk_now() - started)
  if not ok then error((...), 0) end
  return ...
end

--- Calls f and records the seconds it took; returns or raises what f does.
---@param f function
function Series:time(f, ...)
  if self.kind ~= HISTOGRAM then return wrong_verb(self, "time") end
  return finish(self, C.chalk_now(), pcall(f, ...))
end

--- Starts a clock: the function returned records the seconds since, each time it is called.
---@return fun()
function Series:start()
  if self.kind ~= HISTOGRAM then return wrong_verb(self, "start") end
  local started = C.chalk_now()
  return function() return self:record(C.chalk_now() - started) end
end

--- The total over all processes: a number, or for a histogram a sketch.
---@return number|chalk.Sketch
function Series:value()
  if self.shared[0] + self.own[0] ~= self.epoch then stale(self) end
  if self.kind == HISTOGRAM then return sketch.own(C.chalk_series_sketch(self)) end
  return C.chalk_value(self)
end

local Handle = ffi.typeof "chalk_series"
pcall(ffi.metatype, Handle, { __index = Series, __tostring = function(self) return "chalk.series: " .. KINDS[self.kind] end })

local HEAD = ffi.offsetof("chalk_series", "key")

--- A copy of the writer's scratch series, as just bound, for a client of this VM.
---@param scratch ffi.cdata*
---@param client integer
---@return chalk.Series
function M.copy(scratch, client)
  local series = Handle(scratch.key_size)
  ffi.copy(series, scratch, HEAD + scratch.key_size)
  series.client = client
  return series
end

-- What stands in where nothing is to be recorded: every verb is an empty function.
local function nothing() end

local Null = { inc = nothing, dec = nothing, set = nothing, record = nothing }

function Null.time(_, f, ...) return f(...) end

function Null.start() return nothing end

---@param kind "count"|"gauge"|"histogram"
function M.null(kind)
  local null = setmetatable({}, { __index = Null })
  function null.value() return kind == "histogram" and sketch.new() or 0 end
  return null
end

M.verbs = { count = { "inc", "record" }, gauge = { "set", "inc", "dec", "record" }, histogram = { "record", "time", "start" } }

return M
