--- Counts open file descriptors. It does so without a pipe to another program, because the pipe's own descriptors would
--- change the count.

local uv = require "luv"

local M = {}

--- Returns the number of a process's descriptors. In this process that includes the one with which it counts.
---@param pid integer? default: this process
---@return integer
function M.count(pid)
  local n, scan = 0, uv.fs_scandir(("/proc/%s/fd"):format(pid or "self"))
  while scan and uv.fs_scandir_next(scan) do
    n = n + 1
  end
  return n
end

return M
