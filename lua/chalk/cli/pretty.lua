--- Writes a table as JSON for a repository: indented, with sorted names, so that equal tables give equal texts.

local cjson = require("cjson").new()

local M = {}

local ARRAY = {}

cjson.encode_number_precision(14)

--- Marks a table as an array. An empty table needs this mark, since it would be written as an object.
---@param list table
---@return table list
function M.array(list) return setmetatable(list, ARRAY) end

local function is_array(value) return getmetatable(value) == ARRAY or #value > 0 end

-- cjson escapes slashes, which JSON allows but does not require.
local function scalar(value) return (cjson.encode(value):gsub("\\/", "/")) end

local write

local function write_array(value, indent, out)
  for i, item in ipairs(value) do
    out[#out + 1] = (i == 1 and "" or ",") .. "\n" .. indent .. "  "
    write(item, indent .. "  ", out)
  end
end

local function write_object(value, indent, out)
  local names = {}
  for name in pairs(value) do
    names[#names + 1] = name
  end
  table.sort(names)
  for i, name in ipairs(names) do
    out[#out + 1] = (i == 1 and "" or ",") .. "\n" .. indent .. "  " .. scalar(name) .. ": "
    write(value[name], indent .. "  ", out)
  end
end

function write(value, indent, out)
  if type(value) ~= "table" then
    out[#out + 1] = scalar(value)
    return
  end
  local array = is_array(value)
  out[#out + 1] = array and "[" or "{"
  if next(value) ~= nil then
    (array and write_array or write_object)(value, indent, out)
    out[#out + 1] = "\n" .. indent
  end
  out[#out + 1] = array and "]" or "}"
end

--- Returns a table as JSON text, with a newline at its end.
---@param value table
---@return string
function M.json(value)
  local out = {}
  write(value, "", out)
  out[#out + 1] = "\n"
  return table.concat(out)
end

return M
