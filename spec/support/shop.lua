--- The example shop, in a process of its own, and customers who order at an even pace.

local uv = require "luv"
local examples = require "support.examples"

local M = {}

local child = examples.child

--- Starts the shop; it is one of examples.child.
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
  error("the shop does not start: " .. shop.output)
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

-- The numbers of orders go on over a deploy.
local order = 0

--- Orders every so many milliseconds, whatever becomes of those before.
---@param port integer
---@param pause integer milliseconds
---@return spec.support.Load
---@return fun() stop makes no more orders, and waits for the answers
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
      assert(child.wait(function() return made.answers == #made.sent end, 20), "orders are not answered")
    end
end

return M
