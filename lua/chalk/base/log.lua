-- What chalk has to say to whoever runs the program: one line to standard error.

local M = {}

--- Any value as text. An error object may have a `__tostring` that raises, and what is said of it must not fail then.
---@param value any
---@return string
function M.text(value)
  local ok, text = pcall(tostring, value)
  return ok and text or ("a %s that cannot be shown as text"):format(type(value))
end

---@param level "warning"|"error"
---@param message string
function M.write(level, message)
  io.stderr:write(("chalk: %s: %s\n"):format(level, (M.text(message):gsub("[%c]+", " "))))
end

return M
