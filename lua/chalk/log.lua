-- What chalk has to say to whoever runs the program: one line to standard error.

local M = {}

---@param level "warning"|"error"
---@param message string
function M.write(level, message)
  io.stderr:write(("chalk: %s: %s\n"):format(level, (tostring(message):gsub("[%c]+", " "))))
end

return M
