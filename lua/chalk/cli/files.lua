--- Reads and replaces whole files.
--
-- A file is replaced by rename: the new text is written to a file beside it, which then takes its name. So a reader
-- sees either the old text or the new one. Several files are replaced in two steps: all new files are written first,
-- and if one cannot be written, none is renamed. Only a failing rename leaves some files replaced and others not.

local uv = require "luv"
local failure = require "chalk.cli.failure"

local M = {}

local NEW_FILE, NEW_FOLDER = 438, 511 -- 0666 and 0777; the umask takes bits away
local PERMISSIONS = 4096 -- the mode's lower 12 bits are the permissions

-- "EACCES: permission denied: name" -> "permission denied"
local function reason(message) return tostring(message):match "^E[A-Z0-9]+: ([^:]+)" or tostring(message) end

--- Returns the absolute path of a file, without links; nil if there is no such file.
---@param path string
---@return string?
function M.real(path) return (uv.fs_realpath(path)) end

---@param path string
---@return string? kind "file", "directory", ...; nil if nothing is there
function M.kind(path)
  local stat = uv.fs_stat(path)
  return stat and stat.type
end

--- Returns the text of a file, or ends the command.
---@param path string
---@return string
function M.read(path)
  local file, message = io.open(path, "rb")
  local text
  if file then
    text, message = file:read "*a"
    file:close()
  end
  if not text then failure.fail("cannot read %s: %s", path, (tostring(message):gsub("^.*: ", ""))) end
  return text
end

--- Makes a directory and its missing parents.
---@param path string
function M.make_folder(path)
  if M.kind(path) == "directory" then return end
  local above = path:match "^(.+)/[^/]+/*$"
  if above and above:find "[^/]" then M.make_folder(above) end
  local ok, message = uv.fs_mkdir(path, NEW_FOLDER)
  if not ok then failure.fail("cannot make the directory %s: %s", path, reason(message)) end
end

local function write_all(fd, text)
  local at = 0
  while at < #text do
    local written, message = uv.fs_write(fd, text:sub(at + 1), -1)
    if not written then return nil, message end
    at = at + written
  end
  return true
end

-- Gives the new file the owner and mode of the old one. Only the mode must succeed: a user may not give files away.
local function keep(fd, old)
  if not old then return true end
  uv.fs_fchown(fd, old.uid, old.gid)
  return uv.fs_fchmod(fd, old.mode % PERMISSIONS)
end

local function write_beside(path, text, old)
  local folder, name = path:match "^(.*/)([^/]*)$"
  local beside = ("%s.%s.chalk-%d-%d"):format(folder or "", name or path, uv.os_getpid(), uv.hrtime())
  local fd, message = uv.fs_open(beside, "wx", NEW_FILE)
  if not fd then return nil, message end
  local ok
  ok, message = write_all(fd, text)
  if ok then
    ok, message = keep(fd, old)
  end
  if ok then
    ok, message = uv.fs_fsync(fd)
  end
  uv.fs_close(fd)
  if ok then return beside end
  uv.fs_unlink(beside)
  return nil, message
end

-- Writes into a device or pipe, which cannot be replaced.
local function write_into(path, text)
  local fd, message = uv.fs_open(path, "w", NEW_FILE)
  if not fd then return nil, message end
  local ok
  ok, message = write_all(fd, text)
  uv.fs_close(fd)
  return ok, message
end

---@class chalk.cli.Staged
---@field path string as the user wrote it
---@field target string the file to replace, after links are followed
---@field beside string? the new file; nil if `target` exists and is no regular file
---@field text string

local function stage(path, text)
  local target = M.real(path) or path
  local old = uv.fs_stat(target)
  local staged = { path = path, target = target, text = text }
  if old and old.type ~= "file" then return staged end
  local message
  if old then
    local allowed
    allowed, message = uv.fs_access(target, "W")
    if not allowed then return nil, message or "EACCES: permission denied" end
  end
  staged.beside, message = write_beside(target, text, old)
  return staged.beside and staged, message
end

local function give_up(staged, path, message)
  for _, one in ipairs(staged) do
    if one.beside then uv.fs_unlink(one.beside) end
  end
  failure.fail("cannot write %s: %s", path, reason(message))
end

local function publish(staged)
  if not staged.beside then return write_into(staged.target, staged.text) end
  local ok, message = uv.fs_rename(staged.beside, staged.target)
  if ok then staged.beside = nil end
  return ok, message
end

--- Writes all files, or none if one cannot be written, and then ends the command.
---@param files { path: string, text: string }[]
function M.write(files)
  local staged = {}
  for i, file in ipairs(files) do
    local one, message = stage(file.path, file.text)
    if not one then give_up(staged, file.path, message) end
    staged[i] = one
  end
  for _, one in ipairs(staged) do
    local ok, message = publish(one)
    if not ok then give_up(staged, one.path, message) end
  end
end

local SKIPPED = { lua_modules = true, node_modules = true }

local function walk(folder, found)
  local request, message = uv.fs_scandir(folder)
  if not request then failure.fail("cannot read %s: %s", folder, reason(message)) end
  local names = {}
  for name in uv.fs_scandir_next, request do
    names[#names + 1] = name
  end
  table.sort(names)
  for _, name in ipairs(names) do
    local path = (folder == "." and "" or folder:gsub("/+$", "") .. "/") .. name
    local stat = uv.fs_lstat(path)
    if stat and stat.type == "directory" and not SKIPPED[name] and name:sub(1, 1) ~= "." then
      walk(path, found)
    elseif stat and stat.type == "file" and name:find "%.lua$" then
      found[#found + 1] = path
    end
  end
end

--- Returns the Lua files below these paths, and the paths that are files, whatever their names. Hidden directories and
--- those that package managers fill are left out.
---@param paths string[]
---@return string[]
function M.lua_files(paths)
  local found = {}
  for _, path in ipairs(paths) do
    local kind = M.kind(path)
    if not kind then failure.fail("cannot read %s: no such file or directory", path) end
    if kind == "directory" then
      walk(path, found)
    else
      found[#found + 1] = path
    end
  end
  return found
end

return M
