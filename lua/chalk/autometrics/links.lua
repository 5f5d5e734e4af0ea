-- A query as the address of its chart in Prometheus's own pages.

local M = {}

local function encoded(text)
  return (text:gsub("[^%w%-._~]", function(c) return ("%%%02X"):format(c:byte()) end))
end

--- The graph of an expression.
---@param base string Prometheus's address, with or without a slash at its end
---@param query string
---@return string
function M.graph(base, query)
  return ("%s/graph?g0.expr=%s&g0.tab=0&g0.range_input=1h"):format((base:gsub("/+$", "")), encoded(query))
end

return M
