--- A user who mistypes a JSON document is told the line and column, and no other program refuses what chalk accepts.

local json = require "chalk.base.json"

describe("a JSON document", function()
  it("is decoded, with or without a byte order mark", function()
    assert.same({ a = { 1, 2.5, "x" }, b = json.null }, json.decode '{"a": [1, 2.5, "x"], "b": null}')
    assert.same({ 1 }, json.decode "\239\187\191[1]")
  end)

  it("is refused with the line and the column of the error", function()
    local cases = {
      { '{"a": 1,\n  "b": }', 2, 8 },
      { '{"ä": 1, "b" 2}', 1, 14 }, -- columns count characters
      { '{"a": NaN}', 1, 7 },
      { '{"a": 0x10}', 1, 7 },
      { "[1] [2]", 1, 5 },
      { '["a\255"]', 1, 4 },
      { "[1]\0", 1, 4 },
      { "", 1, 1 },
    }
    for _, case in ipairs(cases) do
      local value, message, line, column = json.decode(case[1])
      assert.is_nil(value, case[1])
      assert.truthy(#message > 0)
      assert.is_nil(message:find "T_", message)
      assert.same({ case[2], case[3] }, { line, column }, case[1])
    end
  end)

  it(
    "is refused when an object has a key twice, however it is written; several objects may have the key",
    function()
      assert.same({ a = { a = 1 }, b = { a = 2 } }, json.decode '{"a": {"a": 1}, "b": {"a": 2}}')
      local value, message, line, column = json.decode '{"a": 1, "b": ["}", "\\""],\n "\\u0061": 2}'
      assert.is_nil(value)
      assert.same({ 'the object has the key "\\u0061" twice', 2, 2 }, { message, line, column })
    end
  )
end)

describe("a text", function()
  it("is UTF-8 up to its first ill-formed byte", function()
    for _, good in ipairs { "", "abc", "ä€😀", "\244\143\191\191" } do
      assert.is_nil(json.invalid_utf8(good))
    end
    local bad = {
      ["\255"] = 1,
      ["ab\192\128"] = 3, -- an overlong NUL
      ["ä\237\160\128"] = 3, -- a surrogate
      ["\244\144\128\128"] = 1, -- beyond Unicode
      ["a\226\130"] = 2, -- cut
    }
    for text, at in pairs(bad) do
      assert.equal(at, json.invalid_utf8(text))
    end
  end)
end)
