-- Makes the accessor of a definition: the object that users know as the metric, with `metric{...}`, `with`, `remove`,
-- `clear` and, if it has no tags, its verbs.
--
-- The generated lookup (chalk.record.source) finds known series in nested tables. On a miss it calls a function made
-- here, which checks the tag values, asks the core for the series, and adds the series to the tables. So values are
-- checked on a miss only: the values of a hit passed the checks before. A series is added only if the core stored the
-- tag values unchanged and did not fold them into the overflow series; otherwise the tables could grow without limit.

local core = require "chalk.core"
local kinds = require "chalk.define.kinds"
local series = require "chalk.record.series"
local shown = require "chalk.base.shown"
local source = require "chalk.record.source"
local suggest = require "chalk.base.suggest"
local clear = require "table.clear"

local ffi, C = core.ffi, core.C

local M = {}

---@class chalk.Metric the accessor of a definition; without tags it also has the verbs of a series
---@overload fun(tags: table<string, string|number|boolean>): chalk.Series
---@field with fun(self: chalk.Metric, ...: string|number|boolean|nil): chalk.Series tag values in declared order
---@field remove fun(self: chalk.Metric, tags: table): boolean drops one series; false if it did not exist
---@field clear fun(self: chalk.Metric): integer drops all series of the metric and returns how many there were

---@class chalk.MetricState the private state of an accessor, which its functions share
---@field client chalk.Client
---@field definition chalk.Definition
---@field number integer? the metric's number in the segment, once the core knows the definition
---@field cache table the nested tables with known series, by tag value
---@field forget fun() empties them
---@field meta table the accessor's metatable
---@field methods table its functions by name
---@field null table the null series, for lookups that are refused

-- The key of an absent optional tag in the nested tables.
local ABSENT = setmetatable({}, { __tostring = function() return "absent" end })

-- Checks of tags, on a miss

local function keys_of(definition)
  return source.each_tag(definition.tags, function(_, tag) return tag.key end)
end

-- The text of a whole number; nil for any other number.
local function whole(n)
  if n % 1 ~= 0 or n - n ~= 0 then return nil end
  if n > -2 ^ 53 and n < 2 ^ 53 then return ("%d"):format(n) end
  return ("%.0f"):format(n)
end

-- The text of a tag value, "" when it is absent; nil and a message when the value is not allowed.
local function text_of(tag, value)
  if value == nil or value == ABSENT then
    if tag.optional then return "" end
    return nil, ("missing tag %q"):format(tag.key)
  end
  local kind, text = type(value), nil
  if kind == "string" then
    text = value
  elseif kind == "number" then
    text = whole(value)
  elseif kind == "boolean" then
    text = tostring(value)
  end
  if not text then
    return nil, ("tag %q takes a string, a whole number or a boolean, not %s"):format(tag.key, shown(value))
  end
  return text
end

local function check_enum(tag, text)
  if tag.kind ~= "enum" or (text == "" and tag.optional) then return nil end
  for _, allowed in ipairs(tag.values) do
    if allowed == text then return nil end
  end
  local hint = suggest(text, tag.values)
  return ("tag %q is one of %s, not %s%s"):format(
    tag.key,
    table.concat(tag.values, ", "),
    shown(text),
    hint and ", " .. hint or ""
  )
end

local function unknown_tag(definition, tags)
  local keys = keys_of(definition)
  for key in pairs(tags) do
    local found = false
    for _, known in ipairs(keys) do
      found = found or known == key
    end
    if not found then
      local hint = type(key) == "string" and suggest(key, keys)
      return ("unknown tag %s%s; its tags are %s"):format(
        shown(key),
        hint and ", " .. hint or "",
        table.concat(keys, ", ")
      )
    end
  end
  return nil
end

-- Puts the texts of all tag values into `out` and returns it; or returns nil and a message.
local function texts_of(out, definition, tags, ...)
  local message = tags and unknown_tag(definition, tags)
  if message then return nil, message end
  for i, tag in ipairs(definition.tags) do
    local text, problem = text_of(tag, (select(i, ...)))
    problem = problem or check_enum(tag, text)
    if problem then return nil, problem end
    out[i] = text
  end
  return out
end

local function missing(definition)
  return ("tags are missing, expected %s{ %s }"):format(
    definition.id_name,
    table.concat(
      source.each_tag(definition.tags, function(_, tag) return source.written(tag) .. " = ..." end),
      ", "
    )
  )
end

-- Refuses a lookup: counts the error and passes it to `on_error`, or raises it at the line that called the accessor.
-- Level 2 is that line if only tail calls lead here; a function that calls this otherwise passes level 3.
local function refused(state, kind, message, level)
  message = state.definition.id_name .. ": " .. message
  if state.client:report(kind, message) then return state.null end
  error(message, level or 2)
end

-- Binding

-- The buffer that passes the texts of tag values to the core. A finalizer may run, and bind or drop other series,
-- wherever memory is allocated and wherever LuaJIT leaves compiled code. So a lookup takes the buffer before its first
-- text and gives it back when the core has read the texts; a lookup that runs in between makes a buffer of its own.
--
-- All sizes behind the texts are 0. If the core took the metric for one with more tags, it would find empty values
-- there, and not texts of another lookup.
local Texts =
  ffi.typeof(("struct { const char *values[%d]; size_t sizes[%d]; }"):format(C.CHALK_TAGS, C.CHALK_TAGS))
local SIZES = ffi.sizeof(Texts) / 2
local usual_buffer, taken = Texts(), false

local function take_buffer()
  if taken then return Texts() end
  taken = true
  return usual_buffer
end

local function give_back(buffer)
  if buffer ~= usual_buffer then return end
  ffi.fill(buffer.sizes, SIZES)
  taken = false
end

local function put(buffer, texts)
  for i, text in ipairs(texts) do
    buffer.values[i - 1] = text
    buffer.sizes[i - 1] = #text
  end
end

-- How often binds and removes have used the scratch so far. The core leaves the series that it bound in one struct, the
-- client's scratch. If a finalizer binds another series between a bind and the copy of scratch, this number changes,
-- and the copy is not used.
local binds = 0

-- The size of a key: each text follows its length, which has two bytes.
local function size_of(texts)
  local size = 0
  for _, text in ipairs(texts) do
    size = size + 2 + #text
  end
  return size
end

-- Adds a series to the nested tables. `...` are the tag values as the caller gave them.
local function remember(cache, found, order, ...)
  local node, n = cache, #order
  for i = 1, n - 1 do
    local value = (select(order[i], ...))
    local next = node[value]
    if not next then
      next = {}
      node[value] = next
    end
    node = next
  end
  node[(select(order[n], ...))] = found
end

-- Asks the core for the series of the texts in the buffer and copies it to the handle `found`. Returns the core's code,
-- whether the core stored the texts unchanged, and whether the key fits into the handle; or nil when another series was
-- bound in between.
local function bind_into(found, size, client, number, buffer)
  binds = binds + 1
  local mine = binds
  local code = C.chalk_bind(client.writer, number, buffer.values, buffer.sizes)
  if code == C.CHALK_ECLOSED then return code, false, true end
  local exact = C.chalk_bound_as_given(client.writer) == 1
  local fits = series.copy(found, client.scratch, size)
  if binds ~= mine then return nil end
  return code, exact, fits
end

-- Binds until nothing comes in between. Returns the handle, the core's code, and whether the core stored the texts
-- unchanged; no handle when the VM is closing. A definition that has left the segment is defined again, once.
local function bind_once(state, texts)
  local client, size, defined = state.client, size_of(texts), false
  while true do
    local found, buffer = series.new(client, size), take_buffer()
    put(buffer, texts)
    local code, exact, fits = bind_into(found, size, client, state.number, buffer)
    give_back(buffer)
    if code == C.CHALK_ECLOSED then return nil, code, false end
    if code == C.CHALK_EGONE and not defined then
      client:define(state)
      defined = true
    elseif code and fits then
      return found, code, exact
    elseif code then
      size = client.scratch.key_size
    end
  end
end

-- Returns a handle of the series with these texts, and whether it may be added to the nested tables.
local function bind(state, texts)
  local client = state.client
  client:on_stale()
  local found, code, exact = bind_once(state, texts)
  if not found then return state.null, false end
  if code == C.CHALK_FOLDED then client:count_overflow(state) end
  if code < 0 then client:count_error("memory", state) end
  return found, code == C.CHALK_OK and exact
end

local function new_miss(state)
  local definition, cache = state.definition, state.cache
  local order = source.order(definition.tags)
  local spare -- a table for texts, used by one miss at a time: a finalizer may cause a miss in the middle of another
  return function(tags, ...)
    local list = spare or {}
    spare = nil
    local texts, message = texts_of(list, definition, tags, ...)
    if not texts then return refused(state, "tag", message) end
    local found, keep = bind(state, texts)
    spare = list
    if keep then remember(cache, found, order, ...) end
    return found
  end
end

-- The function that refuses an argument that is not a table, or more values than `with` takes.
local function new_refuse(state)
  local definition = state.definition
  return function(given, extra)
    local message
    if extra then
      local keys = table.concat(keys_of(definition), ", ")
      message = ("with takes %d values, in this order: %s"):format(#definition.tags, keys)
    elseif type(given) == "table" then
      message = unknown_tag(definition, given)
    else
      message = missing(definition)
    end
    return refused(state, "tag", message)
  end
end

local function new_check(definition)
  return function(tags) return not unknown_tag(definition, tags) end
end

-- What a metric does not have: verbs if it has tags, tags if it has none, and unknown names

local function no_verb(definition, verb) return series.no_verb(kinds.of[definition.type], verb) end

-- A verb that a metric does not have. If refusing it does not raise, it does what the verb of a null series does.
local function refusal(state, verb)
  local definition = state.definition
  local message = #definition.tags > 0 and missing(definition) or no_verb(definition, verb)
  return function(_, ...)
    refused(state, "verb", message, 3)
    return state.null[verb](state.null, ...)
  end
end

local VERBS = { "value", unpack(kinds.verbs) }

local function add_refusals(state, methods)
  for _, verb in ipairs(VERBS) do
    methods[verb] = rawget(methods, verb) or refusal(state, verb)
  end
end

-- The value of an unknown name is a function that refuses it. A name that begins with "_" is nil: functions that print
-- or compare tables ask for these.
local function new_unknown(state)
  return function(_, name)
    if type(name) ~= "string" or name:find "^_" then return nil end
    if not state.client.enabled then return state.null[name] end
    return function() return refused(state, "verb", no_verb(state.definition, name)) end
  end
end

local function load_source(state)
  local chunk = source.write(state.definition, state.client.strict)
  return assert(loadstring(chunk, "=chalk:" .. state.definition.id_name))
end

-- The functions `make` and `bind` of the generated source, which puts the texts into the buffer between them. They do
-- what bind_once does in the usual case.
local function new_halves(state)
  local client = state.client
  local function make(size)
    client:on_stale()
    return series.new(client, size), size, take_buffer()
  end
  -- Returns the handle and whether it may be added to the tables; nil when bind_once has to do it.
  local function bind_made(found, size, buffer)
    local code, exact, fits = bind_into(found, size, client, state.number, buffer)
    give_back(buffer)
    if not code or code < 0 or not fits then return nil end
    if code == C.CHALK_OK then return found, exact end
    client:count_overflow(state)
    return found, false
  end
  return make, bind_made
end

-- The set of the tags' keys, and for each tag the set of its enum's values.
local function sets_of(definition)
  local known, allowed = {}, {}
  for i, tag in ipairs(definition.tags) do
    known[tag.key] = true
    allowed[i] = {}
    for _, value in ipairs(tag.values or {}) do
      allowed[i][value] = true
    end
  end
  return known, allowed
end

local function add_tagged(state, meta, methods)
  local accessor, miss, refuse = load_source(state), new_miss(state), new_refuse(state)
  local check, known, allowed = new_check(state.definition), sets_of(state.definition)
  local make, bind_made = new_halves(state)
  local call, with = accessor(state.cache, ABSENT, miss, refuse, check, known, allowed, make, bind_made)
  meta.__call = call
  methods.with = with
end

local NO_TAGS = "the metric has no tags: give none"

local function add_untagged(state, meta, methods)
  local found = bind(state, {})
  for verb, f in pairs(load_source(state)(found)) do
    methods[verb] = f
  end
  function methods.value() return found:value() end
  function methods.with(_, extra)
    if extra ~= nil then return refused(state, "tag", NO_TAGS) end
    return found
  end
  function meta.__call(_, tags)
    if type(tags) ~= "table" or next(tags) ~= nil then return refused(state, "tag", NO_TAGS) end
    return found
  end
end

local function add_disabled(state, meta, methods)
  local null = state.null
  for _, verb in ipairs(VERBS) do
    methods[verb] = null[verb]
  end
  local function found() return null end
  meta.__call, methods.with = found, found
  function methods.remove() return false end
  function methods.clear() return 0 end
end

-- Dropping

-- Calls `f`, which drops series, and returns how many it dropped. A definition may have left the segment, for example
-- before a forked process records for the first time; then the metric is defined and `f` is called again.
local function dropped_by(state, f)
  local client = state.client
  local dropped = f()
  if dropped == C.CHALK_EGONE then
    client:define(state)
    dropped = f()
  end
  dropped = math.max(dropped, 0)
  client:on_stale()
  client:tidy(dropped)
  return dropped
end

-- Drops the series with these tags. Returns whether there was one.
local function remove(state, tags)
  local definition, list = state.definition, {}
  local texts, message = nil, missing(definition)
  if tags == nil then tags = {} end
  if type(tags) == "table" then
    for i, tag in ipairs(definition.tags) do
      list[i] = tags[tag.key]
    end
    texts, message = texts_of({}, definition, tags, unpack(list, 1, #definition.tags))
  end
  if not texts then
    refused(state, "tag", message, 3)
    return false
  end
  return dropped_by(state, function()
    local buffer = take_buffer()
    put(buffer, texts)
    binds = binds + 1
    local dropped = C.chalk_remove(state.client.writer, state.number, buffer.values, buffer.sizes)
    give_back(buffer)
    return dropped
  end) == 1
end

local function drop_all(state)
  return dropped_by(state, function() return C.chalk_clear(state.client.writer, state.number) end)
end

-- The accessor

--- Makes the functions of a metric, for the options that are in force now. The core must know the definition, unless
--- the client is disabled.
---@param state chalk.MetricState
function M.fill(state)
  local meta, methods = state.meta, state.methods
  clear(methods)
  if not state.client.enabled then return add_disabled(state, meta, methods) end
  function methods.remove(_, tags) return remove(state, tags) end
  function methods.clear() return drop_all(state) end
  if #state.definition.tags > 0 then
    add_tagged(state, meta, methods)
  else
    add_untagged(state, meta, methods)
  end
  add_refusals(state, methods)
end

--- Returns the private state of an accessor.
---@param metric any
---@return chalk.MetricState? state nil when the argument is not a metric
function M.state_of(metric)
  local meta = type(metric) == "table" and getmetatable(metric)
  return meta and meta.__chalk or nil
end

--- Makes the accessor of a definition. It has no functions until `fill` is called.
---@param client table
---@param definition table
---@return chalk.Metric
function M.new(client, definition)
  local methods = {}
  local meta = { __index = methods, __name = "chalk.metric" }
  function meta.__tostring() return ("chalk.metric: %s (%s)"):format(definition.id_name, definition.type) end
  local state = {
    client = client,
    definition = definition,
    cache = {},
    meta = meta,
    methods = methods,
    null = series.null(kinds.of[definition.type]),
  }
  local metric = setmetatable({}, meta)
  meta.__chalk = state
  setmetatable(methods, { __index = new_unknown(state) })
  function state.forget() clear(state.cache) end
  return metric
end

return M
