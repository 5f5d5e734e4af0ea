-- Places orders.

local auto = require "chalk.autometrics"
local billing = require "shop.billing"
local users = require "shop.users"

local M = {}

-- Reserves an item for an order.
local reserve = auto.wrap(
  function(order, item) return order * 100 + item end,
  { name = "reserve", module = "orders" }
)

--- Places an order of two items. Raises an error if it cannot be charged.
function M.place(order)
  local user = users.find(order)
  local first, second = reserve(order, 1), reserve(order, 2)
  local paid, problem = billing.charge(order)
  if not paid then error { status = 402, message = problem } end
  return ("%s bought %d and %d\n"):format(user.name, first, second)
end

return auto.module("orders", M, { concurrent = true })
