--- Runs a real Prometheus, which scrapes services on this machine.

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
---@field folder string the folder of its files
local Prometheus = {}
Prometheus.__index = Prometheus

local function write(path, text)
  local file = assert(io.open(path, "wb"))
  file:write(text)
  file:close()
end

--- Returns the path of the program; nil if it is not installed.
---@return string?
function M.find() return child.find "prometheus" end

local function config(jobs, options)
  local every = options.every or "1s"
  local lines = { CONFIG:format(every, every, options.rules and "rules.yml" or "") }
  for name, port in pairs(jobs) do
    lines[#lines + 1] = JOB:format(name, port)
  end
  return table.concat(lines)
end

--- Starts Prometheus.
---@param jobs table<string, integer> the ports to scrape, by job
---@param options { every: string?, rules: string? }? `every`: the scrape interval, default "1s"; `rules`: the text of a
--- rules file
---@return spec.support.Prometheus
function M.start(jobs, options)
  options = options or {}
  local folder = assert(uv.fs_mkdtemp "/tmp/chalk-prometheus-XXXXXX")
  local self = setmetatable({ folder = folder, port = web.free_port() }, Prometheus)
  if options.rules then write(folder .. "/rules.yml", options.rules) end
  write(folder .. "/config.yml", config(jobs, options))
  -- Prometheus does not get the sanitizer's runtime that may be preloaded into LuaJIT.
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

--- Returns the text of a page; "" if there is no answer.
---@param path string
---@return string
function Prometheus:get(path)
  local response = child.await(function(done) examples.client.get(self.port, path, done) end, 10)
  return response and response.body or ""
end

--- Sends a request to the API.
---@param path string below /api/v1/
---@param parameters table<string, string|number>?
---@return table? data nil if there is no answer, or an error
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

--- Returns the samples of an expression.
---@param expression string
---@param at number? the time, default: now
---@return { metric: table<string, string>, value: number }[]? samples nil if Prometheus answers with an error
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

-- Returns the values of samples by the values of some labels, joined by spaces.
local function by_labels(samples, ...)
  local found = {}
  for _, sample in ipairs(samples) do
    local words = {}
    for i, name in ipairs { ... } do
      words[i] = sample.metric[name] or ""
    end
    local id = table.concat(words, " ")
    assert(found[id] == nil, "two samples have the same labels: " .. id)
    found[id] = sample.value
  end
  return found
end

--- Returns the values of an expression by the values of some labels, joined by spaces. Raises an error if Prometheus
--- answers with one.
---@param expression string
---@param at number? the time, default: now
---@param ... string labels
---@return table<string, number>
function Prometheus:values(expression, at, ...)
  local samples, message = self:query(expression, at)
  if not samples then error(("%s: %s"):format(expression, message), 2) end
  return by_labels(samples, ...)
end

--- Repeats a query until the samples satisfy a condition.
---@param expression string
---@param condition fun(samples: table[]): any
---@param seconds number
---@return table[]? samples the last ones, also if they do not satisfy the condition
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

--- Repeats a query until the values by labels are as expected.
---@param expected table<string, number>
---@param expression string
---@param ... string labels
---@return table<string, number> found the last values, also if they are not as expected
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
