--- Open file descriptors. They are counted without a pipe to another program: its write end is open in this process for
--- a moment that the other program may or may not see.

local uv = require "luv"

local M = {}

--- How many a process has; in this process the one that counts is among them.
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
