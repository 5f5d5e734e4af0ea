-- Writes chalk's messages for the operator of the program, each as one line on standard error.

local M = {}

--- Returns any value as text, and never raises: an error object may have a `__tostring` that does, and its message must
--- still be written.
---@param value any
---@return string
function M.text(value)
  local ok, text = pcall(tostring, value)
  return ok and text or ("a %s that cannot be shown as text"):format(type(value))
end

--- Writes a message. Control characters become spaces, so the message stays on one line.
---@param level "warning"|"error"
---@param message string
function M.write(level, message)
  io.stderr:write(("chalk: %s: %s\n"):format(level, (M.text(message):gsub("[%c]+", " "))))
end

return M
