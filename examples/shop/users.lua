-- Who orders.

local auto = require "chalk.autometrics"
local wait = require "shop.wait"

local M = {}

--- Every order is somebody's.
function M.find(order)
  wait(1)
  return { id = order % 10, name = "customer " .. order % 10 }
end

return auto.module("users", M)
