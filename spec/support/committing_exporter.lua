--- A custom exporter for tests: appends each difference to a file and commits it, one by one.
--
-- Options: path; stuck_after: how many it sends before it blocks for good, unless there is a file `path`.free.

local wait = require("support.wait")

local Exporter = {}
Exporter.__index = Exporter

local function exists(path)
  local file = io.open(path)
  if file then file:close() end
  return file ~= nil
end

function Exporter:export(batch)
  local o, sent = self.options, 0
  for m in batch:each() do
    if m.type == "count" and not m.own and m.delta > 0 then
      local file = assert(io.open(o.path, "a"))
      file:write(("%s %d\n"):format(m.name, m.delta))
      file:close()
      batch:commit(m)
      sent = sent + 1
    end
    while o.stuck_after == sent do
      wait.sleep(0.01)
      if exists(o.path .. ".free") then o.stuck_after = nil end
    end
  end
  return true
end

local M = {}

function M.new(options) return setmetatable({ options = options }, Exporter) end

--- What was sent to the file, added up.
---@param path string
function M.sum(path)
  local file, sum = io.open(path), 0
  if not file then return 0 end
  for line in file:lines() do
    sum = sum + tonumber(line:match("%d+$"))
  end
  file:close()
  return sum
end

return M
