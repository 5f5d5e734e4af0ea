-- Finds the customer of an order.

local auto = require "chalk.autometrics"
local wait = require "shop.wait"

local M = {}

--- Returns the customer of an order; every order has one.
function M.find(order)
  wait(1)
  return { id = order % 10, name = "customer " .. order % 10 }
end

return auto.module("users", M)
