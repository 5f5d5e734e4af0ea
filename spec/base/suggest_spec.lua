--- A user who misspells a name is told the one that was meant, and never an unrelated one.

local suggest = require "chalk.base.suggest"

describe("a suggestion", function()
  local words = { "endpoint", "status", "region", "id" }

  it("is the nearest word, by letters left out, added, replaced and swapped", function()
    for _, word in ipairs { "endpont", "endpooint", "endpoimt", "enpdoint", "enpdont" } do
      assert.equal('did you mean "endpoint"?', suggest(word, words))
    end
    assert.equal('did you mean "abcd"?', suggest("abcde", { "abxx", "abcd", "abce" }))
  end)

  it(
    "is the first in alphabetical order of equally near words",
    function() assert.equal('did you mean "cart"?', suggest("cat", { "cats", "cart" })) end
  )

  it("is none when no word is near, or when every letter would have to change", function()
    for _, word in ipairs { "latency", "", "i", "x", "xy", ("endpoint"):rep(100) } do
      assert.is_nil(suggest(word, words))
    end
    assert.is_nil(suggest(7, words))
    assert.is_nil(suggest("status", {}))
  end)

  it("is the nearest word within two edits", function()
    assert.equal('did you mean "endpoint"?', suggest("endpont", { "status", "endpoint" }))
    assert.equal('did you mean "status"?', suggest("sttaus", { "endpoint", "status" }))
    assert.equal('did you mean "ab_c"?', suggest("ab_d", { "abcd_", "ab_c" }))
  end)

  it("is none for a word that is too far from all, is not a string, or is very long", function()
    assert.is_nil(suggest("colour", { "status", "endpoint" }))
    assert.is_nil(suggest("ab", { "cd", "x" }))
    assert.is_nil(suggest(5, { "5" }))
    assert.is_nil(suggest(("x"):rep(1e6), { ("x"):rep(1e6) }))
  end)
end)
