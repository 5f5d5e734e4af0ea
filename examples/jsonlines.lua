-- A custom exporter. At each flush it appends to a file what was recorded since the last flush, with one line of JSON
-- for each series.
--
--     {"time":1700000000,"name":"jobs.done","type":"count","tags":{"queue":"mail"},"delta":2,"total":5}
--
-- `chalk.exporter.custom("jsonlines", { path = "metrics.jsonl" })` names it by its module. The module must be on
-- package.path, because it is loaded again in the VM of the flush thread.

local cjson = require "cjson"

---@class jsonlines.Exporter
local Exporter = {}
Exporter.__index = Exporter

local ORDER = {
  "time",
  "name",
  "type",
  "unit",
  "tags",
  "value",
  "delta",
  "total",
  "count",
  "sum",
  "min",
  "max",
  "p50",
  "p90",
  "p99",
}
local QUANTILES = { p50 = 0.5, p90 = 0.9, p99 = 0.99 }

---@param options { path: string }
---@return jsonlines.Exporter
function Exporter.new(options)
  assert(type(options.path) == "string", "path: expected a string, the file to append to")
  return setmetatable({ file = assert(io.open(options.path, "a")) }, Exporter)
end

-- The fields of each type. A function returns nil if nothing was recorded since the last flush.
local fields = {}

function fields.count(m)
  if m.delta == 0 then return nil end
  return { delta = m.delta, total = m.total }
end

function fields.gauge(m) return { value = m.value } end

function fields.histogram(m)
  local sketch = m.delta_sketch
  if not sketch or sketch:count() == 0 then return nil end
  local out = { count = sketch:count(), sum = sketch:sum(), min = sketch:min(), max = sketch:max() }
  for name, q in pairs(QUANTILES) do
    out[name] = sketch:quantile(q)
  end
  return out
end

local function full_name(m)
  local names = { unpack(m.namespace) }
  names[#names + 1] = m.name
  return table.concat(names, ".")
end

-- Writes a JSON object whose members are JSON texts already, in the order of a list of names.
local function object(members, order)
  local list = {}
  for _, name in ipairs(order) do
    if members[name] ~= nil then list[#list + 1] = cjson.encode(name) .. ":" .. members[name] end
  end
  return "{" .. table.concat(list, ",") .. "}"
end

local function tags_of(m)
  local members, order = {}, {}
  for i, tag in ipairs(m.tags) do
    order[i] = tag[1]
    members[tag[1]] = cjson.encode(tag[2])
  end
  return order[1] and object(members, order) or nil
end

local function line_of(m, time)
  local line = fields[m.type](m)
  if not line then return nil end
  line.time, line.name, line.type, line.unit = time, full_name(m), m.type, m.unit
  for name, value in pairs(line) do
    line[name] = cjson.encode(value)
  end
  line.tags = tags_of(m)
  return object(line, ORDER) .. "\n"
end

--- Writes a batch. If this fails, the next batch has the same differences again.
---@param batch chalk.Batch
---@return boolean?, string?
function Exporter:export(batch)
  local lines, time = {}, os.time()
  for m in batch:each() do
    if not m.own then lines[#lines + 1] = line_of(m, time) end -- chalk's own metrics are left out
  end
  local ok, message = self.file:write(table.concat(lines))
  if ok then
    ok, message = self.file:flush()
  end
  if not ok then return nil, message end
  return true
end

--- chalk calls this once, after the last flush.
function Exporter:shutdown() self.file:close() end

return Exporter
