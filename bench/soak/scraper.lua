-- Scrapes /metrics and checks the samples against the ledger and the scrape before.

local core = require "chalk.core"
local exposition = require "soak.exposition"
local http = require "soak.http"
local ledgers = require "soak.ledger"
local posix = require "soak.posix"

local C = core.C

local M = {}

local ANSWER, RETRY = 5, 0.02
local MOST_WILD = 51 -- the metric's max_series, and the overflow series

---@class soak.Scraper
local Scraper = {}
Scraper.__index = Scraper

-- Returns the ids of samples whose series are never dropped, each with the ledger's pair that bounds its value.
local function bounded(ledger)
  local list = {}
  for worker = 1, ledgers.WORKERS do
    for _, kind in ipairs(ledgers.KINDS) do
      list[#list + 1] = {
        id = ('jobs_total{worker="%d",kind="%s"}'):format(worker, kind),
        pair = ledger:pair(worker, kind),
      }
    end
    list[#list + 1] = { id = ('latency_count{worker="%d"}'):format(worker), pair = ledger:pair(worker, "latency") }
  end
  return list
end

local function check_bounds(self, samples)
  for _, one in ipairs(self.bounded) do
    local value, most = samples[one.id] or 0, one.pair[0]
    if value < one.least or value > most then
      posix.fail(("scraped: %s is %.0f, expected %.0f to %.0f as recorded"):format(one.id, value, one.least, most))
    end
  end
end

local function check_rising(self, samples)
  for id, before in pairs(self.last) do
    if (id:match "^jobs_" or id:match "^latency_") and not (samples[id] and samples[id] >= before) then
      posix.fail(("scraped: %s fell from %.17g to %s"):format(id, before, tostring(samples[id])))
    end
  end
end

local function check_wild(samples)
  local n = 0
  for id in pairs(samples) do
    if id:match "^wild_total" then n = n + 1 end
  end
  if n > MOST_WILD then
    posix.fail(("scraped: wild_total has %d series, expected at most %d"):format(n, MOST_WILD))
  end
end

--- Checks an exposition. `mark` must have been called before the exposition was made.
function Scraper:check(text)
  local ok, samples = pcall(exposition.parse, text)
  if not ok then
    posix.fail(samples)
    return nil
  end
  check_bounds(self, samples)
  check_rising(self, samples)
  check_wild(samples)
  self.last = samples
  return samples
end

--- Notes what has been recorded up to now, as the least that a later scrape must show.
function Scraper:mark()
  for _, one in ipairs(self.bounded) do
    one.least = one.pair[1]
  end
end

--- Scrapes once. Returns false if no process answered.
---@return boolean
function Scraper:scrape()
  self:mark()
  local started = C.chalk_now()
  local body = http.get(self.port, "/metrics", ANSWER)
  if not body then
    self.missed = self.missed + 1
    return false
  end
  self.times[#self.times + 1] = C.chalk_now() - started
  self.size = #body
  self:check(body)
  return true
end

--- Scrapes until a process answers. Returns the seconds until then; nil if no process did.
---@param limit number seconds
---@return number?
function Scraper:await(limit)
  local started = C.chalk_now()
  repeat
    if self:scrape() then return C.chalk_now() - started end
    posix.sleep(RETRY)
  until C.chalk_now() - started > limit
end

---@param port integer
---@param ledger soak.Ledger
---@return soak.Scraper
function M.new(port, ledger)
  return setmetatable({
    port = port,
    bounded = bounded(ledger),
    last = {},
    times = {},
    missed = 0,
    size = 0,
  }, Scraper)
end

return M
