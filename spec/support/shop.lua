--- Runs the example shop in a separate process, with customers who order at a steady rate.

local uv = require "luv"
local examples = require "support.examples"

local M = {}

local child = examples.child

--- Starts the shop and returns it as a child of examples.child.
---@param version string
---@param port integer
---@param metrics_port integer
function M.start(version, port, metrics_port)
  local shop = child.spawn(uv.exepath(), {
    examples.folder .. "shop.lua",
    version,
    tostring(port),
    tostring(metrics_port),
    "--stdin",
  })
  if child.wait(function() return shop.output:find "listening on" end, 10) then return shop end
  shop:stop()
  error("the shop did not start: " .. shop.output)
end

---@class spec.support.Load
---@field sent number[] when each order was sent, in seconds of wall time
---@field answers integer
---@field statuses table<integer, integer>

local function wall()
  local seconds, microseconds = uv.gettimeofday()
  return seconds + microseconds / 1e6
end

M.wall = wall

-- The number of the last order. Numbers continue after a deploy.
local order = 0

--- Sends an order every `pause` milliseconds, whether earlier ones are answered or not.
---@param port integer
---@param pause integer milliseconds
---@return spec.support.Load
---@return fun() stop ends the orders and waits for the answers
function M.load(port, pause)
  local made, timer = { answers = 0, sent = {}, statuses = {} }, uv.new_timer()
  timer:start(0, pause, function()
    order = order + 1
    made.sent[#made.sent + 1] = wall()
    examples.client.get(port, "/order/" .. order, function(response)
      made.answers = made.answers + 1
      local status = response and response.status or 0
      made.statuses[status] = (made.statuses[status] or 0) + 1
    end)
  end)
  return made,
    function()
      timer:close()
      assert(
        child.wait(function() return made.answers == #made.sent end, 20),
        "some orders were not answered in time"
      )
    end
end

return M
