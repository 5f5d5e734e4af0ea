-- Writes the Lua source of accessors. A metric with the tags `endpoint` and `status`, an enum, gets
--
--     local function call(metric, tags)             -- metric{ endpoint = ..., status = ... }
--       if type(tags) ~= "table" then return refuse(tags) end
--       local t1, t2 = tags.endpoint, tags.status
--       local n1 = cache[t2]                        -- nested tables by tag value, enums first
--       if n1 then
--         local series = n1[t1]
--         if series then return series end
--       end
--       return first(tags, t1, t2)                  -- binds the series and adds it to the tables
--     end
--
-- and a similar function `with`. Strings are interned, so a hit costs a table lookup for each tag and no comparison of
-- text. The source is written for each metric, without loops over tags and without varargs, which LuaJIT would
-- interpret. The verbs of a metric without tags call those of its one series.

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

--- A tag's key as one writes it in `metric{...}`.
---@param tag chalk.Tag
---@return string
function M.written(tag) return is_identifier(tag.key) and tag.key or ("[%q]"):format(tag.key) end

--- The list of what `format` returns for each tag.
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

--- The order in which tags are looked up in the nested tables, as indexes. Enums come first: they have few values, so
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

-- Appends the test whether every key of `tags` is the key of a tag.
local function add_known_test(add, tags, names)
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
end

-- Appends the binding of the series `found`, with the tag values in the buffer `texts`.
local function add_binding(add, tags, names, sizes)
  add("  local found, size, texts = make(%s + %d)", table.concat(sizes, " + "), 2 * #tags)
  for i = 1, #tags do
    add("  texts.values[%d], texts.sizes[%d] = t%d, #t%d", i - 1, i - 1, i, i)
  end
  add "  local keep"
  add "  found, keep = bind(found, size, texts)"
  add("  if not found then return miss(tags, %s) end", names)
  add "  if not keep then return found end"
end

-- Appends the stores that add the series `found` to the nested tables.
local function add_stores(add, tags)
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
end

-- The function `new`, for a miss in the usual case: all values are strings, those of enums are allowed, no tag is
-- unknown, and the core stores the values unchanged. Its code has no loops and no varargs, which LuaJIT would interpret
-- here. In every other case it calls `miss`.
local function new_lines(tags, names)
  local out, tests, sizes = { ("local function new(tags, %s)"):format(names) }, {}, {}
  local function add(...) out[#out + 1] = (...):format(select(2, ...)) end
  for i, tag in ipairs(tags) do
    tests[i] = tag.kind == "enum" and ("allowed[%d][t%d]"):format(i, i) or ("type(t%d) == 'string'"):format(i)
    sizes[i] = ("#t%d"):format(i)
  end
  add("  if not (%s) then return miss(tags, %s) end", table.concat(tests, " and "), names)
  add_known_test(add, tags, names)
  add_binding(add, tags, names, sizes)
  add_stores(add, tags)
  add "  return found"
  add "end"
  return out
end

-- The lookup in the nested tables: cache[t1][t2] ...
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
  local lines = { "local cache, absent, miss, refuse, check, known, allowed, make, bind = ..." }
  local function add(list)
    for _, line in ipairs(list) do
      lines[#lines + 1] = line
    end
  end
  add { "local next, type = next, type", "" }
  add(new_lines(tags, names))
  -- If a trace of the caller's loop went into a miss, the table of tags would escape there, and the loop would allocate
  -- it at each call. `first` is never compiled, so no trace goes from `call` into a miss.
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

-- The parameters of verbs that do not take a value.
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

--- Writes the Lua source of a definition's accessor.
---@param definition table
---@param strict boolean? check the names in `metric{...}` on every call
---@return string
function M.write(definition, strict)
  local head = ("-- %s: %s\n"):format(definition.id_name, definition.type)
  return head .. (#definition.tags > 0 and tagged_source(definition, strict) or untagged_source(definition))
end

return M
