--- The command line: `chalk COMMAND [OPTION]... [OPERAND]...`.
--
-- Each command is a module below chalk.cli.command, which has its name, its options and a function that runs it. The
-- texts come from generators (rules, annotate, dashboards), which are pure functions. Arguments, files and exit codes
-- are handled here and in the commands.
--
--     0   done
--     1   the input is wrong or out of date, or something cannot be read or written
--     2   the command line is wrong

local arguments = require "chalk.cli.arguments"
local failure = require "chalk.cli.failure"
local help = require "chalk.cli.help"
local suggest = require "chalk.base.suggest"

local M = {}

local COMMANDS = { "check", "annotate", "rules", "dashboards" }

local HELP = { "help", short = "h", text = "show this help" }

---@class chalk.cli.Command
---@field name string
---@field summary string one line
---@field operands string the arguments in the synopsis
---@field text string the description in `chalk help COMMAND`
---@field options chalk.cli.Option[]
---@field run fun(values: table, operands: string[], out: chalk.cli.Out)

---@class chalk.cli.Out
---@field write fun(text: string) writes to standard output
---@field note fun(text: string) writes one line to standard error

local function write(text)
  local ok, message = io.stdout:write(text)
  if ok then
    ok, message = io.stdout:flush()
  end
  if not ok then failure.fail("cannot write to standard output: %s", message) end
end

local OUT = { write = write, note = function(text) io.stderr:write("chalk: ", text, "\n") end }

local function command(name)
  for _, known in ipairs(COMMANDS) do
    if known == name then return require("chalk.cli.command." .. name) end
  end
  local hint = suggest(name, { "help", unpack(COMMANDS) })
  failure.usage('unknown command "%s"%s', name, hint and ", " .. hint or "")
end

local function commands()
  local all = {}
  for i, name in ipairs(COMMANDS) do
    all[i] = command(name)
  end
  return all
end

local function with_help(options)
  local all = { unpack(options) }
  all[#all + 1] = HELP
  return all
end

local function run_command(name, words)
  local chosen = command(name)
  local options = with_help(chosen.options)
  local values, operands = arguments.parse(options, words)
  if not values then failure.usage("%s: %s", name, operands) end
  if values.help then return write(help.command(chosen, options)) end
  return chosen.run(values, operands --[[@as string[] ]], OUT)
end

local function run_help(words)
  if #words == 0 then return write(help.overview(commands())) end
  if #words > 1 then failure.usage "help: only one COMMAND can be given" end
  if words[1] == "help" then return write(help.overview(commands())) end
  local chosen = command(words[1])
  write(help.command(chosen, with_help(chosen.options)))
end

local GLOBAL = {
  help = run_help,
  ["--help"] = run_help,
  ["-h"] = run_help,
  ["--version"] = function() write("chalk " .. require "chalk.version" .. "\n") end,
}

local function dispatch(words)
  local name = words[1]
  local rest = { unpack(words, 2) }
  if not name then failure.usage "a COMMAND is needed" end
  if GLOBAL[name] then return GLOBAL[name](rest) end
  if name:sub(1, 1) == "-" then failure.usage("unknown option %s", name) end
  return run_command(name, rest)
end

local function trace(problem) return failure.is(problem) and problem or debug.traceback(tostring(problem), 2) end

--- Runs a command line.
---@param words string[] the words after the program's name
---@return integer code the exit code
function M.main(words)
  local ok, problem = xpcall(function() dispatch(words) end, trace)
  if ok then return 0 end
  if not failure.is(problem) then
    OUT.note("a bug in chalk itself: " .. tostring(problem))
    return 1
  end
  OUT.note(problem.message)
  if problem.code == 2 then io.stderr:write 'Try "chalk help".\n' end
  return problem.code
end

return M
