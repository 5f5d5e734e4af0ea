--- Names and tags in StatsD lines. If this file fails, a name or a tag value forges another tag, field, line or metric,
--- or two different ones become the same.

package.path = "spec/?.lua;" .. package.path

local joining = require "support.statsd_joining"
local names = require "chalk.exporter.statsd.names"

describe("a metric's name in statsd", function()
  it("is the exporter's namespace, the metric's namespaces and its name, joined with dots", function()
    assert.equal("myapp.http.auth.latency", names.metric("myapp", { "http", "auth" }, "latency"))
    assert.equal("latency.p50", names.metric(nil, {}, "latency", ".p50"))
    assert.equal("my.app.up", names.metric("my.app.", {}, "up"))
  end)

  it("contains only characters that Datadog accepts, and begins with a letter", function()
    assert.equal("my_app.up", names.metric("my-app", {}, "up"))
    assert.equal("a_b_c_d__e.up", names.metric("a|b:c\nd\195\169e", {}, "up"))
    assert.equal("x_private", names.metric("", {}, "_private"))
    assert.equal("x9lives.up", names.metric("9lives", {}, "up"))
  end)

  it("is cut to 200 characters, keeps its suffix and differs from other cut names", function()
    local path = { ("n"):rep(128), ("m"):rep(128) }
    local a, b = names.metric("app", path, "a", ".p99"), names.metric("app", path, "b", ".p99")
    assert.equal(200, #a)
    assert.equal(200, #b)
    assert.not_equal(a, b)
    assert.equal(".p99", a:sub(-4))
    assert.equal(200, #names.metric(nil, { ("n"):rep(100) }, ("m"):rep(99)))
    assert.equal("m", names.metric(nil, { ("n"):rep(100) }, ("m"):rep(99)):sub(-1))
  end)

  it("names quantiles by their percentage", function()
    local percents =
      { [0] = "p0", [0.001] = "p0_1", [0.05] = "p5", [0.29] = "p29", [0.999] = "p99_9", [1] = "p100" }
    for q, name in pairs(percents) do
      assert.equal(name, names.quantile(q))
    end
  end)
end)

describe("a tag in statsd", function()
  it("consists of its key and its value", function()
    assert.equal("endpoint:/api/v1", names.tag("endpoint", "/api/v1"))
    assert.equal("status:200", names.tag("status", 200))
    assert.equal("ok:true", names.tag("ok", true))
    assert.equal("url:http://host:80/a-b_c.d", names.tag("url", "http://host:80/a-b_c.d"))
    assert.equal("Kopf:Straße", names.tag("Kopf", "Straße"))
  end)

  it("cannot forge another tag, field, line or metric", function()
    assert.equal("a:x_c_d:e", names.tag("a", "x,c|d:e"))
    assert.equal("a:x__evil:1_c__y:z", names.tag("a", "x\n\revil:1|c|#y:z"))
    assert.equal("a_b:c", names.tag("a:b", "c"))
    assert.equal("a:_0.1_x", names.tag("a", "@0.1\0x"))
    assert.equal("a:1_2_3_4", names.tag("a", "1\194\1332\226\128\1683\226\128\1694"))
    assert.equal("a:b_", names.tag("a", "b:"))
    for byte = 0, 255 do
      local tag = names.tag("k", "a" .. string.char(byte) .. "b")
      assert.is_nil(tag:find "[%c,|#@\n\127]", tag)
      assert.truthy(tag:find "^k:a.+b$", tag)
    end
  end)

  it("is valid UTF-8 for any bytes", function()
    assert.equal("a:é___€_😀_", names.tag("a", "é\195\226\130€\255😀\240"))
    assert.equal("a:_", names.tag("a", "\128"))
    assert.equal("a:__", names.tag("a", "\192\128"))
    assert.equal("a:___", names.tag("a", "\237\160\128"))
  end)

  it("begins with a letter", function()
    assert.equal("x_private:1", names.tag("_private", 1))
    assert.equal("x1st:1", names.tag("1st", 1))
    assert.equal("étage:1", names.tag("étage", 1):gsub("^x", "", 1))
  end)

  it("has at most 200 whole characters, and differs from other cut tags", function()
    local function length(text) return select(2, text:gsub("[^\128-\191]", "")) end
    local long = ("é"):rep(300)
    local a, b = names.tag("key", long .. "a"), names.tag("key", long .. "b")
    assert.equal(200, length(a))
    assert.not_equal(a, b)
    assert.is_nil(require("chalk.base.json").invalid_utf8(a))
    assert.equal("key:" .. ("é"):rep(196), names.tag("key", ("é"):rep(196)))
    assert.equal(200, length(names.tag(("k"):rep(300), ("v"):rep(300))))
    -- FNV-1a of "a" is e40c292c, of "foobar" bf9cf968: the published test vectors
    assert.equal("_bf9cf968", names.metric(nil, {}, "foobar", ("."):rep(195)):sub(-204, -196))
  end)

  it("is the same again after many others", function()
    local first = names.tag("k", "v|1")
    for i = 1, 10000 do
      assert.equal("k:" .. i, names.tag("k", i))
    end
    assert.equal(first, names.tag("k", "v|1"))
  end)

  it("from the global tags is left out if the metric has a tag of that name", function()
    local global = { env = "prod", zone = "a", empty = "", shard = 1 }
    assert.same({ "env:prod", "shard:1", "zone:a" }, names.tags(global))
    assert.same({ "env:prod", "shard:1" }, names.tags(global, { zone = true }))
  end)
end)

describe("a name with joined tag values", function()
  it("contains them in declared order, absent ones as none", function()
    assert.equal("http.hits._api.200", joining.joined("http.hits", { "/api", 200 }, 2))
    assert.equal("http.hits.none.b.none.p50", joining.joined("http.hits", { nil, "b", nil }, 3, ".p50"))
    assert.equal("up", joining.joined("up", {}, 0))
    assert.equal("none", joining.value "")
  end)

  it("contains exactly one value without dots for each tag, for any bytes", function()
    assert.equal("10_0_0_1_8125", joining.value "10.0.0.1:8125")
    for byte = 0, 255 do
      assert.truthy(joining.value("a" .. string.char(byte)):find "^a[%w_-]$")
    end
    assert.equal(128, #joining.value(("v"):rep(500)))
    assert.not_equal(joining.value(("v"):rep(500)), joining.value(("v"):rep(501)))
  end)
end)
