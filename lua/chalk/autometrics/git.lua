-- What a git checkout says of itself: read from its files, so that no program is started and none has to be there.

local ffi = require "ffi"

local M = {}

-- The names are private to this module; modules may be loaded again, and the same declaration twice is none too many.
ffi.cdef [[
  int chalk_git_open(const char *path, int flags, ...) __asm__("open");
  long chalk_git_seek(int fd, long offset, int from) __asm__("lseek");
  long chalk_git_read(int fd, void *to, size_t size) __asm__("read");
  int chalk_git_close(int fd) __asm__("close");
]]
local C = ffi.C

local O_NOCTTY_NONBLOCK_CLOEXEC, SEEK_SET, SEEK_END = 0x80900, 0, 2
local MOST = 64 * 1024 * 1024 -- bytes of a file that is looked at
local DEEP = 32 -- folders to go up at most
local HOSTS = { ["github.com"] = "github", ["gitlab.com"] = "gitlab", ["bitbucket.org"] = "bitbucket" }

-- What has a size is read, and nothing is waited for: a FIFO, a socket or a terminal has none and cannot be sought.
local function read_sized(fd)
  local size = tonumber(C.chalk_git_seek(fd, 0, SEEK_END))
  if size < 0 or size > MOST or C.chalk_git_seek(fd, 0, SEEK_SET) ~= 0 then return nil end
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

-- The folder that holds HEAD: `.git`, or what the file of that name in a worktree or submodule points at.
local function git_folder(folder)
  local path = folder .. "/.git"
  if first_line(path .. "/HEAD") then return path end
  local elsewhere = (first_line(path) or ""):match "^gitdir: (.+)$"
  if not elsewhere then return nil end
  return elsewhere:sub(1, 1) == "/" and elsewhere or folder .. "/" .. elsewhere
end

local function find(start)
  local folder = start
  for _ = 1, DEEP do
    local found = git_folder(folder)
    if found then return found end
    folder = folder .. "/.."
  end
end

-- Branches and configuration are shared by the worktrees of a repository.
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

--- The address of a repository without the password that may be in it.
---@param url string
---@return string
function M.public(url) return (url:gsub("^(%a[%w+.-]*://)[^/]*@", "%1")) end

-- A path of this machine means nothing to others.
local function is_remote(url)
  if url:find "^%a[%w+.-]*://" then return not url:find "^file:" end
  return url:find "^[%w._-]+@[^/:]+:" ~= nil
end

--- Who hosts the repository at an address.
---@param url string
---@return string?
function M.provider(url)
  local host = url:match "^%a[%w+.-]*://([^/:]+)" or url:match "^[^/@]*@([^/:]+):" or ""
  return HOSTS[host:lower()]
end

--- What is known of the checkout that a folder is in.
---@param folder string
---@return { commit: string?, branch: string?, repository_url: string? }? nil when it is in none
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
