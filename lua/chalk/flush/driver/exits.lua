-- The last flush of drivers that run in the application's VM: lua_close runs a finalizer, but os.exit does not close
-- the VM, so it is wrapped.
--
-- lua_close runs the finalizers of cdata, then those of userdata from the youngest on. So when the driver's comes,
-- cursors and snapshots are gone, and so is every luv handle that is younger: the finalizer is made anew after each
-- flush, and when an exporter begins to serve, to be younger than what the exporters made.

local core = require "chalk.core"

local M = {}

--- How long an exit waits for the last flush, in seconds.
M.LAST_FLUSH = 5

local drivers = {}
local wrapped = false

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

--- Makes the driver's finalizer the youngest.
function M.renew(driver)
  if not drivers[driver] then return end
  local guard
  guard = core.finalizer(function()
    if driver.guard ~= guard or not driver.flusher then return end
    without_requests()
    driver.flusher:forsake()
    close(driver)
  end)
  driver.guard = guard
end

function M.add(driver)
  wrap()
  drivers[driver] = true
  driver.flusher.on_change = function() M.renew(driver) end
  M.renew(driver)
end

function M.remove(driver) drivers[driver] = nil end

return M
