-- The last flush of drivers that run in the application's VM. It happens in a finalizer, which lua_close runs. os.exit
-- does not close the VM, so os.exit is wrapped.
--
-- lua_close runs the finalizers of all cdata first, then those of userdata, the youngest first. Hence:
--
--   - When the driver's finalizer runs, cursors and snapshots are freed already (chalk.Flusher.forsake).
--   - Every luv handle that is younger than the driver's finalizer is closed already. So the finalizer is replaced by a
--     new one after each flush, and when an exporter begins to serve: it must be younger than the exporters' handles.
--   - Finalizers of the application may be younger still, and may flush before the driver's finalizer runs.

local core = require "chalk.core"

local ffi = core.ffi

local M = {}

--- How long an exit waits for the last flush, in seconds.
M.LAST_FLUSH = 5

local drivers = {}
local wrapped = false
local ending = false -- whether the VM is being closed and cdata is finalized

local sentinel = ffi.gc(ffi.new "char[1]", function() ending = true end)

local function close(driver)
  driver.exiting = true
  pcall(driver.close, driver)
end

local function wrap()
  if wrapped then return end
  wrapped = true
  local exit = os.exit
  os.exit = function(...) -- luacheck: ignore 122
    for driver in pairs(drivers) do
      close(driver)
    end
    return exit(...)
  end
end

-- Restores LuaJIT's coroutine functions, which nginx keeps under names that begin with "_". nginx's replacements use
-- the current request. In a VM that is being closed there is none, and they crash.
local function restore_coroutines()
  for _, name in ipairs { "create", "resume", "yield", "status", "wrap" } do
    coroutine[name] = coroutine["_" .. name] or coroutine[name] -- luacheck: ignore 122
  end
end

--- Prepares a driver for a flush if the VM is being closed. Every flush of an embedded driver begins with this check.
function M.check(driver)
  if not ending or driver.forsaken then return end
  driver.forsaken = true
  restore_coroutines()
  driver.flusher:forsake()
end

--- Makes the driver's finalizer the youngest one. It does nothing while the VM is being closed, because the order of
--- finalizers is fixed then.
function M.renew(driver)
  if not drivers[driver] or ending then return end
  local guard
  guard = core.finalizer(function()
    if driver.guard ~= guard or not driver.flusher then return end
    close(driver)
  end)
  driver.guard = guard
end

--- Gives a driver its last flush.
function M.add(driver)
  wrap()
  driver.sentinel = sentinel -- keeps it alive as long as the driver
  drivers[driver] = true
  driver.flusher.on_change = function() M.renew(driver) end
  M.renew(driver)
end

--- Takes the last flush from a driver that has been closed.
function M.remove(driver) drivers[driver] = nil end

return M
