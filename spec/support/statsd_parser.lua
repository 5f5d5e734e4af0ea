--- What a receiver makes of a packet, by the letter of DogStatsD's protocol pages (versions 1.0 to 1.3, with the later
--- fields for origin and cardinality) or of statsd's own. Whatever those do not allow is an error here, also where
--- real receivers pass over it.
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

-- The characters of valid UTF-8, by RFC 3629's table; nil when it is not.
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
  if not value or value - value ~= 0 then fail(line, "no number") end
  return value
end

local function split(text, separator)
  local parts = {}
  for part in (text .. separator):gmatch("([^" .. separator .. "]*)" .. separator) do
    parts[#parts + 1] = part
  end
  return parts
end

local function check_tag(line, tag)
  local n = characters(tag)
  if not n or n > LONGEST then fail(line, "a tag of too many characters") end
  local key, value = tag:match "^([^:]*):(.*)$"
  if not key or not key:find "^[%a\128-\255][%w_%-./\128-\255]*$" then fail(line, "a bad tag key") end
  if not value:find "^[%w_%-./:\128-\255]+$" or value:find ":$" then fail(line, "a bad tag value") end
  if tag:find "\194[\128-\159]" or tag:find "\226\128[\168\169]" then fail(line, "a control character") end
end

-- Fields behind the type, in the order in which they may come.
local FIELDS = {
  {
    "^@(%d[%d.]*)$",
    function(line, parsed, text)
      parsed.rate = number(line, text)
      if parsed.rate <= 0 or parsed.rate > 1 then fail(line, "a rate that is none") end
      if parsed.type == "g" then fail(line, "a rate of a gauge") end
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
      if not CARDINALITIES[text] then fail(line, "no cardinality") end
      parsed.cardinality = text
    end,
  },
  {
    "^T([1-9]%d*)$",
    function(line, parsed, text)
      if parsed.type ~= "c" and parsed.type ~= "g" or parsed.rate ~= 1 then
        fail(line, "a time where none may be")
      end
      parsed.time = tonumber(text)
    end,
  },
}

local function take_fields(line, parsed, parts, last)
  local at = 3
  for place = 1, last do
    local text = parts[at] and parts[at]:match(FIELDS[place][1])
    if text then
      FIELDS[place][2](line, parsed, text)
      at = at + 1
    end
  end
  if parts[at] then fail(line, "an unknown field, or one out of order") end
end

--- One line, without its newline.
---@param line string
---@param dialect "dogstatsd"|"statsd"|nil
---@return spec.StatsdLine
function M.line(line, dialect)
  local plain = dialect == "statsd"
  if not characters(line) or line:find "%c" then fail(line, "bytes that are no text") end
  local parts = split(line, "|")
  local name, values = parts[1]:match "^([^:]+):(.+)$"
  if not name or not name:find(plain and "^%a[%w_.-]*$" or "^%a[%w_.]*$") then fail(line, "a bad name") end
  if not plain and #name > LONGEST then fail(line, "a name that is too long") end
  local parsed = { name = name, type = parts[2], values = split(values, ":"), rate = 1, tags = {} }
  if not (plain and PLAIN_TYPES or TYPES)[parsed.type] then fail(line, "no type") end
  if plain and #parsed.values > 1 then fail(line, "packed values") end
  for _, value in ipairs(parsed.values) do
    number(line, value)
  end
  take_fields(line, parsed, parts, plain and 1 or #FIELDS)
  return parsed
end

--- All lines of a packet.
---@param packet string
---@param dialect "dogstatsd"|"statsd"|nil
---@return spec.StatsdLine[]
function M.packet(packet, dialect)
  if packet:sub(-1) ~= "\n" then error("a packet that ends in mid-line: " .. packet, 0) end
  local lines = split(packet:sub(1, -2), "\n")
  for i, line in ipairs(lines) do
    lines[i] = M.line(line, dialect)
  end
  return lines
end

-- A receiver's memory

---@class spec.StatsdAgent
---@field counts table<string, number> by "name{tag,tag}", tags sorted
---@field gauges table<string, number>
---@field weights table<string, table<number, integer>> of a histogram's values
---@field lines integer
local Agent = {}
Agent.__index = Agent

--- What adds up lines as a receiver does: 1/rate is truncated, as Datadog's agent does it; for plain statsd a gauge
--- with a sign is a change.
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

--- How many values a histogram got.
function Agent:count(id)
  local n = 0
  for _, weight in pairs(self.weights[id] or {}) do
    n = n + weight
  end
  return n
end

--- The value that a part q of a histogram's values are not above.
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
