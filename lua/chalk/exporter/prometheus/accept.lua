--- Chooses one of the two text formats by a scraper's Accept header.

local M = {}

---@alias chalk.prometheus.Format "prometheus"|"openmetrics"

--- The Content-Type of each format.
---@type table<chalk.prometheus.Format, string>
M.content_type = {
  prometheus = "text/plain; version=0.0.4; charset=utf-8",
  openmetrics = "application/openmetrics-text; version=1.0.0; charset=utf-8",
}

-- The media ranges for which a format is acceptable. `rank`: how specific a range is. A range in the header without a
-- version accepts any.
local RANGES = {
  ["application/openmetrics-text"] = {
    format = "openmetrics",
    rank = 2,
    versions = { ["1.0.0"] = 1, ["0.0.1"] = 1 },
  },
  ["text/plain"] = { format = "prometheus", rank = 2, versions = { ["0.0.4"] = 1 } },
  ["text/*"] = { format = "prometheus", rank = 1, versions = {} },
  ["*/*"] = { format = "prometheus", rank = 0, versions = {} },
}

local function parameter(text, name)
  local value = text:match(";%s*" .. name .. "%s*=%s*([^;]*)")
  return value and value:gsub("%s+$", ""):gsub('^"(.*)"$', "%1")
end

-- Returns the quality of a range, from 0 to 1. A malformed quality is a refusal (RFC 9110, section 12.4.2).
local function quality(text)
  local q = parameter(text, "q")
  if not q then return 1 end
  q = q:match "^[01]%.?%d*$"
  return q and math.min(tonumber(q), 1) or 0
end

-- The most specific range decides the quality of a format; of equally specific ranges, the one with the best quality.
local function weigh(best, range, q, position)
  local found = best[range.format]
  if not found or range.rank > found.rank or (range.rank == found.rank and q > found.q) then
    best[range.format] = { rank = range.rank, q = q, position = position }
  end
end

--- Returns the format for a request: "prometheus" (text 0.0.4) unless the header prefers OpenMetrics.
---@param accept string? the Accept header
---@return chalk.prometheus.Format
function M.format_of(accept)
  local best, position = {}, 0
  for item in (accept or ""):lower():gmatch "[^,]+" do
    local name, parameters = item:match "^%s*([^%s;]+)(.*)$"
    local range = name and RANGES[name]
    local version = range and parameter(parameters, "version")
    position = position + 1
    if range and (not version or range.versions[version]) then weigh(best, range, quality(parameters), position) end
  end
  local open, text = best.openmetrics, best.prometheus
  if not open or open.q == 0 then
    return "prometheus"
  elseif not text or open.q > text.q then
    return "openmetrics"
  end
  return open.q == text.q and open.position < text.position and "openmetrics" or "prometheus"
end

return M
