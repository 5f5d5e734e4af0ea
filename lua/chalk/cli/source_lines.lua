--- Splits a Lua source into lines, and finds out which lines are comments or begin inside a string.
--
-- A line that begins inside a string or comment of an earlier line may look like anything, and nothing can be inserted
-- before it. Lines are counted as LuaJIT counts them: "\r\n" and "\n\r" are one line ending, and "\r" or "\n" alone is
-- one too.

local M = {}

---@class chalk.cli.Line
---@field text string the line without its ending
---@field ending string "" on a last line without an ending
---@field within integer? if this line begins inside a string or comment: the line on which that begins
---@field comment boolean? whether the line is only a comment `-- ...`

local function after_newline(text, at)
  local pair = text:sub(at, at + 1)
  return (pair == "\r\n" or pair == "\n\r") and at + 2 or at + 1
end

local function split(text)
  local lines, starts, at = {}, {}, 1
  while at <= #text do
    local stop = text:find("[\r\n]", at)
    local next = stop and after_newline(text, stop) or #text + 1
    lines[#lines + 1] =
      { text = text:sub(at, (stop or next) - 1), ending = stop and text:sub(stop, next - 1) or "" }
    starts[#starts + 1] = at
    at = next
  end
  return lines, starts
end

-- Returns the position after the long bracket that opens at `at`; nil if none opens there. A bracket that is never
-- closed ends with the text.
local function after_long_bracket(text, at)
  local level = text:match("^%[(=*)%[", at)
  if not level then return nil end
  local _, last = text:find("]" .. level .. "]", at, true)
  return (last or #text) + 1
end

-- Returns the position after a quoted string. An escaped newline continues it, and so does all white space after `\z`.
local function after_string(text, at)
  local quote = text:sub(at, at)
  at = at + 1
  while true do
    at = text:find("[\\\r\n" .. quote .. "]", at)
    if not at then return #text + 1 end
    local c = text:sub(at, at)
    if c == quote then return at + 1 end
    if c ~= "\\" then return at end
    if text:sub(at + 1, at + 1) == "z" then
      at = text:match("^%s*()", at + 2)
    else
      at = after_newline(text, at + 1)
    end
  end
end

local function after_comment(text, at) return text:find("[\r\n]", at) or #text + 1 end

-- Calls `found` with the first position, the position after the last, and the kind of each string and comment.
local function each_token(text, found)
  local at = text:match "^\239?\187?\191?#[^\r\n]*()" or 1
  while true do
    at = text:find("[-%[\"']", at)
    if not at then return end
    local c, stop, kind = text:sub(at, at), nil, "string"
    if text:sub(at, at + 1) == "--" then
      stop = after_long_bracket(text, at + 2)
      kind = stop and "long comment" or "comment"
      stop = stop or after_comment(text, at)
    elseif c == "[" then
      stop = after_long_bracket(text, at)
    elseif c ~= "-" then
      stop = after_string(text, at)
    end
    if stop then found(at, stop, kind) end
    at = stop or at + 1
  end
end

--- Splits a source into lines.
---@param text string
---@return chalk.cli.Line[]
function M.split(text)
  local lines, starts = split(text)
  local line = 1
  each_token(text, function(first, stop, kind)
    while starts[line + 1] and starts[line + 1] <= first do
      line = line + 1
    end
    if kind == "comment" then
      lines[line].comment = not text:sub(starts[line], first - 1):find "%S" and lines[line].within == nil
    end
    local began = line
    while starts[line + 1] and starts[line + 1] < stop do
      line = line + 1
      lines[line].within = began
    end
  end)
  return lines
end

return M
