--- A custom exporter for tests that appends each difference to a file and commits it, one by one. A line has the value
--- of the first tag, the total before the difference, and the total after it.
--
-- Options:
--
--     path          the file
--     stuck_after   the number of differences after which it blocks, until a file `path`.free exists
--     stuck_at      the number of the difference that it writes and then blocks before the commit

local wait = require "support.wait"

local Exporter = {}
Exporter.__index = Exporter

local function exists(path)
  local file = io.open(path)
  if file then file:close() end
  return file ~= nil
end

local function block(o)
  while not exists(o.path .. ".free") do
    wait.sleep(0.01)
  end
end

function Exporter:export(batch)
  local o, sent = self.options, 0
  for m in batch:each() do
    if m.type == "count" and not m.own and m.delta > 0 then
      local file = assert(io.open(o.path, "a"))
      file:write(("%s %d %d\n"):format(m.tags[1][2], m.total - m.delta, m.total))
      file:close()
      sent = sent + 1
      if o.stuck_at == sent then block(o) end
      batch:commit(m)
    end
    if o.stuck_after == sent then block(o) end
  end
  return true
end

local M = {}

function M.new(options) return setmetatable({ options = options }, Exporter) end

--- Returns the sum of all differences in the file, without repetitions, and how many differences were repeated. Raises
--- an error if a difference is missing.
---@param path string
---@return integer sum
---@return integer repeats
function M.sum(path)
  local file, sum, repeats, last = io.open(path), 0, 0, {}
  if not file then return 0, 0 end
  for line in file:lines() do
    local series, from, to = line:match "^(.*) (%d+) (%d+)$"
    from, to = tonumber(from), tonumber(to)
    local before = last[series] or { from = 0, to = 0 }
    if from ~= before.to then
      assert(from == before.from, line)
      repeats = repeats + 1
    end
    sum, last[series] = sum + to - before.to, { from = from, to = to }
  end
  file:close()
  return sum, repeats
end

return M
