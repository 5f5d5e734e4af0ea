--- Cleans names, tags and fields for StatsD lines.
--
-- A cleaned name or tag contains none of the separators of a line (`:` `|` `@` `#` `,` and newline), except that the
-- value of a tag may contain `:`. So no name or value can forge a tag, a field, a line or a metric. The rules are
-- Datadog's ("Rules and best practices for naming metrics" and "Define tags" in its documentation). They are applied
-- here and not left to the agent, so that every receiver sees the same:
--
--     metric   ASCII letters, digits, _ and . ; begins with a letter; at most 200 characters
--     tag      key:value of at most 200 characters; the key begins with a letter. Letters, digits, _ - . / and, in the
--              value, `:`; other Unicode if it is valid and neither a control character nor a line separator
--
-- Any other character becomes "_". A text that does not begin with a letter gets an "x" before it. A text that is too
-- long is cut before a character, and "_" and the FNV-1a hash of the whole text follow, so that two long texts stay
-- different. Letters keep their case; Datadog stores tags in lower case.
--
-- The dialect `statsd` has no tags. Tag values are joined into the name, in the order in which the metric declares its
-- tags: NAME.VALUE1.VALUE2. In such a value the dot is a separator too, so only ASCII letters, digits, _ and - stay. An
-- absent value is "none". The core writes the values of a metric's own tags, see src/export/statsd_text.h.

local bit = require "bit"
local json = require "chalk.base.json"

local M = {}

M.LONGEST = 200
M.LONGEST_VALUE = 128
M.ABSENT = "none"

local LONGEST_KEY = 128
local HASHED = 9 -- "_" and eight digits

-- FNV-1a, 32 bits (Fowler, Noll, Vo). The prime is 2^24 + 403. It is split, so that both products fit into a double.
local function hash(text)
  local h = bit.tobit(2166136261)
  for i = 1, #text do
    h = bit.bxor(h, text:byte(i))
    h = bit.tobit(h * 403 + bit.lshift(h, 24))
  end
  return "_" .. bit.tohex(h)
end

local function lead_of(byte) return byte >= 0xf0 and 4 or byte >= 0xe0 and 3 or byte >= 0xc2 and 2 or 1 end

-- Repairs a run of bytes above 127: valid characters stay, and `instead` replaces each other byte.
local function repaired(run, instead)
  local out, i = {}, 1
  while i <= #run do
    local character = run:sub(i, i + lead_of(run:byte(i)) - 1)
    if #character == 1 or json.invalid_utf8(character) then character = nil end
    out[#out + 1] = character or instead
    i = i + (character and #character or 1)
  end
  return table.concat(out)
end

-- Replaces invalid UTF-8, C1 control characters, and line and paragraph separators.
local function safe_unicode(text, instead)
  if not text:find "[\128-\255]" then return text end
  if json.invalid_utf8(text) then
    text = text:gsub("[\128-\255]+", function(run) return repaired(run, instead) end)
  end
  return (text:gsub("\194[\128-\159]", instead):gsub("\226\128[\168\169]", instead))
end

local function characters(text)
  local _, n = text:gsub("[^\128-\191]", "")
  return n
end

local function first_characters(text, n)
  local at = 1
  for _ = 1, n do
    at = text:find("[^\128-\191]", at + 1) or #text + 1
  end
  return text:sub(1, at - 1)
end

--- Cuts a text to `most` characters, the last of which are the hash of `whole`. A short text stays as it is.
---@param text string
---@param most integer
---@param whole string the text before it was cleaned
---@return string
function M.fitted(text, most, whole)
  if #text <= most or characters(text) <= most then return text end
  return first_characters(text, most - HASHED) .. hash(whole)
end

local function from_letter(text)
  if text:find "^%a" then return text end
  return "x" .. text
end

--- Returns the name of a metric, e.g. `myapp.http.request_latency`.
---@param namespace string? the exporter's namespace
---@param path string[] the metric's namespaces, outermost first
---@param name string
---@param suffix string? appended unchanged, e.g. `.p50`; a long name is cut so that the suffix fits
---@return string
function M.metric(namespace, path, name, suffix)
  local parts = {}
  if namespace and namespace ~= "" then parts[1] = namespace:gsub("%.+$", "") end
  for _, part in ipairs(path) do
    parts[#parts + 1] = part
  end
  parts[#parts + 1] = name
  suffix = suffix or ""
  local whole = table.concat(parts, ".")
  local clean = from_letter((whole:gsub("[^%w_.]", "_")))
  return M.fitted(clean, M.LONGEST - #suffix, whole) .. suffix
end

--- Returns the suffix for a quantile: `p50`, or `p99_9` for 0.999, as Etsy's server names its percentiles.
---@param q number from 0 to 1
---@return string
function M.quantile(q)
  local percent = ("%.8f"):format(q * 100):gsub("%.?0+$", "")
  return "p" .. percent:gsub("%.", "_")
end

--- Returns the key of a tag.
---@param key string
---@return string
function M.key(key)
  local clean = safe_unicode(key:gsub("[^%w_%-./\128-\255]", "_"), "_")
  return M.fitted(from_letter(clean), LONGEST_KEY, key)
end

--- Returns how many characters a value may have in a tag with this key.
---@param key string as M.key returns it
---@return integer
function M.value_length(key) return M.LONGEST - characters(key) - 1 end

--- Returns a tag, `key:value`.
---@param key string
---@param value string|number|boolean
---@return string
function M.tag(key, value)
  local k, whole = M.key(key), tostring(value)
  local v = safe_unicode(whole:gsub("[^%w_%-./:\128-\255]", "_"), "_")
  v = M.fitted(v, M.value_length(k), whole):gsub(":$", "_") -- because Datadog drops a colon at the end
  return k .. ":" .. v
end

--- Returns the constant tags of a metric, sorted by key, without empty ones and without keys that the metric has
--- itself.
---@param global table<string, string|number|boolean>
---@param own table<string, any>? keys of the metric's own tags
---@return string[]
function M.tags(global, own)
  local keys = {}
  for key, value in pairs(global) do
    if value ~= "" and not (own and own[key] ~= nil) then keys[#keys + 1] = key end
  end
  table.sort(keys)
  for i, key in ipairs(keys) do
    keys[i] = M.tag(key, global[key])
  end
  return keys
end

--- Returns the text of a field (`c:`, `e:`) without characters that would end the field or the line.
---@param text string
---@return string
function M.field(text) return (safe_unicode(text:gsub("[%c|]", ""), "")) end

return M
