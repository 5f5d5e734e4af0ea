-- Names that can be read off a function: what its source calls it, the type it is a method of, and the module its file
-- is.

local M = {}

local function lines_of(path)
  local file, lines = io.open(path, "rb"), {}
  for line in file and file:lines() or function() end do
    lines[#lines + 1] = line
  end
  if file then file:close() end
  return lines
end

-- The ways to write a function down. Each gives the table that it is put into, what is between the two, and its name.
local FORMS = {
  "%f[%w_]function%s+([%w_.]-)([.:]?)([%a_][%w_]*)%s*%(",
  "([%a_][%w_]*)()%[%s*[\"']([^\"']+)[\"']%s*%]%s*=%s*function%s*%(",
  "([%a_][%w_]*)(%.)([%a_][%w_]*)%s*=%s*function%s*%(",
  "()()([%a_][%w_]*)%s*=%s*function%s*%(",
  "()()%[%s*[\"']([^\"']+)[\"']%s*%]%s*=%s*function%s*%(",
}

-- The table of a module is called so; what is in it needs no more than the module's name.
local MODULES = { M = true, _M = true }

local function type_of(owner, separator)
  owner = type(owner) == "string" and owner:match "[%a_][%w_]*$"
  if not owner or MODULES[owner] then return nil end
  return (separator == ":" or owner:find "^%u") and owner or nil
end

---@class chalk.autometrics.Written
---@field name string
---@field type string? the type that it is a method or a function of: what stands before a colon, or begins with a
--- capital letter
---@field is_method boolean whether it is written with a colon

--- What the line where a function begins says of it; nil where it has no name there or is not alone in it.
---@param path string
---@param line integer
---@param files table<string, string[]>? lines of files that were read, for who asks for many
---@return chalk.autometrics.Written?
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

--- A name as the label `function` has it: after that of its type, if it has one.
---@param type string|false|nil
---@param name string
---@return string
function M.qualified(type, name) return type and type .. "." .. name or name end

-- What the methods of a class are called after in their source, if one of them can be read.
local function written_type(functions, list)
  local is_class, files = rawget(functions, "__index") == functions, {}
  for _, name in ipairs(list) do
    local info = debug.getinfo(functions[name], "S")
    local written = info.source:sub(1, 1) == "@" and M.of_line(info.source:sub(2), info.linedefined, files)
    if written and written.type and (is_class or written.is_method) then return written.type end
  end
end

--- The type that a table of functions is: its `__name`, or for a class, which is its own `__index` or has methods that
--- are written with a colon, what its source calls it. nil for other tables.
---@param functions table
---@param list string[] the names of its functions
---@return string?
function M.of_class(functions, list)
  local name = rawget(functions, "__name")
  if type(name) == "string" and name ~= "" then return name end
  return written_type(functions, list)
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
