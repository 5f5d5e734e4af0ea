--- Finds programs that a test uses. If one is missing, the test fails on CI, and elsewhere it is pending.

local child = require("support.examples").child

local M = {}

--- Returns the path of the first of these programs that is on PATH. If none is, the test that calls this is pending.
---@param ... string
---@return string? path if it is nil, the caller must return
function M.need(...)
  for _, name in ipairs { ... } do
    local path = child.find(name)
    if path then return path end
  end
  local message = table.concat({ ... }, " or ") .. " is not on PATH: tools/setup installs it"
  if os.getenv "CI" == "true" then error(message, 0) end
  pending(message)
end

--- Returns a variant of busted's `it` for tests that use one of these programs.
---@param it fun(name: string, body: fun()) busted's
---@param ... string
---@return fun(name: string, body: fun())
function M.needing(it, ...)
  local names = { ... }
  return function(name, body)
    it(name, function()
      if M.need(unpack(names)) then body() end
    end)
  end
end

return M
