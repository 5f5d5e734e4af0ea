-- The push exporter. It appends each batch to a file, which the controller reads as a receiver would. Every line has
-- the process id, so that two flushers at once would show, and ends in a full stop, so that a line that was cut short
-- shows. The exporter waits a moment before it reports success, so that it may be killed in between. Every eighth batch
-- fails.

local core = require "chalk.core"

local C = core.C

local Exporter = {}
Exporter.__index = Exporter

local AWAY, PAUSE = 8, 20
local LINE = "%d %s %.0f %.0f %s ."

local function wait(milliseconds)
  local uv, thread = require "luv", coroutine.running()
  local timer = uv.new_timer()
  timer:start(milliseconds, 0, function()
    timer:close()
    assert(coroutine.resume(thread))
  end)
  coroutine.yield()
end

local function key_of(m)
  local tags = {}
  for i, tag in ipairs(m.tags) do
    tags[i] = tag[2]:gsub("%c", " ")
  end
  return table.concat(tags, ",")
end

local function new(options) return setmetatable({ path = options.path, batches = 0 }, Exporter) end

function Exporter:export(batch)
  self.batches = self.batches + 1
  if self.batches % AWAY == 0 then return nil, "the target is away" end
  local pid = C.chalk_process()
  local lines = { ("\n%d begin ."):format(pid) }
  for m in batch:each() do
    if not m.own and m.type ~= "gauge" then
      local histogram = m.type == "histogram"
      local total = histogram and m.sketch:count() or m.total
      local delta = histogram and m.delta_sketch:count() or m.delta
      if delta ~= 0 then lines[#lines + 1] = LINE:format(pid, m.name, total, delta, key_of(m)) end
    end
  end
  lines[#lines + 1] = ("%d end .\n"):format(pid)
  local file = assert(io.open(self.path, "a"))
  file:write(table.concat(lines, "\n"))
  file:close()
  wait(PAUSE)
  return true
end

return { new = new }
