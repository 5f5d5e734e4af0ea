--- The texts of `chalk help` and `chalk help COMMAND`.

local M = {}

local COLUMN = 26

local function row(left, right) return ("  %-" .. COLUMN .. "s%s\n"):format(left, right) end

local function option_row(option)
  local short = option.short and ("-%s, "):format(option.short) or "    "
  local value = option.value and "=" .. option.value or ""
  return row(("%s--%s%s"):format(short, option[1], value), option.text)
end

--- Returns the list of all commands.
---@param commands chalk.cli.Command[]
---@return string
function M.overview(commands)
  local lines = { "Usage: chalk COMMAND [OPTION]... [OPERAND]...\n\nCommands:\n" }
  for _, command in ipairs(commands) do
    lines[#lines + 1] = row(command.name, command.summary)
  end
  lines[#lines + 1] = row("help [COMMAND]", "show this list, or what a command does")
  lines[#lines + 1] = "\nOptions:\n"
  lines[#lines + 1] = option_row { "help", short = "h", text = "show this help" }
  lines[#lines + 1] = option_row { "version", text = "show the version" }
  lines[#lines + 1] = "\nExit codes: 0 done, 1 input wrong, out of date or unreadable, 2 command line wrong.\n"
  return table.concat(lines)
end

--- Returns the description of one command.
---@param command chalk.cli.Command
---@param options chalk.cli.Option[]
---@return string
function M.command(command, options)
  local lines = { ("Usage: chalk %s %s\n\n%s\n\nOptions:\n"):format(command.name, command.operands, command.text) }
  for _, option in ipairs(options) do
    lines[#lines + 1] = option_row(option)
  end
  return table.concat(lines)
end

return M
