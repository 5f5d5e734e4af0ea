-- The commit, branch and repository of a git checkout. They are read from git's files, so that no program is started
-- and git need not be installed.

local ffi = require "ffi"

local M = {}

-- The names are private to this module. LuaJIT accepts the same declaration twice, so the module may be loaded again.
ffi.cdef [[
  int chalk_git_open(const char *path, int flags, ...) __asm__("open");
  long chalk_git_seek(int fd, long offset, int from) __asm__("lseek");
  long chalk_git_read(int fd, void *to, size_t size) __asm__("read");
  int chalk_git_close(int fd) __asm__("close");
]]
local C = ffi.C

local O_NOCTTY_NONBLOCK_CLOEXEC, SEEK_SET, SEEK_END = 0x80900, 0, 2
local LARGEST_FILE = 64 * 1024 * 1024 -- bytes
local MOST_LEVELS = 32 -- folders to go up
local HOSTS = { ["github.com"] = "github", ["gitlab.com"] = "gitlab", ["bitbucket.org"] = "bitbucket" }

-- Reads the whole file. Only files with a size are read, so that the read never waits: FIFOs, sockets and terminals
-- cannot be sought.
local function read_sized(fd)
  local size = tonumber(C.chalk_git_seek(fd, 0, SEEK_END))
  if size < 0 or size > LARGEST_FILE or C.chalk_git_seek(fd, 0, SEEK_SET) ~= 0 then return nil end
  local bytes = ffi.new("char[?]", size + 1)
  local n = tonumber(C.chalk_git_read(fd, bytes, size)) -- -1 for a folder
  return n >= 0 and ffi.string(bytes, n) or nil
end

local function read(path)
  local fd = C.chalk_git_open(path, O_NOCTTY_NONBLOCK_CLOEXEC)
  if fd < 0 then return nil end
  local text = read_sized(fd)
  C.chalk_git_close(fd)
  return text
end

local function first_line(path)
  local text = read(path)
  return text and text:match "^([^\r\n]*)"
end

-- Returns the folder that holds HEAD: `.git`, or the folder that a worktree's or submodule's file `.git` points at.
local function git_folder(folder)
  local path = folder .. "/.git"
  if first_line(path .. "/HEAD") then return path end
  local elsewhere = (first_line(path) or ""):match "^gitdir: (.+)$"
  if not elsewhere then return nil end
  return elsewhere:sub(1, 1) == "/" and elsewhere or folder .. "/" .. elsewhere
end

local function find(start)
  local folder = start
  for _ = 1, MOST_LEVELS do
    local found = git_folder(folder)
    if found then return found end
    folder = folder .. "/.."
  end
end

-- Returns the folder that holds branches and configuration, which all worktrees of a repository share.
local function common_folder(folder)
  local common = first_line(folder .. "/commondir")
  if not common or common == "" then return folder end
  return common:sub(1, 1) == "/" and common or folder .. "/" .. common
end

local function packed(folder, ref)
  for line in (read(folder .. "/packed-refs") or ""):gmatch "[^\r\n]+" do
    local hash, name = line:match "^(%x+) (.+)$"
    if name == ref then return hash end
  end
end

local function hash_of(folder, common, ref)
  local hash = first_line(folder .. "/" .. ref) or first_line(common .. "/" .. ref) or packed(common, ref)
  return hash and hash:match "^%x+$"
end

local function remote_of(config)
  local section, urls, first = nil, {}, nil
  for line in config:gmatch "[^\r\n]+" do
    local header = line:match "^%s*%[(.-)%]"
    section = header or section
    local remote = section and section:match '^remote "(.*)"$'
    local url = remote and line:match "^%s*url%s*=%s*(.-)%s*$"
    if url and not urls[remote] then
      urls[remote] = url
      first = first or url
    end
  end
  return urls.origin or first
end

--- Removes a user and password from the URL of a repository.
---@param url string
---@return string
function M.public(url) return (url:gsub("^(%a[%w+.-]*://)[^/]*@", "%1")) end

-- A path on this machine means nothing elsewhere, so it is not a repository's address.
local function is_remote(url)
  if url:find "^%a[%w+.-]*://" then return not url:find "^file:" end
  return url:find "^[%w._-]+@[^/:]+:" ~= nil
end

--- Returns the provider that hosts the repository at this URL.
---@param url string
---@return string? provider "github", "gitlab", "bitbucket"; nil for another host
function M.provider(url)
  local host = url:match "^%a[%w+.-]*://([^/:]+)" or url:match "^[^/@]*@([^/:]+):" or ""
  return HOSTS[host:lower()]
end

--- Describes the checkout that a folder is in.
---@param folder string
---@return { commit: string?, branch: string?, repository_url: string? }? nil when the folder is in no checkout
function M.describe(folder)
  local found = find(folder)
  if not found then return nil end
  local common, head = common_folder(found), first_line(found .. "/HEAD") or ""
  local ref = head:match "^ref: (.+)$"
  local url = remote_of(read(common .. "/config") or "")
  return {
    commit = ref and hash_of(found, common, ref) or head:match "^%x+$",
    branch = ref and ref:match "^refs/heads/(.+)$",
    repository_url = url and is_remote(url) and M.public(url) or nil,
  }
end

return M
