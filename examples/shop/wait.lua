-- Waits in a coroutine, while other coroutines continue.

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
