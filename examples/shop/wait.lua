-- Waiting in a coroutine, while others go on.

local uv = require "luv"

---@param milliseconds integer
return function(milliseconds)
  local co = coroutine.running()
  local timer = uv.new_timer()
  timer:start(milliseconds, 0, function()
    timer:close()
    assert(coroutine.resume(co))
  end)
  coroutine.yield()
end
