--- Validates JSON-like values: which fields an object has, and of which type each is.
--
-- Values come from a JSON text or from tables of the program, so nothing is assumed about them: they are read raw,
-- without metamethods, and only the valid fields are copied. Errors go to a *report*, which collects all messages about
-- one source. A message gives the source, the path to the value as it is written in the document, with indexes that
-- count from 1, and the error:
--
--     metrics.json: namespaces.http.metrics[2].tags[1]: unknown tag "endpont", did you mean "endpoint"?

local json = require "chalk.base.json"
local lists = require "chalk.base.lists"
local quote = require "chalk.base.quote"
local suggest = require "chalk.base.suggest"

local M = {}

local MAX_HINTS = 100

---@class chalk.Report
---@field source string
---@field errors string[]
---@field total integer the number of errors, repeated messages included
local Report = {}
Report.__index = Report

--- Makes an empty report.
---@param source string the file name, or the name that messages show instead, such as `definitions`
---@return chalk.Report
function M.report(source) return setmetatable({ source = source, errors = {}, total = 0, seen = {} }, Report) end

--- Adds a message, unless the report has the same one already.
---@param path string "" for the whole document
---@param format string as in string.format
function Report:add(path, format, ...)
  local message = self.source .. (path == "" and "" or ": " .. path) .. ": " .. format:format(...)
  self.total = self.total + 1
  if not self.seen[message] then
    self.seen[message] = true
    self.errors[#self.errors + 1] = message
  end
end

--- Returns the end of a message: `, did you mean "endpoint"?`, or "" when no word of the list is near.
---@param word string the unknown word
---@param list string[]|fun(): string[] the allowed words
---@return string
function Report:hint(word, list)
  -- Comparing thousands of unknown words with thousands of allowed ones would take minutes.
  if #self.errors >= MAX_HINTS then return "" end
  local hint = suggest(word, type(list) == "function" and list() or list)
  return hint and ", " .. hint or ""
end

--- Returns the end of a message: the nearest of the allowed words as a hint, or all of them when none is near.
---@param word string the unknown word
---@param list string[] the allowed words
---@return string
function Report:choices(word, list)
  local hint = self:hint(word, list)
  if hint ~= "" then return hint end
  return ", expected " .. (#list > 1 and table.concat(list, ", ", 1, #list - 1) .. " or " or "") .. list[#list]
end

M.quote = quote

--- The path of the member `key` of the value at `path`.
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

--- Returns the kind of a value in words, such as `an array with holes`.
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

--- Whether a value is of a kind. An empty table is both a list and an object.
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

--- Whether a value is of a kind. Reports an error when it is not.
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

local function report_unknown(report, path, value, fields)
  local names = {}
  for i, field in ipairs(fields) do
    names[i] = field[1]
  end
  local known = lists.set(names)
  for _, name in ipairs(lists.names(value)) do
    if not known[name] then report:add(path, "unknown field %s%s", quote(name), report:choices(name, names)) end
  end
end

--- Whether an object has a field. A field that is null counts as absent.
---@param object table
---@param name string
---@return boolean
function M.has(object, name)
  local member = rawget(object, name)
  return member ~= nil and not rawequal(member, json.null)
end

--- Reads an object of known fields. A field that is null counts as absent.
---@param report chalk.Report
---@param path string
---@param value any
---@param fields table[] one {name, kind, required} for each field
---@return table? fields the fields of the right kind, lists copied; nil when the value is not an object
function M.object(report, path, value, fields)
  if not M.check(report, path, value, "object") then return nil end
  local read = {}
  for _, field in ipairs(fields) do
    local name, kind, required = field[1], field[2], field[3]
    local member = rawget(value, name)
    if not M.has(value, name) then
      if required then report:add(path, "missing field %s, expected %s", quote(name), EXPECTED[kind]) end
    elseif M.check(report, M.at(path, name), member, kind) then
      read[name] = kind == "list" and copy(member) or member
    end
  end
  report_unknown(report, path, value, fields)
  return read
end

return M
