--- Names, tags and fields as a statsd line can carry them.
--
-- What separates the parts of a line (`:` `|` `@` `#` `,` and the newline) never gets through from a name or value, so
-- none can forge a tag, a field, a line or a metric. The rules are Datadog's ("Rules and best practices for naming
-- metrics" and "Define tags" in its documentation), applied here and not left to the agent, so that every receiver sees
-- the same:
--
--     metric   ASCII letters, digits, _ and . ; first a letter; at most 200 characters
--     tag      key:value of at most 200 characters: letters, digits, _ - . / and, in the value, `:`; first a letter
--              of the key; Unicode, as far as it is valid and no control character or line separator
--
-- Each character outside becomes "_"; what starts with another than a letter gets an "x" before it; what is too long is
-- cut before a character and gets "_" and the FNV-1a hash of the whole appended, so that two such are still two.
-- Letters keep their case: Datadog stores tags in lower case.
--
-- The dialect `statsd` has no tags; values are folded into the name, in the order in which the metric declares them:
-- NAME.VALUE1.VALUE2. There the dot separates, too, and only ASCII letters, digits, _ and - stay. An absent value is
-- "none". The values of a metric's own tags are written by the core, see src/export/statsd_text.h.

local bit = require "bit"
local json = require "chalk.base.json"

local M = {}

M.LONGEST = 200
M.LONGEST_PART = 128
M.ABSENT = "none"

local LONGEST_KEY = 128
local HASHED = 9 -- "_" and eight digits

-- FNV-1a, 32 bits (Fowler, Noll, Vo). The prime is 2^24 + 403: both products fit into a double.
local function hash(text)
  local h = bit.tobit(2166136261)
  for i = 1, #text do
    h = bit.bxor(h, text:byte(i))
    h = bit.tobit(h * 403 + bit.lshift(h, 24))
  end
  return "_" .. bit.tohex(h)
end

local function lead_of(byte) return byte >= 0xf0 and 4 or byte >= 0xe0 and 3 or byte >= 0xc2 and 2 or 1 end

-- The valid characters of a run of bytes above 127, and `instead` for each byte that belongs to none.
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

-- Unicode that may stand in a line: valid, and without C1 controls and the line and paragraph separators.
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

--- Cut to `most` characters, with the hash of `whole`.
---@param text string
---@param most integer
---@param whole string
---@return string
function M.fitted(text, most, whole)
  if #text <= most or characters(text) <= most then return text end
  return first_characters(text, most - HASHED) .. hash(whole)
end

local function from_letter(text)
  if text:find "^%a" then return text end
  return "x" .. text
end

--- A metric's name, e.g. `myapp.http.request_latency`.
---@param namespace string? the exporter's
---@param path string[] the metric's namespaces, outermost first
---@param name string
---@param suffix string? appended as it is, e.g. `.p50`; a long name is cut to leave room for it
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

--- The last part of the name of a quantile's gauge: `p50`, `p99_9` for 0.999, as Etsy's server names its percentiles.
---@param q number from 0 to 1
---@return string
function M.quantile(q)
  local percent = ("%.8f"):format(q * 100):gsub("%.?0+$", "")
  return "p" .. percent:gsub("%.", "_")
end

--- A tag's key.
---@param key string
---@return string
function M.key(key)
  local clean = safe_unicode(key:gsub("[^%w_%-./\128-\255]", "_"), "_")
  return M.fitted(from_letter(clean), LONGEST_KEY, key)
end

--- How many characters a value may have in a tag of this key.
---@param key string as M.key returns it
---@return integer
function M.value_room(key) return M.LONGEST - characters(key) - 1 end

--- A tag, `key:value`.
---@param key string
---@param value string|number|boolean
---@return string
function M.tag(key, value)
  local k, whole = M.key(key), tostring(value)
  local v = safe_unicode(whole:gsub("[^%w_%-./:\128-\255]", "_"), "_")
  v = M.fitted(v, M.value_room(k), whole):gsub(":$", "_") -- Datadog drops a colon at the end
  return k .. ":" .. v
end

--- The tags that are on everything, sorted by key, without those that the metric has itself; empty ones are absent.
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

--- What stands in a field of its own (`c:`, `e:`): without what would end the field or the line.
---@param text string
---@return string
function M.field(text) return (safe_unicode(text:gsub("[%c|]", ""), "")) end

return M
