--- Temporary files of a spec. M.clean removes them, in after_each.

local M = {}

local names = {}

--- Returns a path at which no file exists.
function M.name()
  local name = os.tmpname()
  os.remove(name)
  names[#names + 1] = name
  return name
end

--- Makes a file with this text.
---@param text string?
---@return string name
function M.make(text)
  local name = M.name()
  local file = assert(io.open(name, "wb"))
  file:write(text or "")
  file:close()
  return name
end

--- Makes an empty file of this name.
---@param name string
function M.make_at(name)
  assert(io.open(name, "wb")):close()
  names[#names + 1] = name
end

--- Returns the text of a file; "" if there is no file.
---@param name string
function M.read(name)
  local file = io.open(name, "rb")
  if not file then return "" end
  local text = file:read "*a"
  file:close()
  return text
end

function M.clean()
  for _, name in ipairs(names) do
    os.remove(name)
  end
  names = {}
end

return M
