-- Writes plain values as Lua source and reads them back. Two VMs share no values, so the flush thread's VM receives its
-- configuration in this form.

local M = {}

local function number(n)
  if n ~= n then return "0/0" end
  if n == math.huge then return "1/0" end
  if n == -math.huge then return "-1/0" end
  return ("%.17g"):format(n)
end

local function refuse(path, what)
  local words =
    "%s: %s cannot be passed to the flush thread's VM, expected a string, number, boolean or table of these"
  error(words:format(path, what), 0)
end

local write

local function write_table(value, path, seen, out)
  if seen[value] then refuse(path, "a table that contains itself") end
  seen[value] = true
  out[#out + 1] = "{"
  for k, v in pairs(value) do
    local at = path == "" and tostring(k) or path .. "." .. tostring(k)
    out[#out + 1] = "["
    write(k, at, seen, out)
    out[#out + 1] = "]="
    write(v, at, seen, out)
    out[#out + 1] = ","
  end
  out[#out + 1] = "}"
  seen[value] = nil
end

write = function(value, path, seen, out)
  local kind = type(value)
  if kind == "string" then
    out[#out + 1] = ("%q"):format(value):gsub("\r", "\\r"):gsub("%z", "\\0")
  elseif kind == "number" then
    out[#out + 1] = number(value)
  elseif kind == "boolean" or kind == "nil" then
    out[#out + 1] = tostring(value)
  elseif kind == "table" then
    write_table(value, path, seen, out)
  else
    refuse(path, "a " .. kind)
  end
end

--- Returns the Lua source of an expression that yields the value. Raises if it cannot be written, with a message that
--- begins with the path to what cannot be, such as `exporters.1.on_error`.
---@param value any
---@return string
function M.write(value)
  local out = {}
  write(value, "", {}, out)
  return table.concat(out)
end

--- Reads back what `write` wrote.
---@param text string
function M.read(text) return assert(loadstring("return " .. text, "=config"))() end

return M
