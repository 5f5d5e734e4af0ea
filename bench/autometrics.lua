-- Times calls of instrumented functions against calls of the bare functions.

local autometrics = require "chalk.autometrics"
local chalk = require "chalk"
local harness = require "harness"

local M = {}

local function empty() end

local function loop_of(f)
  return function(n)
    for _ = 1, n do
      f()
    end
  end
end

--- Returns the nanoseconds that a wrapped empty function takes more than the bare one, and the bytes of garbage of a
--- call; the nanoseconds of a wrapped function that calls another one, above a bare call; and whether wrapping by a
--- disabled client returns the bare function.
---@return number ns, integer garbage, number nested, boolean bare
function M.run()
  local auto = autometrics.new(chalk.new())
  local wrapped = auto.wrap(empty, { name = "empty", module = "bench" })
  local outer = auto.wrap(function()
    local result = wrapped()
    return result
  end, { name = "outer", module = "bench" })
  local base = harness.time(loop_of(empty))
  local nested = harness.time(loop_of(outer)) - base
  local ns = harness.time(loop_of(wrapped)) - base
  local disabled = autometrics.new(chalk.new { enabled = false })
  local bare = disabled.wrap(empty, { name = "empty", module = "bench" }) == empty
  return ns, harness.garbage(loop_of(wrapped)), nested, bare
end

return M
