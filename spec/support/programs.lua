--- Programs that a spec talks to: on CI one that is missing is a failure, elsewhere the spec is pending.

local child = require("support.examples").child

local M = {}

--- The path of the first of these programs that is on PATH. Without one the spec that calls it is pending.
---@param ... string
---@return string? path nil when the caller has to return
function M.need(...)
  for _, name in ipairs { ... } do
    local path = child.find(name)
    if path then return path end
  end
  local message = table.concat({ ... }, " or ") .. " is not on PATH: tools/setup installs it"
  if os.getenv "CI" == "true" then error(message, 0) end
  pending(message)
end

return M
