--- Validates JSON-like values: which fields an object has, and of which type each is.
--
-- Values come from a JSON text or from a program's own tables, so nothing is assumed of them: they are read raw,
-- without metamethods, and copied as far as they are right. What is wrong goes to a *report*, which collects every
-- message of one source; a path in a message is written as in the document, indexes counted from 1:
--
--     metrics.json: namespaces.http.metrics[2].tags[1]: unknown tag "endpont", did you mean "endpoint"?

local json = require "chalk.base.json"
local lists = require "chalk.base.lists"
local quote = require "chalk.base.quote"
local suggest = require "chalk.base.suggest"

local M = {}

local HINTED = 100

---@class chalk.Report
---@field source string
---@field errors string[]
---@field total integer how often something was wrong, repeated messages included
local Report = {}
Report.__index = Report

--- A new report, of nothing wrong yet.
---@param source string the file, or what stands in its place in messages
---@return chalk.Report
function M.report(source) return setmetatable({ source = source, errors = {}, total = 0, seen = {} }, Report) end

--- Adds a message; one already there is not repeated.
---@param path string "" is the whole document
---@param format string as string.format
function Report:add(path, format, ...)
  local message = self.source .. (path == "" and "" or ": " .. path) .. ": " .. format:format(...)
  self.total = self.total + 1
  if not self.seen[message] then
    self.seen[message] = true
    self.errors[#self.errors + 1] = message
  end
end

--- `, did you mean "endpoint"?`, to be appended to a message; "" when no word is near.
---@param word string what was written
---@param list string[]|fun(): string[] the words that would have been right
---@return string
function Report:hint(word, list)
  -- Comparing each of thousands of wrong words with thousands of right ones would take minutes.
  if #self.errors >= HINTED then return "" end
  local hint = suggest(word, type(list) == "function" and list() or list)
  return hint and ", " .. hint or ""
end

M.quote = quote

--- The path of a member of what stands at `path`.
---@param path string
---@param key string|integer
---@return string
function M.at(path, key)
  if type(key) == "number" then
    return ("%s[%d]"):format(path, key)
  elseif not key:find "^[%a_][%w_]*$" then
    return ("%s[%s]"):format(path, quote(key))
  end
  return path == "" and key or path .. "." .. key
end

-- An empty table is both an array and an object: neither Lua nor cjson can tell.
local function table_kind(value)
  local count, highest, named = 0, 0, false
  for key in next, value do
    if type(key) == "string" then
      named = true
    elseif type(key) == "number" and key >= 1 and key % 1 == 0 then
      count, highest = count + 1, math.max(highest, key)
    else
      return "a table with keys that are neither names nor indexes"
    end
  end
  if named then
    return count == 0 and "an object" or "a table with both names and indexes"
  elseif count ~= highest then
    return "an array with holes"
  end
  return count > 0 and "an array" or "an empty table"
end

--- What a value is, in words.
---@param value any
---@return string
function M.describe(value)
  if rawequal(value, json.null) then
    return "null"
  elseif value == nil then
    return "nothing"
  elseif type(value) == "table" then
    return table_kind(value)
  end
  return "a " .. type(value)
end

local EXPECTED = {
  string = "a string",
  number = "a number",
  boolean = "true or false",
  list = "an array",
  object = "an object",
}

--- Whether a value is of a kind.
---@param value any
---@param kind "string"|"number"|"boolean"|"list"|"object"|"any"
---@return boolean
function M.is(value, kind)
  if kind == "any" then
    return true
  elseif kind ~= "list" and kind ~= "object" then
    return type(value) == kind
  elseif type(value) ~= "table" then
    return false
  end
  local found = table_kind(value)
  return found == "an empty table" or found == (kind == "list" and "an array" or "an object")
end

--- Whether a value is of a kind; reported when it is not.
---@param report chalk.Report
---@param path string
---@param value any
---@param kind "string"|"number"|"boolean"|"list"|"object"|"any"
---@return boolean
function M.check(report, path, value, kind)
  local right = M.is(value, kind)
  if not right then report:add(path, "expected %s, got %s", EXPECTED[kind], M.describe(value)) end
  return right
end

local function copy(items)
  local copied = {}
  for i = 1, math.huge do
    local item = rawget(items, i)
    if item == nil then return copied end
    copied[i] = item
  end
end

local function report_unknown(report, path, value, known)
  for _, name in ipairs(lists.names(value)) do
    if not known[name] then
      report:add(path, "unknown field %s%s", quote(name), report:hint(name, lists.names(known)))
    end
  end
end

--- Whether an object has a field; null stands for an absent one.
---@param object table
---@param name string
---@return boolean
function M.has(object, name)
  local member = rawget(object, name)
  return member ~= nil and not rawequal(member, json.null)
end

--- Reads an object of known fields. Null stands for an absent field.
---@param report chalk.Report
---@param path string
---@param value any
---@param fields table[] one {name, kind, required} for each field
---@return table? fields those that are there and of the right kind; nil when the value is no object
function M.object(report, path, value, fields)
  if not M.check(report, path, value, "object") then return nil end
  local read, known = {}, {}
  for _, field in ipairs(fields) do
    local name, kind, required = field[1], field[2], field[3]
    local member = rawget(value, name)
    known[name] = true
    if not M.has(value, name) then
      if required then report:add(path, 'missing "%s"', name) end
    elseif M.check(report, M.at(path, name), member, kind) then
      read[name] = kind == "list" and copy(member) or member
    end
  end
  report_unknown(report, path, value, known)
  return read
end

return M
