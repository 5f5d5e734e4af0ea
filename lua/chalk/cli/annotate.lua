--- Writes links to charts into the comments above functions: source text and functions -> new source text.
--
--     --- Creates a user.
--     --- <!-- chalk:links users.create -->
--     --- - [Request rate](https://prom.example/graph?...)
--     --- <!-- /chalk:links -->
--     ---@param name string
--     local function create(name)
--
-- The first and last line of a block are Markdown comments, which editors do not show. All blocks are removed first and
-- then written again, so a second run changes nothing, and the block of a function that is gone disappears. A block
-- stands before the first tag (`@param`) of the comment above its function, because editors read the lines after a tag
-- as part of that tag.

local source_lines = require "chalk.cli.source_lines"

local M = {}

local BEGIN, END = "^%s*%-%-+ <!%-%- chalk:links .*%-%->%s*$", "^%s*%-%-+ <!%-%- /chalk:links %-%->%s*$"

local LABELS = {
  { "request_rate", "Request rate" },
  { "error_ratio", "Error ratio" },
  { "latency_p95", "Latency, 95th percentile" },
  { "latency_p99", "Latency, 99th percentile" },
  { "concurrency", "Concurrent calls" },
  { "calls", "Calls made" },
  { "calls_error_ratio", "Error ratio of calls made" },
}

---@class chalk.cli.Annotated
---@field name string
---@field module string
---@field line integer the function's first line in the text before the change
---@field links table<string, string> URLs, with the keys of auto.links

-- Marks the lines of all blocks as dropped. Returns nil and its first line if a block has no end.
local function drop_blocks(lines)
  local i = 1
  while lines[i] do
    if lines[i].comment and lines[i].text:find(BEGIN) then
      local began = i
      repeat
        lines[i].dropped = true
        i = i + 1
        if not lines[i] or not lines[i].comment then return nil, began end
      until lines[i].text:find(END)
      lines[i].dropped = true
    end
    i = i + 1
  end
  return true
end

-- Returns the title of a block, in which nothing can end the Markdown comment or the line.
local function title(f) return (f.module .. "." .. f.name):gsub("%-%->", "->"):gsub("%c", " ") end

-- Escapes brackets and blanks, which end a link in Markdown.
local function link(url)
  return (url:gsub("[%c ()<>]", function(c) return ("%%%02X"):format(c:byte()) end))
end

local function block(f, indent, dashes, ending)
  local out = { ("<!-- chalk:links %s -->"):format(title(f)) }
  for _, label in ipairs(LABELS) do
    local url = f.links[label[1]]
    if url then out[#out + 1] = ("- [%s](%s)"):format(label[2], link(url)) end
  end
  out[#out + 1] = "<!-- /chalk:links -->"
  for i, text in ipairs(out) do
    out[i] = indent .. dashes .. " " .. text .. ending
  end
  return table.concat(out)
end

local function kept_above(lines, i)
  repeat
    i = i - 1
  until not lines[i] or not lines[i].dropped
  return lines[i] and lines[i].comment and i or nil
end

-- Returns the last line, from i upwards, that a comment can be put before: one that is not inside a string.
local function anchor(lines, i)
  while lines[i].within do
    i = lines[i].within
  end
  return i
end

-- Returns the line that a block goes before, and the dashes of its lines: those of the comment there, or else `---`.
local function insertion_point(lines, i)
  local first_tag, above = nil, kept_above(lines, i)
  local last = above
  while above do
    if lines[above].text:find "^%s*%-%-+%s*@%a" then first_tag = above end
    above = kept_above(lines, above)
  end
  local like = first_tag and (kept_above(lines, first_tag) or first_tag) or last
  local dashes = like and lines[like].text:match "^%s*(%-%-%-?)" or "---"
  return first_tag or i, dashes
end

local function by_line(a, b)
  if a.line ~= b.line then return a.line < b.line end
  if a.module ~= b.module then return a.module < b.module end
  return a.name < b.name
end

local function line_ending(lines, i)
  if lines[i].ending ~= "" then return lines[i].ending end
  return lines[1].ending ~= "" and lines[1].ending or "\n"
end

local function has_function(line) return line and line.text:find "%f[%w_]function%f[^%w_]" ~= nil end

-- Returns the blocks to insert, by the line that they go before; or nil, and the line and title of a function that does
-- not begin on its line.
local function blocks(lines, functions)
  local before, seen = {}, {}
  local sorted = { unpack(functions) }
  table.sort(sorted, by_line)
  for _, f in ipairs(sorted) do
    if not has_function(lines[f.line]) then return nil, f.line, title(f) end
    local at, dashes = insertion_point(lines, anchor(lines, f.line))
    local indent = lines[at].text:match "^[ \t]*"
    local text = block(f, indent, dashes, line_ending(lines, at))
    if not seen[at .. text] then before[at] = (before[at] or "") .. text end
    seen[at .. text] = true
  end
  return before
end

--- Writes the blocks of links of these functions, and removes all others.
---@param text string
---@param functions chalk.cli.Annotated[] an empty list removes all blocks
---@return string? text nil if a block has no end, or a function does not begin on its line
---@return integer? line the line of the problem
---@return string? message
function M.annotate(text, functions)
  local lines = source_lines.split(text)
  local ok, line = drop_blocks(lines)
  if not ok then
    return nil, line, 'this block of links has no end: add a line "-- <!-- /chalk:links -->" or delete the block'
  end
  local before, at, name = blocks(lines, functions)
  if not before then
    return nil, at, ("%s does not begin on this line: the file may have changed since it was loaded"):format(name)
  end
  local out = {}
  for i, one in ipairs(lines) do
    out[#out + 1] = before[i]
    if not one.dropped then out[#out + 1] = one.text .. one.ending end
  end
  return table.concat(out)
end

return M
