--- Finds the id of the container in which this process runs, for the field `c:`, in the same way as Datadog's clients.
--
-- It looks in this order:
--
--     /proc/self/cgroup      paths that end in the id: Docker, Kubernetes, ECS, Garden; with cgroup v1, or with v2 and
--                            the host's cgroup namespace
--     /proc/self/mountinfo   the path that is mounted as /etc/hostname contains the id, also where a cgroup namespace
--                            hides the other paths
--     the cgroup's inode     as `in-<inode>`, by which an agent on the same host finds the container
--
-- The last two are used only in a cgroup namespace, because on the host itself they would name no container.

local M = {}

local HOST_NAMESPACE = 0xEFFFFFFB -- the inode of the first cgroup namespace: PROC_CGROUP_INIT_INO in linux/proc_ns.h
local ROOT_INODE = 2
local MOUNT = "/sys/fs/cgroup"

local function hex(n) return ("[0-9a-f]"):rep(n) end

local UUID = hex(8) .. ("[-_]" .. hex(4)):rep(3) .. "[-_]" .. hex(12)
local FULL = hex(64)
local TASK = hex(32) .. "%-%d+"
local GARDEN = hex(8) .. ("%-" .. hex(4)):rep(4)

local function id_at_end(path)
  path = path:gsub("%.scope$", "")
  for _, pattern in ipairs { UUID, FULL, TASK, GARDEN } do
    local id = path:match("%f[%w](" .. pattern .. ")$") -- an id after "pod" is the pod's, and not matched
    if id then return id end
  end
end

-- Iterates over the hierarchy, controllers and path of each line.
local function cgroups(text) return text:gmatch "(%d+):([^:\n]*):([^\n]+)" end

--- Finds the container's id in the text of /proc/self/cgroup.
---@param text string
---@return string?
function M.of_cgroup(text)
  for _, _, path in cgroups(text) do
    local id = id_at_end(path)
    if id then return id end
  end
end

local function is_whole_id(part) return part:find("^" .. FULL .. "$") or part:find("^" .. GARDEN .. "$") end

-- Returns the innermost id in the path of a file named hostname. The id of a sandbox is that of the pod and does not
-- count.
local function of_hostname(path)
  local parts = {}
  for part in path:gmatch "[^/]+" do
    parts[#parts + 1] = part
  end
  for i = #parts - 1, 2, -1 do
    if is_whole_id(parts[i]) then return parts[i - 1] ~= "sandboxes" and parts[i] or nil end
  end
end

--- Finds the container's id in the text of /proc/self/mountinfo.
---@param text string
---@return string?
function M.of_mountinfo(text)
  for path in text:gmatch "(/%S*hostname)%f[%s%z]" do
    local id = of_hostname(path)
    if id then return id end
  end
end

--- Returns the directories that may be this process's cgroup, of the memory controller (v1) and of the unified
--- hierarchy (v2).
---@param text string the text of /proc/self/cgroup
---@return string[]
function M.directories(text)
  local found = {}
  for _, controllers, path in cgroups(text) do
    path = path == "/" and "" or path
    if controllers == "" then
      found[#found + 1] = MOUNT .. path
    elseif ("," .. controllers .. ","):find(",memory,", 1, true) then
      found[#found + 1] = MOUNT .. "/memory" .. path
    end
  end
  return found
end

local function by_inode(text, stat)
  for _, directory in ipairs(M.directories(text)) do
    local inode = stat(directory)
    if inode and inode > ROOT_INODE then return ("in-%d"):format(inode) end
  end
end

local function read(path)
  local file = io.open(path)
  if not file then return nil end
  local text = file:read "*a"
  file:close()
  return text
end

local function inode_of(path)
  local uv = package.loaded.luv -- loaded by the driver, if it uses luv
  local found = uv and uv.fs_stat(path)
  return found and found.ino
end

--- Finds the id of the container, or `in-<inode>` instead of it.
---@param read_file (fun(path: string): string?)? replaces the function that reads a file
---@param stat (fun(path: string): integer?)? replaces the function that returns the number of a file's inode
---@return string? id nil outside containers
function M.find(read_file, stat)
  read_file, stat = read_file or read, stat or inode_of
  local text = read_file "/proc/self/cgroup"
  if not text then return nil end
  local id = M.of_cgroup(text)
  local namespace = not id and stat "/proc/self/ns/cgroup"
  if not namespace or namespace == HOST_NAMESPACE then return id end
  return M.of_mountinfo(read_file "/proc/self/mountinfo" or "") or by_inode(text, stat)
end

return M
