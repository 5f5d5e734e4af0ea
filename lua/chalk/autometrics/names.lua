-- Names that can be read off a function: what its source calls it, and the module its file is.

local M = {}

local function lines_of(path, number)
  local file = io.open(path, "rb")
  if not file then return nil end
  local i = 0
  for line in file:lines() do
    i = i + 1
    if i == number then
      file:close()
      return line
    end
  end
  file:close()
end

-- The ways to write a function down, the longest first.
local FORMS = {
  "function%s+[%w_.:]-([%a_][%w_]*)%s*%(",
  "([%a_][%w_]*)%s*=%s*function%s*%(",
  "%[%s*[\"']([^\"']+)[\"']%s*%]%s*=%s*function%s*%(",
}

--- The name in the line where a function begins, if it has one there and is alone in it.
---@param path string
---@param line integer
---@return string?
function M.of_line(path, line)
  local text = lines_of(path, line)
  if not text or select(2, text:gsub("%f[%w_]function%f[^%w_]", "")) ~= 1 then return nil end
  for _, form in ipairs(FORMS) do
    local name = text:match(form)
    if name then return name end
  end
end

local function plain(text) return (text:gsub("%p", "%%%0")) end

--- The module of a source file: as `require` would name it, or else the file's own name.
---@param path string
---@return string
function M.module_of(path)
  for template in package.path:gmatch "[^;]+" do
    local before, after = template:match "^(.-)%?(.*)$"
    local name = before and path:match("^" .. plain(before) .. "(.+)" .. plain(after) .. "$")
    if name and not name:find("%.", 1) then
      name = name:gsub("^%./", ""):gsub("/", ".")
      return (name:gsub("%.init$", ""))
    end
  end
  return (path:match("[^/]*$"):gsub("%.lua$", ""))
end

return M
