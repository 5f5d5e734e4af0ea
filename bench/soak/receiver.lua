-- The receiver of the push exporter: it sums the differences that it gets. A batch is *in doubt* if another process
-- sent the next one: the sender may have died before chalk committed the batch, and then its differences come again.
--
-- Series that are never dropped show which happened. A difference counts from the last committed total, so the total
-- minus the difference is the total of the batch before if that was committed, or else of the one before that. A commit
-- goes through the metrics in the order of their definitions, of which the first and the last are never dropped: if
-- both were committed, the whole batch was; if neither was, nothing was. If only the first was, the sender was killed
-- during the commit.

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

-- Finds out whether the batch before was committed for this series. Fails if records are missing.
function Receiver:follow(line, batch)
  local key = line.name .. " " .. line.key
  local known, from = self.known[key] or { total = 0, from = 0, batch = batch }, line.total - line.delta
  if from == known.total then
    known.batch.committed = known.batch.committed + 1
  elseif from == known.from and known.batch.in_doubt then
    known.batch.uncommitted = known.batch.uncommitted + 1
    self.twice[line.name] = self.twice[line.name] + known.total - known.from
  else
    posix.fail(("pushed: %s continues from %.0f, but %.0f was sent before"):format(key, from, known.total))
  end
  self.known[key] = { total = line.total, from = from, batch = batch }
end

function Receiver:finish()
  if self.cut then posix.fail("pushed: a line inside a batch was cut short: " .. self.cut) end
  local batch = { pid = self.open_pid, sums = new_sums(), committed = 0, uncommitted = 0 }
  for _, line in ipairs(self.open) do
    if NEVER_DROPPED[line.name] then self:follow(line, batch) end
    self.sums[line.name] = self.sums[line.name] + line.delta
    batch.sums[line.name] = batch.sums[line.name] + line.delta
  end
  self.last, self.open_pid, self.batches = batch, nil, self.batches + 1
end

--- Returns the least and the most that was sent twice of a metric.
---@return number, number
function Receiver:repeated(name)
  if NEVER_DROPPED[name] then return self.twice[name], self.twice[name] end
  local least, most = 0, 0
  for _, batch in ipairs(self.in_doubt) do
    if batch.uncommitted > 0 or batch.committed == 0 then most = most + batch.sums[name] end
    if batch.uncommitted > 0 and batch.committed == 0 then least = least + batch.sums[name] end
  end
  return least, most
end

local function problem_of(name, total, delta)
  if not name then return "is malformed" end
  if delta < 0 then return "has a negative difference" end
  return delta > total and "has a difference above the total" or nil
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
    return posix.fail(
      ("pushed: two processes flush at once: %d and %s: %s"):format(pid, tostring(self.open_pid), text)
    )
  end
  if rest == "end" then return self:finish() end
  local name, total, delta, key = rest:match "^(%S+) (%d+) (%-?%d+) (.*)$"
  total, delta = tonumber(total), tonumber(delta)
  local problem = problem_of(name, total, delta)
  if problem then return posix.fail("pushed: " .. text .. " " .. problem) end
  self.open[#self.open + 1] = { name = name, total = total, delta = delta, key = key }
end

--- Reads what was written since the last call. An incomplete line is left for the next call. Its batch is still being
--- written, or its sender has died; the next batch then begins on a new line.
function Receiver:read()
  self.file = self.file or io.open(self.path, "r")
  if not self.file then return end
  self.file:seek("set", self.at) -- clears the end-of-file state, without which nothing more is read
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
