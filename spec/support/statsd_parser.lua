--- Parses packets by the letter of DogStatsD's protocol pages (versions 1.0 to 1.3, with the later fields for origin
--- and cardinality) or of statsd's own. Everything that those do not allow is an error here, even if real receivers
--- accept it.
--
--     NAME:VALUE[:VALUE..]|TYPE[|@RATE][|#TAG,..][|c:CONTAINER][|e:EXTERNAL][|card:CARDINALITY][|TTIME]

local M = {}

local TYPES = { c = true, g = true, h = true, d = true, ms = true }
local PLAIN_TYPES = { c = true, g = true, ms = true }
local LONGEST = 200
local CARDINALITIES = { none = true, low = true, orchestrator = true, high = true }

---@class spec.StatsdLine
---@field name string
---@field values string[] as written
---@field type string
---@field rate number
---@field tags string[] as written
---@field container string?
---@field external string?
---@field cardinality string?
---@field time integer?

local function fail(line, what) error(("%s in %q"):format(what, line), 0) end

-- Returns the number of characters of a UTF-8 text, by the table of RFC 3629; nil if the text is not valid.
local function characters(text)
  local at, n = 1, 0
  while at <= #text do
    local a, b = text:byte(at, at + 1)
    local size = a < 0x80 and 1
      or a >= 0xc2 and a < 0xe0 and 2
      or a >= 0xe0 and a < 0xf0 and 3
      or a >= 0xf0 and a < 0xf5 and 4
    if not size or at + size - 1 > #text then return nil end
    if size > 1 and not text:sub(at + 1, at + size - 1):find "^[\128-\191]+$" then return nil end
    if a == 0xe0 and b < 0xa0 or a == 0xed and b > 0x9f or a == 0xf0 and b < 0x90 or a == 0xf4 and b > 0x8f then
      return nil
    end
    at, n = at + size, n + 1
  end
  return n
end

local function number(line, text)
  local plain = text:find "^%-?%d+$" or text:find "^%-?%d+%.%d+$"
  local exponent = text:find "^%-?%d+[eE][+-]?%d+$" or text:find "^%-?%d+%.%d+[eE][+-]?%d+$"
  local value = (plain or exponent) and tonumber(text)
  if not value or value - value ~= 0 then fail(line, "a value that is not a number") end
  return value
end

local function split(text, separator)
  local fields = {}
  for field in (text .. separator):gmatch("([^" .. separator .. "]*)" .. separator) do
    fields[#fields + 1] = field
  end
  return fields
end

local function check_tag(line, tag)
  local n = characters(tag)
  if not n or n > LONGEST then fail(line, "a tag that is too long") end
  local key, value = tag:match "^([^:]*):(.*)$"
  if not key or not key:find "^[%a\128-\255][%w_%-./\128-\255]*$" then fail(line, "a bad tag key") end
  if not value:find "^[%w_%-./:\128-\255]+$" or value:find ":$" then fail(line, "a bad tag value") end
  if tag:find "\194[\128-\159]" or tag:find "\226\128[\168\169]" then fail(line, "a control character") end
end

-- The fields after the type, in the order in which they may come.
local FIELDS = {
  {
    "^@(%d[%d.]*)$",
    function(line, parsed, text)
      parsed.rate = number(line, text)
      if parsed.rate <= 0 or parsed.rate > 1 then fail(line, "a rate that is not from 0 to 1") end
      if parsed.type == "g" then fail(line, "a gauge with a rate") end
    end,
  },
  {
    "^#(.+)$",
    function(line, parsed, text)
      parsed.tags = split(text, ",")
      for _, tag in ipairs(parsed.tags) do
        check_tag(line, tag)
      end
    end,
  },
  { "^c:([%w_.:/-]+)$", function(_, parsed, text) parsed.container = text end },
  { "^e:(.+)$", function(_, parsed, text) parsed.external = text end },
  {
    "^card:(%a+)$",
    function(line, parsed, text)
      if not CARDINALITIES[text] then fail(line, "an unknown cardinality") end
      parsed.cardinality = text
    end,
  },
  {
    "^T([1-9]%d*)$",
    function(line, parsed, text)
      if parsed.type ~= "c" and parsed.type ~= "g" or parsed.rate ~= 1 then
        fail(line, "a time that this type or rate may not have")
      end
      parsed.time = tonumber(text)
    end,
  },
}

local function take_fields(line, parsed, fields, last)
  local at = 3
  for i = 1, last do
    local text = fields[at] and fields[at]:match(FIELDS[i][1])
    if text then
      FIELDS[i][2](line, parsed, text)
      at = at + 1
    end
  end
  if fields[at] then fail(line, "an unknown field, or one out of order") end
end

--- Parses a line without its newline.
---@param line string
---@param dialect "dogstatsd"|"statsd"|nil
---@return spec.StatsdLine
function M.line(line, dialect)
  local plain = dialect == "statsd"
  if not characters(line) or line:find "%c" then fail(line, "bytes that are not UTF-8 text") end
  local fields = split(line, "|")
  local name, values = fields[1]:match "^([^:]+):(.+)$"
  if not name or not name:find(plain and "^%a[%w_.-]*$" or "^%a[%w_.]*$") then fail(line, "a bad name") end
  if not plain and #name > LONGEST then fail(line, "a name that is too long") end
  local parsed = { name = name, type = fields[2], values = split(values, ":"), rate = 1, tags = {} }
  if not (plain and PLAIN_TYPES or TYPES)[parsed.type] then fail(line, "an unknown type") end
  if plain and #parsed.values > 1 then fail(line, "more than one value") end
  for _, value in ipairs(parsed.values) do
    number(line, value)
  end
  take_fields(line, parsed, fields, plain and 1 or #FIELDS)
  return parsed
end

--- Parses all lines of a packet.
---@param packet string
---@param dialect "dogstatsd"|"statsd"|nil
---@return spec.StatsdLine[]
function M.packet(packet, dialect)
  if packet:sub(-1) ~= "\n" then error("a packet that does not end with a newline: " .. packet, 0) end
  local lines = split(packet:sub(1, -2), "\n")
  for i, line in ipairs(lines) do
    lines[i] = M.line(line, dialect)
  end
  return lines
end

-- What a receiver keeps

---@class spec.StatsdAgent
---@field counts table<string, number> by "name{tag,tag}", tags sorted
---@field gauges table<string, number>
---@field weights table<string, table<number, integer>> of a histogram's values
---@field lines integer
local Agent = {}
Agent.__index = Agent

--- Returns an object that sums lines as a receiver does. 1/rate is truncated, as in Datadog's agent. In plain statsd a
--- gauge value with a sign is a change.
---@param dialect "dogstatsd"|"statsd"|nil
---@return spec.StatsdAgent
function M.agent(dialect)
  local agent = { dialect = dialect, counts = {}, gauges = {}, weights = {}, types = {}, lines = 0 }
  return setmetatable(agent, Agent)
end

local function id_of(parsed)
  local tags = {}
  for i, tag in ipairs(parsed.tags) do
    tags[i] = tag
  end
  table.sort(tags)
  return parsed.name .. (tags[1] and "{" .. table.concat(tags, ",") .. "}" or "")
end

function Agent:line(parsed)
  local id, weight = id_of(parsed), math.floor(1 / parsed.rate)
  self.lines = self.lines + 1
  if self.types[id] and self.types[id] ~= parsed.type then error(id .. " has two types", 0) end
  self.types[id] = parsed.type
  for _, text in ipairs(parsed.values) do
    local value = tonumber(text)
    if parsed.type == "c" then
      self.counts[id] = (self.counts[id] or 0) + value * weight
    elseif parsed.type == "g" then
      local is_change = self.dialect == "statsd" and text:find "^[+-]"
      self.gauges[id] = is_change and (self.gauges[id] or 0) + value or value
    else
      local weights = self.weights[id] or {}
      weights[value] = (weights[value] or 0) + weight
      self.weights[id] = weights
    end
  end
end

---@param packet string
function Agent:take(packet)
  for _, parsed in ipairs(M.packet(packet, self.dialect)) do
    self:line(parsed)
  end
end

--- Returns the number of a histogram's values.
function Agent:count(id)
  local n = 0
  for _, weight in pairs(self.weights[id] or {}) do
    n = n + weight
  end
  return n
end

--- Returns the smallest value such that the share q of a histogram's values is not above it.
function Agent:quantile(id, q)
  local values = {}
  for value in pairs(self.weights[id]) do
    values[#values + 1] = value
  end
  table.sort(values)
  local left = math.max(1, math.ceil(q * self:count(id)))
  for _, value in ipairs(values) do
    left = left - self.weights[id][value]
    if left <= 0 then return value end
  end
end

return M
