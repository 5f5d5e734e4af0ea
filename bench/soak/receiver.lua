-- The other end of the push exporter: sums the differences it is sent. Of a batch that its sender did not live to see
-- the next one of, it is not known whether it was marked as sent: it is in doubt, and may come again.
--
-- Of series that are never dropped it shows: a difference is to what was marked as sent, so the total less the
-- difference is the total of the batch before; or, where that came twice, of the one before it. Batches are marked in
-- the order of the metrics' definitions, of which the first and the last are never dropped: if both were marked all
-- was, if neither was nothing was. Between the two is a sender that was killed at marking.

local posix = require "soak.posix"

local M = {}

local NEVER_DROPPED = { jobs = true, latency = true }

---@class soak.Receiver
local Receiver = {}
Receiver.__index = Receiver

local function new_sums()
  return setmetatable({}, { __index = function() return 0 end })
end

function Receiver:begin(pid)
  if self.last and self.last.pid ~= pid and not self.last.in_doubt then
    self.last.in_doubt = true
    self.in_doubt[#self.in_doubt + 1] = self.last
  end
  self.open_pid, self.open, self.cut = pid, {}, nil
end

-- Finds out whether the batch before was marked as sent for this series; fails if something was left out.
function Receiver:follow(line, batch)
  local key = line.name .. " " .. line.key
  local known, from = self.known[key] or { total = 0, from = 0, batch = batch }, line.total - line.delta
  if from == known.total then
    known.batch.marked = known.batch.marked + 1
  elseif from == known.from and known.batch.in_doubt then
    known.batch.unmarked = known.batch.unmarked + 1
    self.twice[line.name] = self.twice[line.name] + known.total - known.from
  else
    posix.fail(("pushed: %s goes on from %.0f, sent was %.0f"):format(key, from, known.total))
  end
  self.known[key] = { total = line.total, from = from, batch = batch }
end

function Receiver:finish()
  if self.cut then posix.fail("pushed: a line cut short inside a batch: " .. self.cut) end
  local batch = { pid = self.open_pid, sums = new_sums(), marked = 0, unmarked = 0 }
  for _, line in ipairs(self.open) do
    if NEVER_DROPPED[line.name] then self:follow(line, batch) end
    self.sums[line.name] = self.sums[line.name] + line.delta
    batch.sums[line.name] = batch.sums[line.name] + line.delta
  end
  self.last, self.open_pid, self.batches = batch, nil, self.batches + 1
end

--- The least and the most that came twice of a metric.
---@return number, number
function Receiver:repeated(name)
  if NEVER_DROPPED[name] then return self.twice[name], self.twice[name] end
  local least, most = 0, 0
  for _, batch in ipairs(self.in_doubt) do
    if batch.unmarked > 0 or batch.marked == 0 then most = most + batch.sums[name] end
    if batch.unmarked > 0 and batch.marked == 0 then least = least + batch.sums[name] end
  end
  return least, most
end

local function problem_of(name, total, delta)
  if not name then return "is not understood" end
  if delta < 0 then return "goes backwards" end
  return delta > total and "is more than the total" or nil
end

function Receiver:line(text)
  local pid, rest = text:match "^(%d+) (.*) %.$"
  if not pid then
    self.cut = text
    return
  end
  pid = tonumber(pid)
  if rest == "begin" then return self:begin(pid) end
  if pid ~= self.open_pid then
    return posix.fail(("two flush at once: %d, and %s: %s"):format(pid, tostring(self.open_pid), text))
  end
  if rest == "end" then return self:finish() end
  local name, total, delta, key = rest:match "^(%S+) (%d+) (%-?%d+) (.*)$"
  total, delta = tonumber(total), tonumber(delta)
  local problem = problem_of(name, total, delta)
  if problem then return posix.fail("pushed: " .. text .. " " .. problem) end
  self.open[#self.open + 1] = { name = name, total = total, delta = delta, key = key }
end

--- Reads what has come since. A line that is not whole waits for its rest: it is that of a batch under way, or of one
--- whose sender died, and then the next batch begins with a line of its own.
function Receiver:read()
  self.file = self.file or io.open(self.path, "r")
  if not self.file then return end
  self.file:seek("set", self.at) -- or the end of the file, once met, is all that is read
  local text = self.file:read "*a" or ""
  local whole = text:match "^.*\n" or ""
  self.at = self.at + #whole
  for line in whole:gmatch "[^\n]+" do
    self:line(line)
  end
end

---@param path string
---@return soak.Receiver
function M.new(path)
  return setmetatable({
    path = path,
    at = 0,
    batches = 0,
    sums = new_sums(),
    in_doubt = {},
    twice = new_sums(),
    known = {},
    open = {},
  }, Receiver)
end

return M
