--- Parses the words of a command line into options and operands, as getopt_long does.
--
-- An option is a table: { "output", short = "o", value = "FILE", many = false, text = "..." }. An option with `value`
-- takes a value, written as `--output FILE`, `--output=FILE`, `-o FILE` or `-oFILE`. An option with `many` may be
-- repeated. All words after `--` are operands, and so is a single `-`.

local suggest = require "chalk.base.suggest"

local M = {}

---@class chalk.cli.Option
---@field [1] string long name
---@field short string?
---@field value string? the name of its value in the help; nil for a switch
---@field many boolean? the option may be repeated; its values are a list
---@field text string the description in the help

local function by_name(options)
  local long, short, names = {}, {}, {}
  for _, option in ipairs(options) do
    long[option[1]] = option
    names[#names + 1] = option[1]
    if option.short then short[option.short] = option end
  end
  return long, short, names
end

-- Returns the option that a word names, the option as it was written, the value in the word, and for an unknown option
-- a hint at a similar one.
local function read(word, long, short, names)
  local name, value = word:match "^%-%-([^=]+)=(.*)$"
  name = name or word:match "^%-%-(.+)$"
  if name then
    local hint = not long[name] and suggest(name, names)
    return long[name], "--" .. name, value, hint and hint:gsub('"(.*)"', '"--%1"')
  end
  name, value = word:match "^%-(.)(.*)$"
  return short[name], "-" .. name, value ~= "" and value or nil
end

local function store(values, option, value)
  local name = option[1]
  if not option.many then
    values[name] = value
  else
    values[name] = values[name] or {}
    table.insert(values[name], value)
  end
end

--- Parses the words after a command.
---@param options chalk.cli.Option[]
---@param words string[]
---@return table<string, any>? values by long name; nil if the words are wrong
---@return string[]|string operands or a message
function M.parse(options, words)
  local long, short, names = by_name(options)
  local values, operands = {}, {}
  local i = 0
  while i < #words do
    i = i + 1
    local word = words[i]
    if word == "--" then
      for j = i + 1, #words do
        operands[#operands + 1] = words[j]
      end
      break
    elseif word == "-" or word:sub(1, 1) ~= "-" then
      operands[#operands + 1] = word
    else
      local option, written, value, hint = read(word, long, short, names)
      if not option then return nil, ("unknown option %s%s"):format(written, hint and ", " .. hint or "") end
      if not option.value then
        if value then return nil, ("option %s takes no value"):format(written) end
        value = true
      elseif not value then
        i = i + 1
        value = words[i]
        if not value then return nil, ("option %s needs a %s"):format(written, option.value) end
      end
      store(values, option, value)
    end
  end
  return values, operands
end

return M
