--- A real Prometheus, which scrapes services on this machine.

local uv = require "luv"
local cjson = require "cjson"
local examples = require "support.examples"
local web = require "demo.web"

local M = {}

local child = examples.child

local CONFIG = [[
global: { scrape_interval: %s, scrape_timeout: %s, evaluation_interval: 1s }
rule_files: [ %s ]
scrape_configs:
]]

local JOB = [[
  - job_name: %s
    static_configs: [ { targets: [ "127.0.0.1:%d" ] } ]
]]

---@class spec.support.Prometheus
---@field port integer
---@field folder string of its files
local Prometheus = {}
Prometheus.__index = Prometheus

local function write(path, text)
  local file = assert(io.open(path, "wb"))
  file:write(text)
  file:close()
end

--- Whether Prometheus is installed: its path.
---@return string?
function M.find() return child.find "prometheus" end

local function config(jobs, options)
  local every = options.every or "1s"
  local parts = { CONFIG:format(every, every, options.rules and "rules.yml" or "") }
  for name, port in pairs(jobs) do
    parts[#parts + 1] = JOB:format(name, port)
  end
  return table.concat(parts)
end

--- Starts Prometheus.
---@param jobs table<string, integer> the ports to scrape, by job
---@param options { every: string?, rules: string? }? how often to scrape, default "1s"; the text of a rules file
---@return spec.support.Prometheus
function M.start(jobs, options)
  options = options or {}
  local folder = assert(uv.fs_mkdtemp "/tmp/chalk-prometheus-XXXXXX")
  local self = setmetatable({ folder = folder, port = web.free_port() }, Prometheus)
  if options.rules then write(folder .. "/rules.yml", options.rules) end
  write(folder .. "/config.yml", config(jobs, options))
  -- A sanitizer's runtime that is preloaded into LuaJIT is no matter of Prometheus.
  self.process = child.spawn(child.find "env", {
    "-u",
    "LD_PRELOAD",
    M.find(),
    "--config.file=" .. folder .. "/config.yml",
    "--storage.tsdb.path=" .. folder .. "/data",
    "--web.listen-address=127.0.0.1:" .. self.port,
    "--log.level=error",
  })
  return self
end

function Prometheus:stop()
  self.process:stop()
  os.execute("rm -rf '" .. self.folder .. "'")
end

local function encoded(text)
  return (tostring(text):gsub("[^%w]", function(c) return ("%%%02X"):format(c:byte()) end))
end

--- The text of a page; "" when there is none.
---@param path string
---@return string
function Prometheus:get(path)
  local response = child.await(function(done) examples.client.get(self.port, path, done) end, 10)
  return response and response.body or ""
end

--- What the API answers to a path below /api/v1/ and parameters.
---@param path string
---@param parameters table<string, string|number>?
---@return table? data nil when there is no answer, or it is an error
---@return string? message
function Prometheus:api(path, parameters)
  local words = {}
  for name, value in pairs(parameters or {}) do
    words[#words + 1] = encoded(name) .. "=" .. encoded(value)
  end
  local ok, answer = pcall(cjson.decode, self:get("/api/v1/" .. path .. "?" .. table.concat(words, "&")))
  if not ok then return nil, "no answer" end
  return answer.data, answer.error
end

--- The samples of an expression.
---@param expression string
---@param at number? when, default: now
---@return { metric: table<string, string>, value: number }[]? nil when it is an error
---@return string? message
function Prometheus:query(expression, at)
  local data, message = self:api("query", { query = expression, time = at and ("%.3f"):format(at) })
  if not data then return nil, message end
  local samples = {}
  for i, sample in ipairs(data.result) do
    samples[i] = { metric = sample.metric, value = tonumber(sample.value[2]) }
  end
  return samples
end

-- Values by those of some labels, joined.
local function by_labels(samples, ...)
  local found = {}
  for _, sample in ipairs(samples) do
    local words = {}
    for i, name in ipairs { ... } do
      words[i] = sample.metric[name] or ""
    end
    local id = table.concat(words, " ")
    assert(found[id] == nil, "twice: " .. id)
    found[id] = sample.value
  end
  return found
end

--- The values of an expression by those of some labels, joined; raises where it is an error.
---@param expression string
---@param at number? when, default: now
---@param ... string labels
---@return table<string, number>
function Prometheus:values(expression, at, ...)
  local samples, message = self:query(expression, at)
  if not samples then error(("%s: %s"):format(expression, message), 2) end
  return by_labels(samples, ...)
end

--- Asks until the answer satisfies a condition.
---@param expression string
---@param condition fun(samples: table[]): any
---@param seconds number
---@return table[]? samples the last answer, in time or not
---@return string? message
function Prometheus:await(expression, condition, seconds)
  local deadline = uv.hrtime() + seconds * 1e9
  while true do
    local samples, message = self:query(expression)
    if samples and condition(samples) or uv.hrtime() > deadline then return samples, message end
    child.wait(function() return false end, 0.2)
  end
end

local function equal(a, b)
  for name, value in pairs(a) do
    if b[name] ~= value then return false end
  end
  for name in pairs(b) do
    if a[name] == nil then return false end
  end
  return true
end

--- Asks until the values by labels are as expected.
---@param expected table<string, number>
---@param expression string
---@param ... string labels
---@return table<string, number> found the last ones, in time or not
function Prometheus:settle(expected, expression, ...)
  local labels = { ... }
  local samples = self:await(
    expression,
    function(list) return equal(by_labels(list, unpack(labels)), expected) end,
    60
  )
  return by_labels(samples or {}, ...)
end

return M
