--- Definitions that several specs use.

local M = {}

--- Returns definitions with two namespaces, an enum, a string, an optional tag and every kind of metric.
function M.service()
  return {
    tags = {
      status = { value_type = "enum", values = { "success", "failure" } },
      endpoint = { value_type = "string" },
      zone = { value_type = "string", export_name = "availability_zone" },
    },
    metrics = { { name = "uptime", type = "gauge", tags = {}, description = "Seconds since the start" } },
    namespaces = {
      http = {
        metrics = {
          {
            name = "request_count",
            type = "count",
            tags = { { tag = "endpoint" }, { tag = "status" } },
            description = "Requests answered",
          },
          {
            name = "request_latency",
            type = "histogram",
            unit = "seconds",
            tags = { { tag = "endpoint" }, { tag = "status" } },
            buckets = { 0.1, 1, 10 },
            description = "Seconds to answer",
          },
          { name = "open", type = "gauge", tags = { { tag = "endpoint" } }, description = "Open connections" },
          {
            name = "retries",
            type = "count",
            tags = { { tag = "endpoint", export_name = "path" }, { tag = "zone", optional = true } },
            description = "Retries",
          },
        },
        namespaces = {
          auth = {
            metrics = { { name = "login_latency", type = "histogram", tags = { { tag = "status" } } } },
          },
        },
      },
    },
  }
end

return M
