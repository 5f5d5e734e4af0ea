-- A strict parser of the text format 0.0.4: everything that some scraper might not accept is an error.

local M = {}

local NAME = "^[a-zA-Z_:][a-zA-Z0-9_:]*$"
local SUFFIXES = { histogram = { _bucket = true, _sum = true, _count = true } }
local SPECIAL = { ["+Inf"] = math.huge, ["-Inf"] = -math.huge, NaN = 0 / 0 }

local function bad(line, why) error(("not a valid exposition: %s: %q"):format(why, line:sub(1, 200)), 0) end

-- Checks labels such as `a="b",c="d"`, and returns the value of `le`.
local function labels_of(text, line)
  local seen, rest, le = {}, text, nil
  while rest ~= "" do
    local name, after = rest:match '^([a-zA-Z_][a-zA-Z0-9_]*)="()'
    if not name or seen[name] then bad(line, "a label's name is malformed or repeated") end
    seen[name] = true
    local at = after
    while rest:sub(at, at) ~= '"' do
      local c = rest:sub(at, at)
      if c == "" or c == "\n" then bad(line, "a label's value has no closing quote") end
      if c == "\\" and not rest:sub(at + 1, at + 1):match '[\\"n]' then bad(line, "an escape is not known") end
      at = at + (c == "\\" and 2 or 1)
    end
    if name == "le" then le = rest:sub(after, at - 1) end
    rest = rest:sub(at + 1)
    if rest ~= "" then
      if rest:sub(1, 1) ~= "," or rest == "," then bad(line, "a label is not followed by another one") end
      rest = rest:sub(2)
    end
  end
  return le
end

local function number_of(text, line)
  local n = SPECIAL[text] or (text:match "^%-?[%d.][%d.e+-]*$" and tonumber(text))
  if not n then bad(line, "a value is not a number") end
  return n
end

local function family_of(name, families)
  if families[name] and families[name] ~= "histogram" then return name end
  local base, suffix = name:match "^(.*)(_[a-z]+)$"
  local kind = base and families[base]
  if kind and SUFFIXES[kind] and SUFFIXES[kind][suffix] then return base, suffix end
end

-- Checks that the bounds and counts of a series rise. `check_counts` then compares the last one with _count.
local function check_bucket(state, id, le, value, line)
  local series = id:gsub(',?le="[^"]*"', ""):gsub("{}", "")
  local bound, last = number_of(le or "", line), state.buckets[series]
  if last and (bound <= last.bound or value < last.value) then bad(line, "a bucket is below the one before") end
  state.buckets[series] = { bound = bound, value = value }
end

local function check_counts(state)
  for series, last in pairs(state.buckets) do
    local count = state.samples[(series:gsub("_bucket", "_count", 1))]
    if last.bound ~= math.huge or last.value ~= count then bad(series, "the bucket +Inf does not equal _count") end
  end
end

local function take_sample(state, line)
  local name, labels, value = line:match "^([^{ ]+){(.*)} (%S+)$"
  if not name then
    name, value = line:match "^([^{ ]+) (%S+)$"
  end
  if not name or not name:match(NAME) then bad(line, "a sample is malformed") end
  local id = line:sub(1, -#value - 2)
  local family, suffix = family_of(name, state.families)
  if not family or family ~= state.family then bad(line, "a sample is outside of its family") end
  if state.samples[id] then bad(line, "a sample is repeated") end
  local le, n = labels_of(labels or "", line), number_of(value, line)
  state.samples[id] = n
  if suffix == "_bucket" then check_bucket(state, id, le, n, line) end
end

local function take_comment(state, line)
  local what, name, rest = line:match "^# (%u+) (%S+) ?(.*)$"
  if what == "TYPE" then
    if state.families[name] then bad(line, "a family is repeated") end
    if rest ~= "counter" and rest ~= "gauge" and rest ~= "histogram" then bad(line, "a type is not known") end
    state.families[name], state.family = rest, name
  elseif what ~= "HELP" then
    bad(line, "a comment is neither HELP nor TYPE")
  end
end

--- Returns the samples of an exposition by "name{labels}". Raises an error if the exposition is not valid.
---@param text string
---@return table<string, number>
function M.parse(text)
  local state = { families = {}, samples = {}, buckets = {} }
  if text:sub(-1) ~= "\n" then bad(text:sub(-50), "the last line has no newline") end
  for line in text:gmatch "([^\n]*)\n" do
    if line:sub(1, 1) == "#" then
      take_comment(state, line)
    else
      take_sample(state, line)
    end
  end
  check_counts(state)
  return state.samples
end

return M
