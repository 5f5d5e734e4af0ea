-- What runs in the flush thread's VM: a libuv loop that turns the flusher, and a client on the same segment for
-- chalk's own metrics.

local clients = require "chalk.client"
local core = require "chalk.core"
local flushers = require "chalk.flush.flusher"
local log = require "chalk.base.log"
local luv = require "chalk.flush.driver.luv"
local serial = require "chalk.base.serial"

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

-- An error in the application's words: a text is shown as it is.
local function explain(e) return type(e) == "string" and e or debug.traceback(log.text(e)) end

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
  timer:start(
    0,
    LOOK,
    guarded(function()
      if not flusher:send_rest() or C.chalk_now() >= deadline then once() end
    end)
  )
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

-- Turns the flusher until the thread is asked to stop, and has flushed a last time. An exporter that stops the loop
-- stops nothing; one that closes the handles of others ends this VM, and the thread makes another one.
local function turn_loop(uv, flusher)
  local thread = C.chalk_thread_self()
  local poll, timer = uv.new_poll(C.chalk_thread_fd(thread)), uv.new_timer()
  local ending, over = false, false
  local function turn()
    if not ending then flusher:turn() end
  end
  local function finished()
    over = true
    uv.stop()
  end
  poll:start(
    "r",
    guarded(function()
      C.chalk_thread_drain(thread)
      if ending then return end
      if C.chalk_thread_stopping(thread) == 0 then return turn() end
      ending = true
      timer:stop()
      last_flush(uv, flusher, function()
        flusher:close()
        last_scrapes(uv, flusher, finished)
      end)
    end)
  )
  turn()
  timer:start(TURN, TURN, guarded(turn))
  C.chalk_thread_ready(thread, nil)
  repeat
    uv.run()
  until over or not uv.loop_alive()
  if not over then error("an exporter closed the handles of the flush loop", 0) end
end

local function run(uv, config)
  local client = clients.new(config.client, {})
  client.enabled = true
  client.listener_name = config.listener
  client:open(ffi.cast("chalk_segment *", config.segment))
  config.uv = uv
  local flusher = flushers.new(client, config)
  local ok, message = xpcall(turn_loop, explain, uv, flusher)
  if ok then return end
  pcall(flusher.release, flusher)
  pcall(flusher.close_servers, flusher)
  error(message, 0)
end

-- A VM that is closed over a closing handle crashes luv: every handle's end is waited for.
local function close_handles(uv)
  uv.walk(function(handle)
    if not handle:is_closing() then handle:close() end
  end)
  repeat
    uv.run()
  until not uv.loop_alive()
end

--- Runs until the thread is asked to stop. Returns a message if it failed.
---@param text string the configuration
---@return string?
function M.run(text)
  local uv
  local ok, message = xpcall(function()
    uv = assert(luv.load())
    run(uv, serial.read(text))
  end, explain)
  if uv then close_handles(uv) end
  if not ok then return message end
end

return M
