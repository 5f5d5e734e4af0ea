--- An exporter for the loop and manual drivers that keeps the last batch in a table; and a parser of expositions.

local M = {}

local function id_of(m)
  local tags = {}
  for i, tag in ipairs(m.tags) do
    tags[i] = tag[1] .. "=" .. tag[2]
  end
  return m.name .. "{" .. table.concat(tags, ",") .. "}"
end

--- Returns an exporter. Its field `last` has the last batch by "name{tag=value,...}" without chalk's own metrics, `own`
--- has these, and `batches` is the number of batches. If `answer` is given, `export` returns what `answer(batch)`
--- returns.
---@param name string?
---@param answer? fun(batch: table): any, any
function M.exporter(name, answer)
  local exporter = { name = name, batches = 0, last = {}, own = {} }
  function exporter.export(self, batch)
    self.batches = self.batches + 1
    self.last, self.own = {}, {}
    for m in batch:each() do
      local seen = { total = m.total, delta = m.delta, value = m.value, type = m.type }
      if m.type == "histogram" then
        seen.count, seen.new = m.sketch:count(), m.delta_sketch:count()
      end
      local kept = m.own and self.own or self.last
      kept[id_of(m)] = seen
    end
    if answer then return answer(batch) end
    return true
  end
  return exporter
end

--- Returns the samples of an exposition by "name{labels}". Raises an error if a sample is repeated.
---@param text string
function M.samples(text)
  local found = {}
  for line in text:gmatch "[^\n]+" do
    if line:sub(1, 1) ~= "#" then
      local id, value = line:match "^(.*) (%S+)$"
      if found[id] then error("a sample is repeated: " .. line, 2) end
      found[id] = tonumber(value)
    end
  end
  return found
end

return M
