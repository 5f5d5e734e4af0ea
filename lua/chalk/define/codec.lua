--- Encodes a definition as a string of bytes, and decodes it.
--
-- Shared memory holds definitions in this form, for other VMs and processes to read. An encoding is a sequence of
-- strings in a fixed order, each written as `<length>:<bytes>`. A list is its length and then its items; an absent
-- field is an empty string. The encoding of `gauge "up"` in the namespace "http" begins so:
--
--     6:chalk1  0:   1:1         4:http     2:up  5:gauge  0:           ...
--     format    own  namespaces  namespace  name  type     description
--
-- Equal definitions have equal encodings. Bytes in shared memory may come from any process, so decode() accepts nothing
-- but an encoding: it checks each field as the schema checks it in a document, encodes the result, and compares.

local json = require "chalk.base.json"
local kinds = require "chalk.define.kinds"
local lists = require "chalk.base.lists"
local validate = require "chalk.define.validate"
local definition = require "chalk.define.definition"
local naming = require "chalk.define.naming"

local M = {}

local FORMAT = "chalk1"

local function number_text(number) return number and ("%.17g"):format(number) or "" end

local function put_list(out, list, put)
  out[#out + 1] = tostring(#list)
  for _, item in ipairs(list) do
    put(out, item)
  end
end

local function put_string(out, text) out[#out + 1] = text end

local function put_number(out, number) out[#out + 1] = number_text(number) end

local function put_tag(out, tag)
  put_string(out, tag.name)
  put_string(out, tag.key)
  put_string(out, tag.kind)
  put_string(out, tag.optional and "1" or "")
  put_list(out, tag.values or {}, put_string)
end

--- Encodes a definition. Two encodings are equal if and only if the definitions are.
---@param def chalk.Definition
---@return string
function M.encode(def)
  local out = { FORMAT, def.own and "1" or "" }
  put_list(out, def.namespace, put_string)
  put_string(out, def.name)
  put_string(out, def.type)
  put_string(out, def.description)
  put_string(out, def.unit or "")
  put_string(out, def.across)
  put_number(out, def.max_series)
  put_list(out, def.buckets or {}, put_number)
  put_list(out, def.tags, put_tag)
  for i, text in ipairs(out) do
    out[i] = #text .. ":" .. text
  end
  return table.concat(out)
end

-- The get functions raise an error with bad(); attempt() turns it into a message.
local function bad(what) error({ message = "not a definition: bad " .. what }, 0) end

local function get_string(from, what)
  local digits, start = from.text:match("^(%d+):()", from.at)
  local length = digits and #digits <= 9 and tonumber(digits)
  if not length or start + length - 1 > #from.text then bad(what) end
  from.at = start + length
  return from.text:sub(start, start + length - 1)
end

local function get_list(from, what, limit, get)
  local length = tonumber(get_string(from, what))
  if not length or length < 0 or length > limit or length % 1 ~= 0 then bad(what) end
  local list = {}
  for i = 1, length do
    list[i] = get(from, what)
  end
  return list
end

local function get_number(from, what)
  local number = tonumber(get_string(from, what))
  if not number or number ~= number or math.abs(number) == math.huge then bad(what) end
  return number + 0
end

local function get_limit(from, what)
  local text = get_string(from, what)
  return text ~= "" and (tonumber(text) or bad(what)) or nil
end

local function get_name(from, what)
  local name = get_string(from, what)
  return definition.is_name(name) and name or bad(what)
end

local function get_key(from, what)
  local key = get_string(from, what)
  return definition.is_key(key) and key or bad(what)
end

local function choose(text, what, choices)
  for _, choice in ipairs(choices) do
    if text == choice then return text end
  end
  bad(what)
end

local function get_choice(from, what, choices) return choose(get_string(from, what), what, choices) end

local function get_flag(from, what) return get_choice(from, what, { "", "1" }) == "1" end

local function get_tag(from)
  local tag = {
    name = get_name(from, "tag name"),
    key = get_key(from, "tag key"),
    kind = get_choice(from, "tag kind", { "enum", "string" }),
    optional = get_flag(from, "tag flag"),
  }
  local values = get_list(from, "tag values", #from.text, get_string)
  if definition.is_reserved(naming.label(tag.key)) or (#values > 0) ~= (tag.kind == "enum") then bad "tag" end
  tag.values = tag.kind == "enum" and values or nil
  return tag
end

local function get_definition(from)
  if get_string(from, "format") ~= FORMAT then bad "format" end
  local own = get_flag(from, "own")
  local def = {
    own = own or nil,
    namespace = get_list(from, "namespace", definition.MAX_DEPTH, get_name),
    name = get_name(from, "name"),
    type = get_choice(from, "type", kinds.names),
    description = get_string(from, "description"),
    unit = get_string(from, "unit"),
    across = get_choice(from, "across", definition.ACROSS),
    max_series = get_limit(from, "max_series"),
    buckets = get_list(from, "buckets", definition.MAX_BUCKETS, get_number),
    tags = get_list(from, "tags", definition.MAX_TAGS, get_tag),
  }
  def.unit = def.unit ~= "" and def.unit or nil
  def.buckets = #def.buckets > 0 and def.buckets or nil
  return definition.complete(def)
end

local function check_text(text, what)
  if json.invalid_utf8(text) or text:find("\0", 1, true) then bad(what) end
end

local function check_tags(tags)
  local labels = {}
  for _, tag in ipairs(tags) do
    local label = naming.label(tag.key)
    if labels[label] then bad "tags" end
    labels[label] = true
    local values = {}
    for _, value in ipairs(tag.values or {}) do
      check_text(value, "tag values")
      if value == "" or values[value] then bad "tag values" end
      values[value] = true
    end
  end
end

local function check(def)
  check_text(def.description, "description")
  if #def.description > definition.MAX_DESCRIPTION then
    bad "description"
  elseif def.unit and (#def.unit > definition.MAX_NAME or not def.unit:find "^[a-zA-Z0-9_]+$") then
    bad "unit"
  elseif def.across ~= "last" and not kinds.of[def.type].combines then
    bad "across"
  elseif def.buckets and not kinds.of[def.type].has_bounds then
    bad "buckets"
  end
  local limit = def.max_series or 1
  if not (limit >= 1 and limit <= definition.MAX_SERIES and limit % 1 == 0) then bad "max_series" end
  for i = 2, #(def.buckets or {}) do
    if def.buckets[i] <= def.buckets[i - 1] then bad "buckets" end
  end
  check_tags(def.tags)
end

local function attempt(read, text)
  local ok, result = pcall(read, text)
  if ok then return result end
  return nil, type(result) == "table" and result.message or "not a definition: " .. tostring(result)
end

--- Decodes a definition.
---@param text string any bytes
---@return chalk.Definition? definition nil when the bytes are not an encoding
---@return string? message
function M.decode(text)
  return attempt(function()
    local def = get_definition { text = text, at = 1 }
    check(def)
    -- Refuses other texts of the same definition, such as numbers with leading zeros, and trailing bytes.
    return M.encode(def) == text and def or bad "encoding"
  end, text)
end

local function plain_tag(key)
  if not definition.is_name(key) or definition.is_reserved(key) then bad "tag key" end
  return { name = key, key = key, kind = "string", optional = false }
end

local function get_plain(text)
  local fields, namespace, tags = {}, {}, {}
  for field in (text .. "\0"):gmatch "([^%z]*)%z" do
    fields[#fields + 1] = field
  end
  for name in (fields[3] or ""):gmatch "[^.]+" do
    namespace[#namespace + 1] = definition.is_name(name) and name or bad "name"
  end
  for i = 4, #fields do
    tags[i - 3] = plain_tag(fields[i])
  end
  local def = { namespace = namespace, name = table.remove(namespace) or bad "name", tags = tags, description = "" }
  def.type = choose(fields[1]:match "^=(.*)$", "type", kinds.names)
  def.across = choose(fields[2], "across", definition.ACROSS)
  if #namespace > definition.MAX_DEPTH or #tags > definition.MAX_TAGS then bad "definition" end
  check(def)
  return definition.complete(def)
end

--- Reads the text that the core writes for a metric of a C host, which gives names and no encoding: `=` and the type,
--- across, the name and the keys of the tags, separated by NUL bytes.
---@param text string any bytes
---@return chalk.Definition? definition nil when the bytes are not such a text
---@return string? message
function M.plain(text) return attempt(get_plain, text) end

local function shown(value)
  if type(value) == "string" then
    return validate.quote(value)
  elseif type(value) == "table" then
    return "{" .. validate.quote(table.concat(value, ", ")):sub(2, -2) .. "}"
  end
  return value == nil and "none" or tostring(value)
end

local function same(a, b)
  if type(a) ~= "table" or type(b) ~= "table" then return a == b end
  return lists.is_same(a, b)
end

-- Fields of a definition that have another name in a document.
local WRITTEN = { kind = "value_type", key = "export_name", name = "tag" }

local function changed(field, before, after)
  local words = "field %s was %s, here it is %s"
  return words:format(validate.quote(WRITTEN[field] or field), shown(before), shown(after))
end

local function first_difference(known, new, fields)
  for _, field in ipairs(fields) do
    if not same(known[field], new[field]) then return changed(field, known[field], new[field]) end
  end
end

--- Says what differs between two definitions of one tag, e.g. `field "value_type" was "enum", here it is "string"`.
---@return string? difference nil when they are equal
function M.tag_difference(known, new)
  return first_difference(known, new, { "kind", "name", "key", "values", "optional" })
end

local function tag_keys(def)
  local keys = {}
  for i, tag in ipairs(def.tags) do
    keys[i] = tag.key
  end
  return keys
end

--- Says what differs between two definitions of one metric.
---@param known chalk.Definition
---@param new chalk.Definition
---@return string? difference nil when they are equal
function M.difference(known, new)
  local fields = { "type", "unit", "buckets", "max_series", "across", "description", "own" }
  local found = first_difference(known, new, fields)
  local before, after = tag_keys(known), tag_keys(new)
  if not found and not same(before, after) then return changed("tags", before, after) end
  for i, tag in ipairs(found and {} or known.tags) do
    local difference = M.tag_difference(tag, new.tags[i])
    if difference then return ("tag %s: %s"):format(validate.quote(tag.key), difference) end
  end
  return found
end

return M
