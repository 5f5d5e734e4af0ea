-- Definitions at run time, for a library that has its own metrics. A program that uses the library sees them in its
-- scrape. A program without chalk.init pays almost nothing for them.

local chalk = require "chalk"

-- The library: a cache that records its lookups, entries and evictions.

local lookups = chalk.op("lookup", {
  namespace = { "cache" },
  tags = { { tag = "result", values = { "hit", "miss" } } },
  description = "Lookups in the cache",
})
local entries = chalk.gauge("entries", { namespace = { "cache" }, description = "Entries in the cache" })
local evictions =
  chalk.count("evictions", { namespace = { "cache" }, description = "Entries removed for new ones" })

local Cache = {}
Cache.__index = Cache

local function new_cache(size) return setmetatable({ size = size, values = {}, order = {} }, Cache) end

function Cache:get(key, load)
  local value = self.values[key]
  if value ~= nil then
    lookups({ result = "hit" }):record(0)
    return value
  end
  return lookups({ result = "miss" }):time(function() return self:put(key, load(key)) end)
end

function Cache:put(key, value)
  if #self.order == self.size then
    self.values[table.remove(self.order, 1)] = nil
    evictions:inc()
  end
  self.order[#self.order + 1] = key
  self.values[key] = value
  entries:set(#self.order)
  return value
end

-- A program that uses the library.

local squares = new_cache(3)
for _, n in ipairs { 1, 2, 1, 3, 4, 1, 4 } do
  squares:get(n, function(key) return key * key end)
end

for line in chalk.text():gmatch "[^\n]+" do
  if line:find "^cache_" and not line:find "_bucket" then print(line) end
end
