-- Definitions -> accessors. The generated lookup remembers series in nested tables; what it does not find it asks here:
-- the values are checked, the core gives the series, and it is remembered if it may be. Checks are made only then: a
-- hit has passed them.
--
-- A metric without tags is its own series: its verbs are generated onto it.

local core = require "chalk.core"
local kinds = require "chalk.define.kinds"
local series = require "chalk.record.series"
local source = require "chalk.record.source"
local suggest = require "chalk.base.suggest"
local clear = require "table.clear"

local ffi, C = core.ffi, core.C

local M = {}

-- Stands for an optional tag that is absent, in the nested tables.
local ABSENT = setmetatable({}, { __tostring = function() return "absent" end })

-- Checking, on a miss

local function shown(value)
  if type(value) == "string" then return ("%q"):format(#value > 40 and value:sub(1, 40) .. "..." or value) end
  return tostring(value)
end

local function keys_of(definition)
  return source.each_tag(definition.tags, function(_, tag) return tag.key end)
end

local function whole(n)
  if n % 1 ~= 0 or n - n ~= 0 then return nil end
  if n > -2 ^ 53 and n < 2 ^ 53 then return ("%d"):format(n) end
  return ("%.0f"):format(n)
end

-- A tag value as text; nil and a message when it is none.
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

---@class chalk.Metric
---@field package definition table

-- The texts of all values, in `out`, or nil and a message.
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
  return ("its tags are to be given: %s{ %s }"):format(
    definition.id_name,
    table.concat(
      source.each_tag(definition.tags, function(_, tag) return source.written(tag) .. " = ..." end),
      ", "
    )
  )
end

-- Raises at the caller of the accessor, whose own frame the tail calls have replaced; or a level above.
local function refused(state, kind, message, level)
  message = state.definition.id_name .. ": " .. message
  if state.client:report(kind, message) then return state.null end
  error(message, level or 2)
end

-- Texts on their way to the core. A finalizer may bind or drop other series wherever memory is allocated, and wherever
-- LuaJIT leaves compiled code: so whoever puts texts into a room has it for himself until the core has seen them.
-- Behind them all sizes are 0: should the core take a metric for one of more tags, it finds no text of another lookup.
local Room = ffi.typeof(("struct { const char *values[%d]; size_t sizes[%d]; }"):format(C.CHALK_TAGS, C.CHALK_TAGS))
local SIZES = ffi.sizeof(Room) / 2
local usual_room, taken = Room(), false

local function take_room()
  if taken then return Room() end
  taken = true
  return usual_room
end

local function give_room(room)
  if room ~= usual_room then return end
  ffi.fill(room.sizes, SIZES)
  taken = false
end

local function put(room, texts)
  for i, text in ipairs(texts) do
    room.values[i - 1] = text
    room.sizes[i - 1] = #text
  end
end

-- Counts what is bound. The core leaves what it bound in one place, the client's scratch; that it was not another one's
-- meanwhile shows when this has not moved between the bind and the copy.
local binds = 0

local function size_of(texts)
  local size = 0
  for _, text in ipairs(texts) do
    size = size + 2 + #text
  end
  return size
end

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

-- Makes a handle a copy of the series of the room's texts. Returns the core's code, whether the values were stored as
-- they are, and whether the handle had room; no code when something else was bound in between.
local function bind_into(found, size, client, number, room)
  binds = binds + 1
  local mine = binds
  local code = C.chalk_bind(client.writer, number, room.values, room.sizes)
  if code == C.CHALK_ECLOSED then return code, false, true end
  local exact = C.chalk_bound_as_given(client.writer) == 1
  local fits = series.copy(found, client.scratch, size)
  if binds ~= mine then return nil end
  return code, exact, fits
end

-- Returns the handle, the core's code, and whether the values were stored as they are; none once the VM is closing.
local function bind_once(state, texts)
  local client, size, defined = state.client, size_of(texts), false
  while true do
    local found, room = series.new(client, size), take_room()
    put(room, texts)
    local code, exact, fits = bind_into(found, size, client, state.number, room)
    give_room(room)
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

-- Asks the core for the series of these texts; the handle, and whether it may be remembered: raw values are only if
-- they are stored as they are, else endlessly many of them could lead to one series.
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
  local spare -- the table of texts, for one miss at a time: a finalizer may miss in the middle of another
  return function(tags, ...)
    local room = spare or {}
    spare = nil
    local texts, message = texts_of(room, definition, tags, ...)
    if not texts then return refused(state, "tag", message) end
    local found, keep = bind(state, texts)
    spare = room
    if keep then remember(cache, found, order, ...) end
    return found
  end
end

local function new_refuse(state)
  local definition = state.definition
  return function(given, extra)
    local message
    if extra then
      message = ("with takes %d values: %s"):format(#definition.tags, table.concat(keys_of(definition), ", "))
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

-- Verbs on a metric that has tags, and tags for one that has none.

local function no_verb(definition, verb) return series.no_verb(kinds.of[definition.type], verb) end

-- Refuses and, where that does not raise, does what the verb does where nothing is recorded.
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

-- A name that no metric has gives a function which refuses. Those that begin with "_" are asked for by what prints or
-- compares tables.
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

-- The two halves of bind_once, around the values that the accessor puts in between.
local function new_halves(state)
  local client = state.client
  local function make(size)
    client:on_stale()
    return series.new(client, size), size, take_room()
  end
  -- The handle, and whether it may be remembered; nil: there is more to be done.
  local function bound(found, size, room)
    local code, exact, fits = bind_into(found, size, client, state.number, room)
    give_room(room)
    if not code or code < 0 or not fits then return nil end
    if code == C.CHALK_OK then return found, exact end
    client:count_overflow(state)
    return found, false
  end
  return make, bound
end

-- The tags' names, and each enum's values, as sets.
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
  local make, bound = new_halves(state)
  local call, with = accessor(state.cache, ABSENT, miss, refuse, check, known, allowed, make, bound)
  meta.__call = call
  methods.with = with
end

local function add_untagged(state, meta, methods)
  local found = bind(state, {})
  for verb, f in pairs(load_source(state)(found)) do
    methods[verb] = f
  end
  function methods.value() return found:value() end
  function methods.with(_, extra)
    if extra ~= nil then return refused(state, "tag", "it has no tags") end
    return found
  end
  function meta.__call(_, tags)
    if type(tags) ~= "table" or next(tags) ~= nil then return refused(state, "tag", "it has no tags") end
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

-- Calls `f`, which drops series; again where the definition had left, as it may before a forked process first records.
-- Returns how many there were.
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

--- Drops the series with these tags; true if there was one.
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
    local room = take_room()
    put(room, texts)
    binds = binds + 1
    local dropped = C.chalk_remove(state.client.writer, state.number, room.values, room.sizes)
    give_room(room)
    return dropped
  end) == 1
end

local function drop_all(state)
  return dropped_by(state, function() return C.chalk_clear(state.client.writer, state.number) end)
end

--- Writes the functions of a metric, anew where options changed.
---@param state table
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

---@param metric chalk.Metric
---@return table?
function M.state_of(metric)
  local meta = type(metric) == "table" and getmetatable(metric)
  return meta and meta.__chalk or nil
end

--- An accessor for a definition. It is of use when the core was told of that, and `fill` has written its functions.
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
