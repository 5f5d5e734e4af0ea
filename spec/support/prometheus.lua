--- A real Prometheus that scrapes one address every second.

local uv = require("luv")
local cjson = require("cjson")
local examples = require("support.examples")
local web = require("demo.web")

local M = {}

local child = examples.child

local CONFIG = [[
global: { scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s }
rule_files: [ %s ]
scrape_configs:
  - job_name: service
    static_configs: [ { targets: [ "127.0.0.1:%d" ] } ]
]]

---@class spec.support.Prometheus
---@field port integer
local Prometheus = {}
Prometheus.__index = Prometheus

local function write(path, text)
  local file = assert(io.open(path, "wb"))
  file:write(text)
  file:close()
end

--- Whether Prometheus is installed: its path.
---@return string?
function M.find() return child.find("prometheus") end

--- Starts Prometheus.
---@param target integer the port to scrape
---@param rules string? the text of a rules file
---@return spec.support.Prometheus
function M.start(target, rules)
  local folder = assert(uv.fs_mkdtemp("/tmp/chalk-prometheus-XXXXXX"))
  local self = setmetatable({ folder = folder, port = web.free_port() }, Prometheus)
  if rules then write(folder .. "/rules.yml", rules) end
  write(folder .. "/config.yml", CONFIG:format(rules and "rules.yml" or "", target))
  -- A sanitizer's runtime that is preloaded into LuaJIT is no matter of Prometheus.
  self.process = child.spawn(child.find("env"), {
    "-u", "LD_PRELOAD", M.find(), "--config.file=" .. folder .. "/config.yml",
    "--storage.tsdb.path=" .. folder .. "/data",
    "--web.listen-address=127.0.0.1:" .. self.port, "--log.level=error",
  })
  return self
end

function Prometheus:stop()
  self.process:stop()
  os.execute("rm -rf '" .. self.folder .. "'")
end

local function encoded(text)
  return (text:gsub("[^%w]", function(c) return ("%%%02X"):format(c:byte()) end))
end

--- What the API answers to a path below /api/v1/ and parameters.
---@param path string
---@param parameters table<string, string>
---@return table? data nil when there is no answer, or it is an error
---@return string? message
function Prometheus:api(path, parameters)
  local pairs_of = {}
  for name, value in pairs(parameters) do
    pairs_of[#pairs_of + 1] = encoded(name) .. "=" .. encoded(value)
  end
  local url = "/api/v1/" .. path .. "?" .. table.concat(pairs_of, "&")
  local response = child.await(function(done) examples.client.get(self.port, url, done) end, 10)
  local ok, answer = pcall(cjson.decode, response and response.body or "")
  if not ok then return nil, "no answer" end
  return answer.data, answer.error
end

--- The samples of an expression now.
---@param expression string
---@return { metric: table<string, string>, value: number }[]? nil when it is an error
---@return string? message
function Prometheus:query(expression)
  local data, message = self:api("query", { query = expression })
  if not data then return nil, message end
  local samples = {}
  for i, sample in ipairs(data.result) do
    samples[i] = { metric = sample.metric, value = tonumber(sample.value[2]) }
  end
  return samples
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

return M
