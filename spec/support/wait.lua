--- Waits for conditions, with a deadline.

local ffi = require "ffi"

pcall(ffi.cdef, "int poll(void *fds, unsigned long n, int timeout);")

local M = {}

--- Checks a condition every few milliseconds until it holds. Raises an error after the deadline.
---@param condition fun(): any
---@param seconds number? default 10
---@param what string? names the condition in the error
---@return any value what the condition returned
function M.till(condition, seconds, what)
  local core = require "chalk.core"
  local deadline = core.C.chalk_now() + (seconds or 10)
  while true do
    local value = condition()
    if value then return value end
    if core.C.chalk_now() > deadline then error("waited in vain for " .. (what or "a condition"), 2) end
    ffi.C.poll(nil, 0, 5)
  end
end

---@param seconds number
function M.sleep(seconds) ffi.C.poll(nil, 0, seconds * 1000) end

return M
