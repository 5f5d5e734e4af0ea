-- Commands for their effect. LuaJIT's os.execute answers with the exit status; built with LUA52COMPAT, with true.

local M = {}

--- Runs a shell command; whether it succeeded.
function M.run(command)
  local status = os.execute(command)
  return status == 0 or status == true
end

return M
