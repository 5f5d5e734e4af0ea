-- Plain values as Lua source, for the flush thread's VM.

local M = {}

local function number(n)
  if n ~= n then return "0/0" end
  if n == math.huge then return "1/0" end
  if n == -math.huge then return "-1/0" end
  return ("%.17g"):format(n)
end

local write

local function write_table(value, path, seen, out)
  if seen[value] then error(("%s: a table that contains itself"):format(path), 0) end
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
    error(("%s: a %s cannot be given to the flush thread's VM"):format(path, kind), 0)
  end
end

--- Lua source of an expression; raises for what cannot be written, saying where it is.
---@param value any
---@return string
function M.write(value)
  local out = {}
  write(value, "", {}, out)
  return table.concat(out)
end

--- What write wrote.
---@param text string
function M.read(text) return assert(loadstring("return " .. text, "=config"))() end

return M
