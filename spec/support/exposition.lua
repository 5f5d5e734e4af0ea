--- Reads an exposition as strictly as a scraper would: a table of samples, `name{labels}` as written to its value.

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

-- Where the labels' closing brace is.
local function skip_labels(line, at)
  if line:sub(at, at) ~= "{" then return at end
  at = at + 1
  while line:sub(at, at) ~= "}" do
    local _, last = line:find(LABEL, at)
    assert(last, "a label is malformed: " .. line)
    at = last + 1
    while line:sub(at, at) ~= '"' do
      assert(at <= #line, "a label has no end: " .. line)
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

--- Raises when anything in the text is not as the format has it, or a family is there twice.
---@param text string
---@return table<string, number> samples
---@return table<string, string> types by name of the family
function M.parse(text)
  assert(text == "" or text:sub(-1) == "\n", "the last line is not whole")
  assert(valid_utf8(text), "not UTF-8")
  local samples, types = {}, {}
  for line in text:gmatch "([^\n]*)\n" do
    local family, kind = line:match "^# TYPE (%S+) (%S+)$"
    if family then
      assert(not types[family], "two TYPE lines for " .. family)
      types[family] = kind
    elseif line:sub(1, 1) ~= "#" then
      local name = assert(line:match(NAME), "no sample: " .. line)
      local stop = skip_labels(line, #name + 1)
      local key, value = line:sub(1, stop - 1), number(line:match("^ (%S+)$", stop))
      assert(value, "no value: " .. line)
      assert(not samples[key], "twice: " .. key)
      samples[key] = value
    end
  end
  return samples, types
end

--- Adds up all samples of a name, whatever their labels.
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
