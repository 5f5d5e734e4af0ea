-- Turns a query into the address of its chart in Prometheus's user interface.

local M = {}

local function encoded(text)
  return (text:gsub("[^%w%-._~]", function(c) return ("%%%02X"):format(c:byte()) end))
end

--- Returns the address of a graph of the last hour.
---@param base string Prometheus's address, with or without a slash at the end
---@param query string
---@return string
function M.graph(base, query)
  return ("%s/graph?g0.expr=%s&g0.tab=0&g0.range_input=1h"):format((base:gsub("/+$", "")), encoded(query))
end

return M
