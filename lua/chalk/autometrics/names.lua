-- Finds the name of a function, the type that it is a method of, and its module. Name and type are read from the line
-- of the source where the function begins, since Lua functions have no names at run time. The module is that of the
-- file.

local M = {}

local function lines_of(path)
  local file, lines = io.open(path, "rb"), {}
  for line in file and file:lines() or function() end do
    lines[#lines + 1] = line
  end
  if file then file:close() end
  return lines
end

-- The forms of a function's definition. Each pattern captures the table that the function is stored in, the separator
-- and the name.
local FORMS = {
  "%f[%w_]function%s+([%w_.]-)([.:]?)([%a_][%w_]*)%s*%(",
  "([%a_][%w_]*)()%[%s*[\"']([^\"']+)[\"']%s*%]%s*=%s*function%s*%(",
  "([%a_][%w_]*)(%.)([%a_][%w_]*)%s*=%s*function%s*%(",
  "()()([%a_][%w_]*)%s*=%s*function%s*%(",
  "()()%[%s*[\"']([^\"']+)[\"']%s*%]%s*=%s*function%s*%(",
}

-- Usual names of a module's own table. They are not types: the label `module` names the module already.
local MODULES = { M = true, _M = true }

local function type_of(owner, separator)
  owner = type(owner) == "string" and owner:match "[%a_][%w_]*$"
  if not owner or MODULES[owner] then return nil end
  return (separator == ":" or owner:find "^%u") and owner or nil
end

---@class chalk.autometrics.Written
---@field name string
---@field type string? the table before the name, if a colon follows it or it begins with a capital letter
---@field is_method boolean whether the function is defined with a colon

--- Reads the name and type from the line where a function begins.
---@param path string
---@param line integer
---@param files table<string, string[]>? caches the lines of files for a caller that asks repeatedly
---@return chalk.autometrics.Written? nil if the line has no name for the function, or defines more than one
function M.of_line(path, line, files)
  files = files or {}
  files[path] = files[path] or lines_of(path)
  local text = files[path][line]
  if not text or select(2, text:gsub("%f[%w_]function%f[^%w_]", "")) ~= 1 then return nil end
  for _, form in ipairs(FORMS) do
    local owner, separator, name = text:match(form)
    if name then return { name = name, type = type_of(owner, separator), is_method = separator == ":" } end
  end
end

--- Returns a name as written in the label `function`: "Type.name", or the name alone without a type.
---@param type string|false|nil
---@param name string
---@return string
function M.qualified(type, name) return type and type .. "." .. name or name end

-- Returns the type that the source of a class's methods names, from the first method whose source can be read.
local function written_type(functions, list)
  local is_class, files = rawget(functions, "__index") == functions, {}
  for _, name in ipairs(list) do
    local info = debug.getinfo(functions[name], "S")
    local written = info.source:sub(1, 1) == "@" and M.of_line(info.source:sub(2), info.linedefined, files)
    if written and written.type and (is_class or written.is_method) then return written.type end
  end
end

--- Returns the type that a table of functions stands for: its `__name`, or, if the table is a class, the name in its
--- source. A class is its own `__index`, or has functions that are defined with a colon.
---@param functions table
---@param list string[] the names of its functions
---@return string? type nil for a table that is no class
function M.of_class(functions, list)
  local name = rawget(functions, "__name")
  if type(name) == "string" and name ~= "" then return name end
  return written_type(functions, list)
end

local function plain(text) return (text:gsub("%p", "%%%0")) end

--- Returns the module of a source file: the name that `require` would load it by, or else the file's name.
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
