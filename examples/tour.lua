-- Five minutes with chalk: definitions, records, reading back, and a scrape.
--
--     luajit examples/tour.lua [ADDRESS]     the address to serve scrapes at, default 127.0.0.1:9464

local here = arg[0]:match "^(.*/)" or "./"
package.path = here .. "?.lua;" .. package.path

local chalk = require "chalk"
local child = require "demo.child"
local client = require "demo.client"

local address = arg[1] or "127.0.0.1:9464"

-- 1. Definitions: here a table; chalk.load("metrics.json") takes the same from a file.
local metrics, tags = chalk.load {
  tags = {
    endpoint = { value_type = "string" },
    status = { value_type = "enum", values = { "success", "failure" } },
  },
  metrics = { { name = "uptime", type = "gauge", description = "Process uptime in seconds" } },
  namespaces = {
    http = {
      metrics = {
        {
          name = "request_count",
          type = "count",
          tags = { { tag = "endpoint" }, { tag = "status" } },
          description = "Total HTTP requests",
        },
        {
          name = "request_latency",
          type = "histogram",
          unit = "seconds",
          tags = { { tag = "endpoint" } },
          buckets = { 0.01, 0.1, 1 },
          description = "HTTP request latency",
        },
      },
    },
  },
}

-- 2. A flush thread that serves what is recorded.
chalk.init { exporters = { chalk.exporter.prometheus { namespace = "myapp", listen = address } } }

-- 3. Records.
-- stylua: ignore
metrics.http.request_count { endpoint = "/api", status = "success" }:inc()
metrics.http.request_count:with("/api", tags.status.failure):inc(5)
metrics.uptime:set(42)

local latency = metrics.http.request_latency { endpoint = "/api" } -- a series may be kept: that is fastest
for i = 1, 1000 do
  latency:record(i / 1000)
end
local answer = latency:time(function() return "the answer" end)
print("time() returns what the function does: " .. answer)

-- 4. Mistakes are errors at the line that makes them.
local function show_mistake(f)
  local _, message = pcall(f)
  print((message:gsub("^%S*/", "")))
end

-- stylua: ignore
show_mistake(function() metrics.http.request_count { endpoint = "/api", status = "sucess" }:inc() end)
show_mistake(function() return tags.status.sucess end)
show_mistake(function() metrics.http.request_count:with("/api", "success"):inc(-1) end)

-- 5. Reading back.
local sketch = latency:value()
print(("request_count: %d"):format(metrics.http.request_count:with("/api", "failure"):value()))
local shown = "request_latency: %d values, p50 %.3f s, p99 %.3f s, each within %.2f %%"
print(shown:format(sketch:count(), sketch:quantile(0.5), sketch:quantile(0.99), sketch:error() * 100))

-- 6. A scrape, over HTTP; chalk.text() has the same.
local port = tonumber(address:match ":(%d+)$")
local response, message = child.await(function(done) client.get(port, "/metrics", done) end, 5)
print("\nhttp://" .. address .. "/metrics:")
for line in assert(response, message).body:gmatch "[^\n]+" do
  if line:find "myapp_[hu]" then print(line) end
end

-- 7. The last flush happens automatically when the program ends.
