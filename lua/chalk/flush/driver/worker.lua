-- The code of the flush thread's VM: a libuv loop that runs the flusher, and a client of the same segment, which
-- records chalk's own metrics.

local clients = require "chalk.client"
local core = require "chalk.core"
local flushers = require "chalk.flush.flusher"
local log = require "chalk.base.log"
local luv = require "chalk.flush.driver.luv"
local serial = require "chalk.base.serial"

local ffi, C = core.ffi, core.C

local M = {}

local PERIOD = 100 -- milliseconds between two iterations of the flush loop
local LAST_FLUSH, LAST_SCRAPES = 4, 2 -- seconds
local LOOK = 10 -- milliseconds between two looks at the last flush or scrapes

-- Makes a callback that logs errors, because an error that leaves a callback would end the loop.
local function guarded(f)
  return function(...)
    local ok, message = xpcall(f, debug.traceback, ...)
    if not ok then log.write("error", message) end
  end
end

-- Returns the text that the application is shown for an error. A string is a message and is shown without a traceback.
local function explain(err) return type(err) == "string" and err or debug.traceback(log.text(err)) end

-- Flushes for the last time and waits for exporters that yield. Without the role, exporters send what they have left.
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
    timer:start(LAST_FLUSH * 1000, 0, once)
    return flusher:flush(once)
  end
  local deadline = C.chalk_now() + LAST_FLUSH
  timer:start(
    0,
    LOOK,
    guarded(function()
      if not flusher:send_rest() or C.chalk_now() >= deadline then once() end
    end)
  )
end

-- Waits until scrapes in progress are answered, then closes the servers.
local function last_scrapes(uv, flusher, finished)
  local timer, deadline = uv.new_timer(), C.chalk_now() + LAST_SCRAPES
  timer:start(0, LOOK, function()
    if flusher:is_draining() and C.chalk_now() < deadline then return end
    timer:stop()
    flusher:close_servers()
    finished()
  end)
end

-- Runs the flush loop until the thread is asked to stop and has flushed for the last time. An exporter that calls
-- uv.stop stops nothing, because the loop is run again. An exporter that closes the handles of others ends this VM, and
-- the thread makes a new one.
local function run_loop(uv, flusher)
  local thread = C.chalk_thread_self()
  local poll, timer = uv.new_poll(C.chalk_thread_fd(thread)), uv.new_timer()
  local ending, over = false, false
  local function run_once()
    if not ending then flusher:run_once() end
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
      if C.chalk_thread_stopping(thread) == 0 then return run_once() end
      ending = true
      timer:stop()
      last_flush(uv, flusher, function()
        flusher:close()
        last_scrapes(uv, flusher, finished)
      end)
    end)
  )
  run_once()
  timer:start(PERIOD, PERIOD, guarded(run_once))
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
  local ok, message = xpcall(run_loop, explain, uv, flusher)
  if ok then return end
  pcall(flusher.release, flusher)
  pcall(flusher.close_servers, flusher)
  error(message, 0)
end

-- Closes all handles and waits until each has ended, because luv crashes in a VM that is closed before.
local function close_handles(uv)
  uv.walk(function(handle)
    if not handle:is_closing() then handle:close() end
  end)
  repeat
    uv.run()
  until not uv.loop_alive()
end

--- Runs until the thread is asked to stop.
---@param text string the serialized configuration
---@return string? message if it failed
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
