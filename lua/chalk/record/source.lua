-- The Lua source of accessors. A lookup walks nested tables keyed by the tag values, which are interned strings, so
-- that a hit is some pointer comparisons; what a table does not have goes to `miss`. The verbs of a metric without tags
-- go to its one series.

local kinds = require "chalk.define.kinds"

local M = {}

local KEYWORDS = {}
local WORDS =
  "and break do else elseif end false for function goto if in local nil not or repeat return then true until while"
for word in WORDS:gmatch "%a+" do
  KEYWORDS[word] = true
end

local function is_identifier(key) return not KEYWORDS[key] and key:find "^[%a_][%w_]*$" ~= nil end

local function field(tag) return is_identifier(tag.key) and "tags." .. tag.key or ("tags[%q]"):format(tag.key) end

--- A tag's key as it is written in `metric{...}`.
---@param tag chalk.Tag
---@return string
function M.written(tag) return is_identifier(tag.key) and tag.key or ("[%q]"):format(tag.key) end

--- A list of what `format` makes of each tag.
---@param tags table
---@param format fun(i: integer, tag: table): string
function M.each_tag(tags, format)
  local out = {}
  for i, tag in ipairs(tags) do
    out[i] = format(i, tag)
  end
  return out
end

local function optional_lines(tags)
  local out = {}
  for i, tag in ipairs(tags) do
    if tag.optional then out[#out + 1] = ("  if t%d == nil then t%d = absent end"):format(i, i) end
  end
  return out
end

--- In which order the tags lead through the nested tables: by their places, those with few values first, so that
--- there are few tables.
---@param tags table[]
---@return integer[]
function M.order(tags)
  local order, others = {}, {}
  for i, tag in ipairs(tags) do
    local list = tag.kind == "enum" and order or others
    list[#list + 1] = i
  end
  for _, i in ipairs(others) do
    order[#order + 1] = i
  end
  return order
end

-- What a miss does when all is as it mostly is: texts that are strings already, those of an enum among its values, no
-- name unknown, and the core stores them as they are. Written out without loops and varargs, which LuaJIT would
-- interpret. Everything else goes to `miss`.
local function new_lines(tags, names)
  local out, tests, sizes = { ("local function new(tags, %s)"):format(names) }, {}, {}
  local function add(...) out[#out + 1] = (...):format(select(2, ...)) end
  for i, tag in ipairs(tags) do
    tests[i] = tag.kind == "enum" and ("allowed[%d][t%d]"):format(i, i) or ("type(t%d) == 'string'"):format(i)
    sizes[i] = ("#t%d"):format(i)
  end
  add("  if not (%s) then return miss(tags, %s) end", table.concat(tests, " and "), names)
  add "  if tags then"
  add "    local key = next(tags)"
  for _ = 1, #tags do
    add "    if key ~= nil then"
    add("      if not known[key] then return miss(tags, %s) end", names)
    add "      key = next(tags, key)"
    add "    end"
  end
  add("    if key ~= nil then return miss(tags, %s) end", names)
  add "  end"
  add("  local found, size, room = make(%s + %d)", table.concat(sizes, " + "), 2 * #tags)
  for i = 1, #tags do
    add("  room.values[%d], room.sizes[%d] = t%d, #t%d", i - 1, i - 1, i, i)
  end
  add "  local keep"
  add "  found, keep = bound(found, size, room)"
  add("  if not found then return miss(tags, %s) end", names)
  add "  if not keep then return found end"
  local order, from = M.order(tags), "cache"
  for i = 1, #tags - 1 do
    add("  local n%d = %s[t%d]", i, from, order[i])
    add("  if not n%d then", i)
    add("    n%d = {}", i)
    add("    %s[t%d] = n%d", from, order[i], i)
    add "  end"
    from = "n" .. i
  end
  add("  %s[t%d] = found", from, order[#tags])
  add "  return found"
  add "end"
  return out
end

-- The walk through the tables: cache[t1][t2] ...
local function walk_lines(tags)
  local out, order = {}, M.order(tags)
  local n = #tags
  for i = 1, n do
    local from = i == 1 and "cache" or "n" .. i - 1
    local to = i == n and "series" or "n" .. i
    local indent = ("  "):rep(i)
    out[#out + 1] = ("%slocal %s = %s[t%d]"):format(indent, to, from, order[i])
    out[#out + 1] = i == n and ("%sif series then return series end"):format(indent)
      or ("%sif %s then"):format(indent, to)
  end
  for i = n - 1, 1, -1 do
    out[#out + 1] = ("  "):rep(i) .. "end"
  end
  return out
end

local function tagged_source(definition, strict)
  local tags = definition.tags
  local names = table.concat(M.each_tag(tags, function(i) return "t" .. i end), ", ")
  local fields = table.concat(M.each_tag(tags, function(_, tag) return field(tag) end), ", ")
  local lines = { "local cache, absent, miss, refuse, check, known, allowed, make, bound = ..." }
  local function add(list)
    for _, line in ipairs(list) do
      lines[#lines + 1] = line
    end
  end
  add { "local next, type = next, type", "" }
  add(new_lines(tags, names))
  -- A loop whose trace began with a miss would make the table of each call. So no trace goes from `call` into one.
  add { "", ("local function first(tags, %s) return new(tags, %s) end"):format(names, names), "jit.off(first)" }
  add {
    "",
    "local function call(metric, tags)",
    '  if type(tags) ~= "table" then return refuse(tags) end',
    strict and "  if not check(tags) then return refuse(tags) end" or nil,
  }
  add { ("  local %s = %s"):format(names, fields) }
  add(optional_lines(tags))
  add(walk_lines(tags))
  add { ("  return first(tags, %s)"):format(names), "end", "" }
  add { ("local function with(metric, %s, extra)"):format(names) }
  add { "  if extra ~= nil then return refuse(extra, true) end" }
  add(optional_lines(tags))
  add(walk_lines(tags))
  add { ("  return new(nil, %s)"):format(names), "end", "", "return call, with" }
  return table.concat(lines, "\n") .. "\n"
end

-- Of verbs that take other ones than a value.
local PARAMETERS = { start = "", time = "f, ..." }

local function untagged_source(definition)
  local lines = { "local series = ...", "local verbs = {}" }
  for _, verb in ipairs(kinds.of[definition.type].verbs) do
    local parameters = PARAMETERS[verb] or "v"
    lines[#lines + 1] = ("function verbs.%s(metric%s) return series:%s(%s) end"):format(
      verb,
      parameters == "" and "" or ", " .. parameters,
      verb,
      parameters
    )
  end
  lines[#lines + 1] = "return verbs"
  return table.concat(lines, "\n") .. "\n"
end

--- The Lua source of a definition's accessor, as it is loaded.
---@param definition table
---@param strict boolean?
---@return string
function M.write(definition, strict)
  local head = ("-- %s: %s\n"):format(definition.id_name, definition.type)
  return head .. (#definition.tags > 0 and tagged_source(definition, strict) or untagged_source(definition))
end

return M
