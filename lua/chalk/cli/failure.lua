--- A failure ends a command early, with a message for the user and an exit code. It is raised as a table with its own
--- metatable, so that the dispatcher can tell it from a bug.

local M = {}

local Failure = {}
Failure.__index = Failure
Failure.__tostring = function(self) return self.message end

local function raise(code, format, ...)
  local message = select("#", ...) > 0 and format:format(...) or format
  error(setmetatable({ message = message, code = code }, Failure), 0)
end

--- Ends the command with exit code 1: the input is wrong, or something cannot be read or written.
---@param format string the message, or a format for string.format if arguments follow
function M.fail(format, ...) raise(1, format, ...) end

--- Ends the command with exit code 2: the command line is wrong.
---@param format string as for `fail`
function M.usage(format, ...) raise(2, format, ...) end

---@param value any
---@return boolean
function M.is(value) return getmetatable(value) == Failure end

return M
