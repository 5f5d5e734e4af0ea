--- Runs the command `chalk` as users do: bin/chalk of this checkout, in an empty folder.

local uv = require "luv"

local M = {}

M.checkout = uv.cwd()
M.binary = M.checkout .. "/bin/chalk"

local function quoted(text) return "'" .. text:gsub("'", "'\\''") .. "'" end

--- A temporary folder in which commands run.
---@class spec.Folder
---@field path string
local Folder = {}
Folder.__index = Folder

---@return spec.Folder
function M.folder() return setmetatable({ path = assert(uv.fs_mkdtemp "/tmp/chalk-cli-XXXXXX") }, Folder) end

function Folder:remove() os.execute("rm -rf " .. quoted(self.path)) end

--- Writes a file, and creates the folders in its name.
---@param name string
---@param text string
---@return string path
function Folder:write(name, text)
  local path = self.path .. "/" .. name
  os.execute("mkdir -p " .. quoted(path:match "^(.*)/"))
  local file = assert(io.open(path, "wb"))
  file:write(text)
  file:close()
  return path
end

---@param name string
---@return string? text
function Folder:read(name)
  local file = io.open(self.path .. "/" .. name, "rb")
  local text = file and file:read "*a"
  if file then file:close() end
  return text
end

---@return string[] names the sorted names of all files below the folder
function Folder:files()
  local pipe = assert(io.popen("cd " .. quoted(self.path) .. " && find . -type f | sort"))
  local names = {}
  for line in pipe:lines() do
    names[#names + 1] = line:sub(3)
  end
  pipe:close()
  return names
end

--- Runs a shell command in the folder.
---@param command string
---@return integer code
---@return string output
---@return string errors
function Folder:shell(command)
  local errors = os.tmpname()
  local pipe = assert(
    io.popen(
      ("cd %s && ( %s ) 2>%s </dev/null; printf 'exit:%%d\\n' $?"):format(quoted(self.path), command, errors)
    )
  )
  local output, code = pipe:read("*a"):match "^(.-)exit:(%d+)\n$"
  pipe:close()
  local file = assert(io.open(errors, "rb"))
  local error_text = file:read "*a"
  file:close()
  os.remove(errors)
  return assert(tonumber(code)), output, error_text
end

--- Returns a shell command that runs chalk with these arguments.
---@param ... string
---@return string
function M.command(...)
  local words = { os.getenv "LUAJIT" or "luajit", M.binary }
  for _, word in ipairs { ... } do
    words[#words + 1] = quoted(word)
  end
  return table.concat(words, " ")
end

--- Runs chalk with these arguments in the folder.
---@param ... string
---@return integer code
---@return string output
---@return string errors
function Folder:chalk(...) return self:shell(M.command(...)) end

return M
