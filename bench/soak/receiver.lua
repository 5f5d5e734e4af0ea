-- The other end of the push exporter: sums the differences it is sent. Of a batch that its sender did not live to see
-- the next one of, it is not known whether it was marked as sent: it may come again, and counts as doubtful.
--
-- Of series that are never dropped it is known: a difference is to what was marked as sent, so the total less the
-- difference is the total of the batch before; or, where that came twice, of the one before it.

local posix = require "soak.posix"

local M = {}

local NEVER_DROPPED = { jobs = true, latency = true }

---@class soak.Receiver
local Receiver = {}
Receiver.__index = Receiver

local function new_sums() return setmetatable({}, { __index = function() return 0 end }) end

function Receiver:begin(pid)
  if pid ~= self.last_pid and self.last_pid then
    for name, delta in pairs(self.last) do
      self.doubtful[name] = self.doubtful[name] + delta
    end
  end
  self.last_pid, self.open_pid, self.open, self.cut = pid, pid, {}, nil
end

-- Adds to what came twice; fails if something was left out.
function Receiver:follow(line, pid)
  local key = line.name .. line.key
  local known, from = self.known[key] or { total = 0, from = 0, pid = pid }, line.total - line.delta
  if known.pid ~= pid and from == known.from and from ~= known.total then
    self.twice[line.name] = self.twice[line.name] + known.total - known.from
  elseif from ~= known.total then
    posix.fail(("pushed: %s goes on from %.0f, sent was %.0f"):format(key, from, known.total))
  end
  self.known[key] = { total = line.total, from = from, pid = pid }
end

function Receiver:finish()
  if self.cut then posix.fail("pushed: a line cut short inside a batch: " .. self.cut) end
  local last = new_sums()
  for _, line in ipairs(self.open) do
    if NEVER_DROPPED[line.name] then self:follow(line, self.open_pid) end
    self.sums[line.name] = self.sums[line.name] + line.delta
    last[line.name] = last[line.name] + line.delta
  end
  self.last, self.open_pid, self.batches = last, nil, self.batches + 1
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
    doubtful = new_sums(),
    twice = new_sums(),
    known = {},
    last = new_sums(),
    open = {},
  }, Receiver)
end

return M
