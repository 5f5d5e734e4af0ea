--- Sample rates of values that represent several recorded values. If this file fails, an agent, which may truncate the
--- inverse of a rate, counts another number of values than were recorded.

package.path = "spec/?.lua;" .. package.path

local weights = require "support.statsd_weights"

describe("a weight's sample rate", function()
  -- Computes the weight as an agent does: converts the text to a double and truncates its inverse.
  local function at_agent(rate) return math.floor(1 / tonumber(rate)) end

  it("yields every weight to 100,000 exactly if the agent truncates, and nearly if it does not", function()
    for n = 2, 100000 do
      local rate = weights.rate(n)
      if at_agent(rate) ~= n or 1 / tonumber(rate) - n >= 1e-6 or not rate:find "^0%.%d*[1-9]$" then
        error(("%d: %s"):format(n, rate))
      end
    end
  end)

  it("is the shortest text that does", function()
    assert.is_nil(weights.rate(1))
    assert.equal("0.5", weights.rate(2))
    assert.equal("0.0001", weights.rate(10000))
    assert.equal("0.3333333", weights.rate(3))
    assert.equal("0.0000099999999999", weights.rate(100000)) -- an agent takes 0.00001 for 99,999
    for n = 2, 100000, 37 do
      local rate = weights.rate(n)
      local k = #rate - 2
      -- With fewer digits, both neighbours of 1/n yield another weight.
      local near = math.floor(10 ^ (k - 1) / n)
      for m = math.max(near - 1, 1), near + 1 do
        local shorter = ("%." .. k - 1 .. "f"):format(m / 10 ^ (k - 1))
        local inverse = 1 / tonumber(shorter)
        assert.is_false(math.floor(inverse) == n and inverse - n < 1e-6, n .. " has " .. shorter)
      end
    end
  end)

  it("exists up to the largest weight, and for no other number", function()
    assert.equal(weights.MOST, at_agent(weights.rate(weights.MOST)))
    assert.equal(999999, at_agent(weights.rate(999999)))
    for _, wrong in ipairs { 0, -1, 1.5, weights.MOST + 1, 0 / 0, math.huge } do
      assert.error_matches(function() weights.rate(wrong) end, "a weight is a whole number from 1 to 1000000")
    end
  end)
end)
