--- Options reach the flush thread's VM as they were given to init, and an option that cannot be passed on is named.

local serial = require "chalk.base.serial"

describe("a value for another VM", function()
  local function there(value) return serial.read(serial.write(value)) end

  it("arrives as it was", function()
    local strings = {}
    for byte = 0, 255 do
      strings[#strings + 1] = string.char(byte):rep(2) .. "1\n\r\0" .. string.char(byte)
    end
    local value = { strings = strings, [1] = { true, false }, nested = { { a = { b = 1 } } }, ["a key"] = "%q\\" }
    assert.same(value, there(value))
    assert.is_nil(there(nil))
  end)

  it("may be any number", function()
    for _, number in ipairs { 0, -1, 0.1, 2 ^ 53 + 1, 1 / 3, 5e-324, 1.7976931348623157e308, math.huge, -math.huge } do
      assert.equal(number, there(number))
    end
    local nan = there(0 / 0)
    assert.is_true(nan ~= nan)
  end)

  it("may have one table in two places", function()
    local shared = { 1 }
    assert.same({ { 1 }, { 1 } }, there { shared, shared })
  end)

  it("is refused with the path to it when it cannot be passed on", function()
    local round = {}
    round.a = { b = round }
    local cases = {
      { { exporters = { { on_error = print } } }, "exporters.1.on_error: a function" },
      { { a = { [coroutine.create(print)] = 1 } }, "a thread" },
      { { io.stdout }, "1: a userdata" },
      { round, "a.b: a table that contains itself" },
    }
    for _, case in ipairs(cases) do
      local ok, message = pcall(serial.write, case[1])
      assert.is_false(ok)
      assert.truthy(message:find(case[2], 1, true), message)
      assert.is_nil(message:find "serial.lua")
    end
  end)
end)
