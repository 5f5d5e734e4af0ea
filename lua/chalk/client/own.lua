-- The definitions of chalk's own metrics, with which chalk reports about itself. They are metrics of the client like
-- others, except that its limits do not apply to them and exporters give them no prefix.

local M = {}

local ERROR = { value_type = "string", export_name = "kind" }
local EXPORTER = { value_type = "string", export_name = "exporter" }
-- Bounds of its own, so that the option `buckets` does not change what chalk reports.
local SECONDS = { 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10 }
local WHERE = { value_type = "string", export_name = "where" }

M.source = {
  tags = { kind = ERROR, exporter = EXPORTER, where = WHERE },
  namespaces = {
    chalk = {
      metrics = {
        { name = "series", type = "gauge", description = "Series in the segment, overflow series left out" },
        {
          name = "errors",
          type = "count",
          tags = { { tag = "kind" } },
          description = "Records that were refused or lost, by kind: tag, verb, value, not_finite, memory",
        },
        { name = "overflow", type = "count", description = "Lookups that a limit sent to an overflow series" },
        {
          name = "flush",
          type = "histogram",
          unit = "seconds",
          buckets = SECONDS,
          description = "Duration of flushes",
        },
        {
          name = "flush_age",
          type = "gauge",
          unit = "seconds",
          description = "Time since the flush loop last turned",
        },
        {
          name = "export_errors",
          type = "count",
          tags = { { tag = "exporter" } },
          description = "Exports that failed, by exporter",
        },
        {
          name = "stream_clients",
          type = "gauge",
          tags = { { tag = "exporter" } },
          description = "Clients of the event stream that are connected",
        },
        {
          name = "stream_dropped",
          type = "count",
          tags = { { tag = "where" } },
          description = "Events that were dropped, by where: ring, series, client, queue",
        },
      },
    },
  },
}

return M
