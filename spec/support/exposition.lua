--- A strict parser of expositions: everything that some scraper might not accept is an error.

local M = {}

local NAME, LABEL = "^([%a_:][%w_:]*)", '^([%a_][%w_]*)="'

local function valid_utf8(text)
  local rest = text:gsub("[%z\1-\127]+", "")
  rest = rest:gsub("[\194-\223][\128-\191]", "")
  rest = rest:gsub("\224[\160-\191][\128-\191]", ""):gsub("\237[\128-\159][\128-\191]", "")
  rest = rest:gsub("[\225-\236\238\239][\128-\191][\128-\191]", "")
  rest = rest:gsub("\240[\144-\191][\128-\191][\128-\191]", ""):gsub("\244[\128-\143][\128-\191][\128-\191]", "")
  return rest:gsub("[\241-\243][\128-\191][\128-\191][\128-\191]", "") == ""
end

-- Checks the labels that begin at `at`. Returns the position after their closing brace.
local function skip_labels(line, at)
  if line:sub(at, at) ~= "{" then return at end
  at = at + 1
  while line:sub(at, at) ~= "}" do
    local _, last = line:find(LABEL, at)
    assert(last, "a label is malformed: " .. line)
    at = last + 1
    while line:sub(at, at) ~= '"' do
      assert(at <= #line, "a label has no closing quote: " .. line)
      at = at + (line:sub(at, at) == "\\" and 2 or 1)
    end
    at = at + 1
    if line:sub(at, at) == "," then at = at + 1 end
  end
  return at + 1
end

local function number(text)
  if text == "+Inf" then return math.huge end
  if text == "-Inf" then return -math.huge end
  return text == "NaN" and 0 / 0 or tonumber(text)
end

--- Parses an exposition. Raises an error if the text is not valid, or if a sample or family is repeated.
---@param text string
---@return table<string, number> samples by `name{labels}` as written
---@return table<string, string> types by the name of the family
function M.parse(text)
  assert(text == "" or text:sub(-1) == "\n", "the last line has no newline")
  assert(valid_utf8(text), "the text is not UTF-8")
  local samples, types = {}, {}
  for line in text:gmatch "([^\n]*)\n" do
    local family, kind = line:match "^# TYPE (%S+) (%S+)$"
    if family then
      assert(not types[family], "two TYPE lines for " .. family)
      types[family] = kind
    elseif line:sub(1, 1) ~= "#" then
      local name = assert(line:match(NAME), "a line is no sample: " .. line)
      local stop = skip_labels(line, #name + 1)
      local key, value = line:sub(1, stop - 1), number(line:match("^ (%S+)$", stop))
      assert(value, "a sample has no value: " .. line)
      assert(not samples[key], "a sample is repeated: " .. key)
      samples[key] = value
    end
  end
  return samples, types
end

--- Returns the sum of all samples with this name.
---@param samples table<string, number>
---@param name string
---@return number
function M.sum(samples, name)
  local sum = 0
  for key, value in pairs(samples) do
    if key:match(NAME) == name then sum = sum + value end
  end
  return sum
end

return M
