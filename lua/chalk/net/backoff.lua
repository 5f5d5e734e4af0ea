-- The pause after a failure before the next attempt. It doubles with each failure in a row, between a shortest and a
-- longest pause. The caller keeps the clock, so a pause can count from the start of the attempt or from its end.

local M = {}

---@class chalk.net.Backoff
---@field private first number
---@field private last number
---@field private pause number the pause after the last failure; 0 after a success
local Backoff = {}
Backoff.__index = Backoff

---@param first number seconds, the pause after the first failure
---@param last number seconds, the longest pause
---@return chalk.net.Backoff
function M.new(first, last) return setmetatable({ first = first, last = last, pause = 0 }, Backoff) end

--- Counts a failure.
---@return number seconds until the next attempt
function Backoff:failed()
  self.pause = math.min(math.max(self.first, self.pause * 2), self.last)
  return self.pause
end

--- Resets the pause, so that the next failure counts as the first one.
function Backoff:succeeded() self.pause = 0 end

return M
