-- Computes what an order costs, and charges it.

local auto = require "chalk.autometrics"
local wait = require "shop.wait"

local M = {}

-- Every fourth order is in euros.
local function currency_of(order) return order % 4 == 0 and "eur" or "usd" end

local RATES = { usd = 1, eur = 1.1 }

--- Applies the bug of version 1.5.0: its rates come from another source, which lacks one.
function M.use(version)
  if version == "1.5.0" then RATES = { usd = 1 } end
end

--- Charges an order. Returns the amount, or nil and the reason why that failed.
function M.charge(order)
  local currency = currency_of(order)
  if not RATES[currency] then return nil, "no rate for " .. currency end
  wait(150)
  if order % 20 == 0 then return nil, "the card was declined" end
  return 10 * RATES[currency]
end

return auto.module("billing", M, {
  skip = { "use" },
  objective = auto.objective("checkout"):success_rate(99):latency(0.25, 99),
})
