--- Runs shell commands for their effect. os.execute returns the exit status, or true in a LuaJIT with LUA52COMPAT.

local M = {}

--- Runs a shell command.
---@param command string
---@return boolean whether it succeeded
function M.run(command)
  local status = os.execute(command)
  return status == 0 or status == true
end

return M
