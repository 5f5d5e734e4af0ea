-- chalk rules writes recording rules and alerts for the objectives in use.

local failure = require "chalk.cli.failure"
local files = require "chalk.cli.files"
local json = require "chalk.base.json"
local modules = require "chalk.cli.modules"

local M = {
  name = "rules",
  summary = "write Prometheus rules for the objectives in use",
  operands = "--require MODULE [OPTION]...",
  text = "Loads the modules and writes a rules file for Prometheus: for each objective of a wrapped function\n"
    .. "its error ratio over eight windows, its error budget, and alerts for paging and for tickets.",
  options = {
    { "require", short = "r", value = "MODULE", many = true, text = "a module to load; may be repeated" },
    { "include", short = "I", value = "DIR", many = true, text = "look for modules in DIR first" },
    { "output", short = "o", value = "FILE", text = "write to FILE instead of standard output" },
    { "service", value = "NAME", text = "count only the functions of this service" },
  },
}

local function check_name(name)
  local bad = json.invalid_utf8(name)
  if bad then failure.fail('objective "%s": the name is not valid UTF-8', name:gsub("[^%g ]", "?")) end
end

-- Returns the objectives that some function has; rules for others would have no data.
local function in_use(auto)
  local used, found = {}, {}
  for _, f in ipairs(auto.functions()) do
    if f.objective then used[f.objective.name] = true end
  end
  for _, objective in ipairs(auto.objectives()) do
    if used[objective.name] then found[#found + 1] = objective end
  end
  return found
end

---@param values table
---@param operands string[]
---@param out chalk.cli.Out
function M.run(values, operands, out)
  if operands[1] then
    failure.usage('rules: unexpected operand "%s": modules are named by --require', operands[1])
  end
  if not values.require then failure.usage "rules: --require MODULE is needed" end
  local objectives = in_use(modules.load(values.require, values.include or {}))
  if #objectives == 0 then
    failure.fail("no wrapped function of %s has an objective", table.concat(values.require, ", "))
  end
  for _, objective in ipairs(objectives) do
    check_name(objective.name)
  end
  local text, warnings = require("chalk.cli.rules").generate(objectives, { service = values.service })
  for _, warning in ipairs(warnings) do
    out.note("warning: " .. warning)
  end
  if not values.output or values.output == "-" then return out.write(text) end
  files.write { { path = values.output, text = text } }
end

return M
