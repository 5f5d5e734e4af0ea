-- The last flush of drivers that run in the application's VM: lua_close runs a finalizer, but os.exit does not close
-- the VM, so it is wrapped.
--
-- lua_close runs the finalizers of cdata, then those of userdata from the youngest on. So when the driver's comes,
-- cursors and snapshots are gone, and so is every luv handle that is younger: the finalizer is made anew after each
-- flush, and when an exporter begins to serve, to be younger than what the exporters made. Finalizers of the
-- application may be younger still, and flush.

local core = require "chalk.core"

local ffi = core.ffi

local M = {}

--- How long an exit waits for the last flush, in seconds.
M.LAST_FLUSH = 5

local drivers = {}
local wrapped = false
local ending = false -- the VM is being closed, and cdata is finalized

local sign = ffi.gc(ffi.new "char[1]", function() ending = true end)

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

-- nginx puts functions of its own in place of LuaJIT's, which it keeps. Its own look at the request being served: when
-- the VM is closed that is gone, and they crash. From then on only finalizers run.
local function without_requests()
  for _, name in ipairs { "create", "resume", "yield", "status", "wrap" } do
    coroutine[name] = coroutine["_" .. name] or coroutine[name] -- luacheck: ignore 122
  end
end

--- Before a driver flushes: whether what it had is gone, the VM being closed, is looked at here.
function M.look(driver)
  if not ending or driver.forsaken then return end
  driver.forsaken = true
  without_requests()
  driver.flusher:forsake()
end

--- Makes the driver's finalizer the youngest. When the VM is being closed it is in its place already.
function M.renew(driver)
  if not drivers[driver] or ending then return end
  local guard
  guard = core.finalizer(function()
    if driver.guard ~= guard or not driver.flusher then return end
    close(driver)
  end)
  driver.guard = guard
end

function M.add(driver)
  wrap()
  driver.sign = sign
  drivers[driver] = true
  driver.flusher.on_change = function() M.renew(driver) end
  M.renew(driver)
end

function M.remove(driver) drivers[driver] = nil end

return M
