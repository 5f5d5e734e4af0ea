-- chalk check finds out whether metrics.json files can be loaded.

local failure = require "chalk.cli.failure"
local schema = require "chalk.define.schema"

local M = {
  name = "check",
  summary = "check metrics.json files",
  operands = "FILE...",
  text = "Checks definitions as chalk.load does. Shows all errors, each with the file and field.",
  options = {
    { "together", text = "check the FILEs as one application that loads them all" },
    { "quiet", short = "q", text = "print nothing for files that are right" },
  },
}

local function counted(n, what) return ("%d %s%s"):format(n, what, n == 1 and "" or "s") end

---@param values table
---@param paths string[]
---@param out chalk.cli.Out
function M.run(values, paths, out)
  if #paths == 0 then failure.usage "check: a FILE is needed" end
  local registry, errors = schema.new(), {}
  for _, path in ipairs(paths) do
    if not values.together then registry = schema.new() end
    local definitions, problems = registry:add(path)
    if not definitions then
      for _, problem in ipairs(problems) do
        errors[#errors + 1] = problem
      end
    elseif not values.quiet then
      out.write(("%s: %s\n"):format(path, counted(#definitions, "metric")))
    end
  end
  if #errors > 0 then failure.fail(table.concat(errors, "\nchalk: ")) end
end

return M
