-- Runs shell commands for their effect. os.execute returns the exit status, or true in a LuaJIT with LUA52COMPAT.

local M = {}

--- Runs a shell command and returns whether it succeeded.
function M.run(command)
  local status = os.execute(command)
  return status == 0 or status == true
end

--- What a shell command prints; nothing of its errors.
---@param command string
---@return string
function M.output(command)
  local pipe = assert(io.popen(command .. " 2>/dev/null"))
  local text = pipe:read "*a"
  pipe:close()
  return text
end

--- The first line that a shell command prints; nil when there is none.
---@param command string
---@return string?
function M.first_line(command) return M.output(command):match "^[^\n]+" end

return M
