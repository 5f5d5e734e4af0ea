-- What runs in the flush thread's VM: a libuv loop that turns the flusher, and a client on the same segment for
-- chalk's own metrics.

local clients = require "chalk.client"
local core = require "chalk.core"
local flushers = require "chalk.flusher"
local log = require "chalk.log"
local serial = require "chalk.serial"

local ffi, C = core.ffi, core.C

local M = {}

local TURN, LAST_FLUSH = 100, 4000
local LAST_SCRAPES, LOOK = 2, 10 -- seconds; milliseconds

-- A timer's or handle's callback must not end the loop.
local function guarded(f)
  return function(...)
    local ok, message = xpcall(f, debug.traceback, ...)
    if not ok then log.write("error", message) end
  end
end

-- The last flush: exporters that yield are waited for. Without the role they send what they have.
local function last_flush(uv, flusher, finished)
  local timer, over = uv.new_timer(), false
  local function once()
    if over then return end
    over = true
    timer:stop()
    finished()
  end
  if flusher:hold() then
    C.chalk_leave(flusher.segment)
    timer:start(LAST_FLUSH, 0, once)
    return flusher:flush(once)
  end
  local deadline = C.chalk_now() + LAST_FLUSH / 1000
  timer:start(0, LOOK, guarded(function()
    if not flusher:send_rest() or C.chalk_now() >= deadline then once() end
  end))
end

-- Lets the scrapes under way have their end.
local function last_scrapes(uv, flusher, finished)
  local timer, deadline = uv.new_timer(), C.chalk_now() + LAST_SCRAPES
  timer:start(0, LOOK, function()
    if flusher:is_draining() and C.chalk_now() < deadline then return end
    timer:stop()
    flusher:close_servers()
    finished()
  end)
end

local function run(config)
  local uv = require "luv"
  local client = clients.new(config.client, {})
  client.enabled = true
  client.listener_name = config.listener
  client:open(ffi.cast("chalk_segment *", config.segment))
  config.uv = uv
  local flusher = flushers.new(client, config)
  local thread = C.chalk_thread_self()
  local poll, timer = uv.new_poll(C.chalk_thread_fd(thread)), uv.new_timer()
  local ending = false
  local function turn()
    if not ending then flusher:turn() end
  end
  poll:start("r", guarded(function()
    C.chalk_thread_drain(thread)
    if ending then return end
    if C.chalk_thread_stopping(thread) == 0 then return turn() end
    ending = true
    timer:stop()
    last_flush(uv, flusher, function()
      flusher:close()
      last_scrapes(uv, flusher, uv.stop)
    end)
  end))
  turn()
  timer:start(TURN, TURN, guarded(turn))
  C.chalk_thread_ready(thread, nil)
  uv.run()
  -- A VM that is closed over a closing handle crashes luv: every handle's end is waited for.
  uv.walk(function(handle)
    if not handle:is_closing() then handle:close() end
  end)
  uv.run()
end

--- Runs until the thread is asked to stop. Returns a message if it could not start.
---@param text string the configuration
---@return string?
function M.run(text)
  local ok, message = xpcall(run, function(m)
    return type(m) == "string" and m or debug.traceback(tostring(m))
  end, serial.read(text))
  if not ok then return tostring(message) end
end

return M
