--- What ends a command early: a message for people, and the exit code that goes with it.
--
-- It is raised as a table, so that the dispatcher tells it from a bug.

local M = {}

local Failure = {}
Failure.__index = Failure
Failure.__tostring = function(self) return self.message end

local function raise(code, format, ...)
  local message = select("#", ...) > 0 and format:format(...) or format
  error(setmetatable({ message = message, code = code }, Failure), 0)
end

--- The input is wrong, or something cannot be read or written: exit code 1.
---@param format string as string.format, when more follows
function M.fail(format, ...) raise(1, format, ...) end

--- The command line is wrong: exit code 2.
---@param format string
function M.usage(format, ...) raise(2, format, ...) end

---@param value any
---@return boolean
function M.is(value) return getmetatable(value) == Failure end

return M
