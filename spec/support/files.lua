--- Temporary files of a spec: removed with M.clean, in after_each.

local M = {}

local names = {}

--- A name that no file has.
function M.name()
  local name = os.tmpname()
  os.remove(name)
  names[#names + 1] = name
  return name
end

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

--- The text of a file; "" when there is none.
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
