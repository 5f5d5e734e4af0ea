-- The last flush of drivers that run in the application's VM: lua_close runs the client's finalizer, but os.exit does
-- not close the VM, so it is wrapped.

local M = {}

--- How long an exit waits for the last flush, in seconds.
M.LAST_FLUSH = 5

local drivers = {}
local wrapped = false

local function close_all()
  for driver in pairs(drivers) do
    pcall(driver.close, driver)
  end
end

local function wrap()
  if wrapped then return end
  wrapped = true
  local exit = os.exit
  os.exit = function(...)
    close_all()
    return exit(...)
  end
end

function M.add(driver)
  wrap()
  drivers[driver] = true
end

function M.remove(driver) drivers[driver] = nil end

return M
