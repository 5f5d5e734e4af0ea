--- A user who instruments functions sees each call with its result, caller and duration, and the functions still do
--- exactly what they did before.

local chalk = require "chalk"
local instrumented = require "support.instrumented"
local process = require "support.children"

local by, results = instrumented.by, instrumented.results

local function counted(n, ...) return { n = n, ... } end

local function all(...) return counted(select("#", ...), ...) end

describe("an instrumented function", function()
  local auto, client

  before_each(function()
    auto, client = instrumented.new()
  end)

  local function wrap(name, f, options)
    options = options or {}
    options.name, options.module = name, options.module or "m"
    return auto.wrap(f, options)
  end

  it("is exported at zero before its first call", function()
    wrap("f", function() end, { concurrent = true })
    assert.same({ ["f ok"] = 0, ["f error"] = 0 }, results(client))
    assert.same({ f = 0 }, by(client, "function_calls_duration_seconds_count", "function"))
    assert.same({ f = 0 }, by(client, "function_calls_concurrent", "function"))
  end)

  it("gets all its arguments and returns all its results, nils included", function()
    local f = wrap("f", all)
    local fixed = wrap("fixed", function(a, b, c) return c, b, a, nil end)
    for n = 0, 12 do
      local list = {}
      for i = 1, n do
        list[i] = i % 2 == 0 and i or nil
      end
      assert.same(counted(n, unpack(list, 1, n)), f(unpack(list, 1, n)))
    end
    assert.same(counted(4, 3, nil, nil, nil), all(fixed(nil, nil, 3)))
    assert.same(counted(4, nil, nil, 1, nil), all(fixed(1)))
    assert.same(counted(0), all(wrap("none", function() end)()))
    assert.same(counted(200), all(wrap("many", function(...) return ... end)(unpack({}, 1, 200))))
  end)

  it("may be a C function", function()
    assert.equal("abab", wrap("rep", string.rep)("ab", 2))
    assert.same({ ["rep ok"] = 1, ["rep error"] = 0 }, results(client))
  end)

  it("has failed if it returned nil or false and an error, and not otherwise", function()
    local f = wrap("f", function(...) return ... end)
    for _, fine in ipairs { {}, { true }, { 1, "note" }, { n = 1 }, { false }, { n = 2 }, { "", "x" }, { 0, "x" } } do
      f(unpack(fine, 1, fine.n or #fine))
    end
    assert.same({ ["f ok"] = 8, ["f error"] = 0 }, results(client))
    f(nil, "broken")
    f(false, "broken")
    f(nil, false)
    assert.same({ ["f ok"] = 8, ["f error"] = 3 }, results(client))
  end)

  it("has failed if it raised an error, and the error reaches the caller unchanged", function()
    local thing = setmetatable({}, { __tostring = function() return "thing" end })
    local f = wrap("f", function(e) error(e, type(e) == "string" and 1 or 0) end)
    for _, e in ipairs { thing, 42, false } do
      local ok, raised = pcall(f, e)
      assert.is_false(ok)
      assert.is_true(rawequal(e, raised))
    end
    assert.same(counted(2, false, nil), all(pcall(f, nil)))
    local _, message = pcall(f, "where")
    assert.is_truthy(message:find "^spec/autometrics_spec%.lua:%d+: where$", message)
    assert.same({ ["f ok"] = 0, ["f error"] = 5 }, results(client))
    assert.same({ f = 5 }, by(client, "function_calls_duration_seconds_count", "function"))
  end)

  it("has its result decided by ok_if and error_if, which get its results, or nil and the error", function()
    local f = wrap("f", function(raise, ...)
      if raise then error(..., 0) end
      return ...
    end, {
      ok_if = function(result, problem) return result == nil and problem == "not found" end,
      error_if = function(result) return type(result) == "table" and result.status >= 500 end,
    })
    f(false, nil, "not found")
    pcall(f, true, "not found")
    f(false, { status = 404 })
    assert.same({ ["f ok"] = 3, ["f error"] = 0 }, results(client))
    f(false, { status = 500 })
    f(false, nil, "other")
    pcall(f, true, "other")
    assert.same({ ["f ok"] = 3, ["f error"] = 3 }, results(client))
  end)

  it("follows the usual rule if ok_if raises an error, and warns of it once", function()
    local code, output = process.run [[
      local auto = require("chalk.autometrics")
      local f = auto.wrap(function(...) return ... end,
        { name = "f", module = "m", ok_if = function(r) return r.x end })
      f(nil, "a")
      f(nil, "a")
      f(1)
      for line in require("chalk").text():gmatch("[^\n]+") do
        if line:find("^function_calls_total") then print(line:match("result=\"(%a+)\".* (%d+)$")) end
      end]]
    assert.equal(0, code, output)
    assert.equal(1, select(2, output:gsub("chalk: warning: ok_if of m%.f failed: [^\n]*attempt to index", "")))
    assert.is_truthy(output:find("ok\t1\nerror\t2\n", 1, true), output)
  end)

  it("counts its calls in progress if the option says so, in errors and other coroutines too", function()
    local f = wrap("f", function(raise)
      coroutine.yield()
      if raise then error "x" end
    end, { concurrent = true })
    local one, two = coroutine.create(f), coroutine.create(f)
    coroutine.resume(one, false)
    coroutine.resume(two, true)
    assert.same({ f = 2 }, by(client, "function_calls_concurrent", "function"))
    coroutine.resume(one)
    assert.same({ f = 1 }, by(client, "function_calls_concurrent", "function"))
    coroutine.resume(two)
    assert.same({ f = 0 }, by(client, "function_calls_concurrent", "function"))
    assert.same({ ["f ok"] = 1, ["f error"] = 1 }, results(client))
  end)

  it("has durations in seconds, waiting included, in the specification's buckets", function()
    local wait = require "support.wait"
    local f = wrap("f", function() coroutine.yield() end)
    local co = coroutine.create(f)
    coroutine.resume(co)
    wait.sleep(0.06)
    coroutine.resume(co)
    local sum = by(client, "function_calls_duration_seconds_sum", "function").f
    assert.is_true(sum >= 0.06 and sum < 5, sum)
    local les = {}
    for le, value in pairs(by(client, "function_calls_duration_seconds_bucket", "le")) do
      les[#les + 1] = tonumber(le) or math.huge
      assert.equal((tonumber(le) or math.huge) >= sum and 1 or 0, value)
    end
    table.sort(les)
    assert.same({ 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, math.huge }, les)
  end)

  it("makes no garbage, and is compiled into the code around it", function()
    local code, output = process.run [[
      local auto = require("chalk.autometrics")
      local f = auto.wrap(function(a, b, c) return c, b, a end, { name = "f", module = "m" })
      local g = auto.wrap(function(a)
        local x, y, z = f(a, nil, 1)
        return x, y, z
      end, { name = "g", module = "m" })
      local function loop(n)
        for i = 1, n do
          g(i)
        end
      end
      loop(10000)
      collectgarbage()
      collectgarbage("stop")
      local before = collectgarbage("count")
      loop(100000)
      print((collectgarbage("count") - before) * 1024)]]
    assert.equal(0, code, output)
    assert.is_true(tonumber(output) < 100000, output .. " bytes of 100,000 calls")
  end)

  it("behaves the same when it is compiled and when it is interpreted", function()
    local f = wrap("f", function(a, b) return b, a end)
    local g = wrap("g", function(a)
      local x, y = f(a, 1)
      return x + y
    end)
    for i = 1, 1000 do
      assert(g(i) == i + 1)
    end
    jit.off()
    for i = 1, 1000 do
      assert(g(i) == i + 1)
    end
    jit.on()
    assert.same({ ["f ok"] = 2000, ["f error"] = 0, ["g ok"] = 2000, ["g error"] = 0 }, results(client))
  end)
end)

describe("a module of instrumented functions", function()
  local auto, client

  before_each(function()
    auto, client = instrumented.new()
  end)

  it("is the same table, with each function under its key, methods too", function()
    local User = { version = 1 }
    User.__index = User
    function User.__tostring() return "user" end
    function User.new(name) return setmetatable({ name = name }, User) end
    function User:hello(word) return word .. " " .. self.name end
    function User.untouched() end
    local tostring_before, untouched = User.__tostring, User.untouched
    assert.equal(User, auto.module("users", User, { skip = { "untouched" } }))
    local user = User.new "Ann"
    assert.equal("hello Ann", user:hello "hello")
    assert.equal("user", tostring(user))
    assert.equal(tostring_before, User.__tostring)
    assert.equal(untouched, User.untouched)
    assert.same(
      { ["User.new ok"] = 1, ["User.new error"] = 0, ["User.hello ok"] = 1, ["User.hello error"] = 0 },
      results(client)
    )
    assert.same({ users = 2 }, by(client, "function_calls_total", "module"))
  end)

  it("leaves functions that are already wrapped as they are", function()
    local special = auto.wrap(function() end, { name = "special", module = "users" })
    local users = auto.module("users", { special = special, other = function() end })
    assert.equal(special, users.special)
    users.special()
    assert.equal(1, results(client)["special ok"])
  end)

  it("is listed in the order of wrapping, with sources and objectives", function()
    local objective = auto.objective("checkout"):success_rate(99.9):latency(0.25, 99)
    auto.module("users", { b = function() end, a = function() end })
    local line = debug.getinfo(1, "l").currentline + 1
    local f = auto.wrap(function() end, { name = "f", module = "m", objective = objective })
    local list = auto.functions()
    assert.same({ "a", "b", "f" }, { list[1].name, list[2].name, list[3].name })
    assert.same({
      name = "f",
      module = "m",
      source = "spec/autometrics_spec.lua",
      line = line,
      f = f,
      concurrent = false,
      objective = { name = "checkout", success_rate = 99.9, latency = { threshold = 0.25, percentile = 99 } },
    }, list[3])
    auto.wrap(string.rep, { name = "rep", module = "string" })
    assert.is_nil(auto.functions()[4].source)
    assert.is_nil(auto.functions()[4].line)
  end)

  it("gets names and modules from the source if none are given", function()
    local files = require "support.files"
    local folder = files.name()
    assert(require("support.commands").run("mkdir -p " .. folder .. "/shop"))
    finally(function() os.execute("rm -r " .. folder) end)
    local file = io.open(folder .. "/shop/stock.lua", "w")
    file:write [[
      local M = { Shelf = {}, crate = {} }
      function M.take(n) return n end
      local function put(n) return n end
      M.count = function() return 1 end
      M["look up"] = function() return 2 end
      function M:method() return self end
      function M.Shelf.new() return M end
      function M.Shelf:total() return 1 end
      M.Box = {}
      M.Box.total = function() return 2 end
      M.Box["full"] = function() return 3 end
      function M.crate:total() return 4 end
      function M.crate.open() return 5 end
      M.put = put
      return M]]
    file:close()
    local before = package.path
    package.path = folder .. "/?.lua;" .. package.path
    local stock = require "shop.stock"
    for _, name in ipairs { "take", "put", "count", "look up", "method" } do
      auto.wrap(stock[name])
    end
    for _, f in ipairs {
      stock.Shelf.new,
      stock.Shelf.total,
      stock.Box.total,
      stock.Box.full,
      stock.crate.total,
      stock.crate.open,
    } do
      auto.wrap(f)
    end
    auto.wrap(stock.Shelf.total, { type = "Rack" })
    auto.wrap(stock.Shelf.total, { type = false })
    auto.wrap(stock.Shelf.total, { name = "sum" })
    auto.wrap(stock.Shelf.total, { name = "sum", type = "Shelf" })
    package.path = before
    package.loaded["shop.stock"] = nil
    local found = {}
    for i, f in ipairs(auto.functions()) do
      found[i] = f.module .. ":" .. f.name
    end
    assert.same({
      "shop.stock:take",
      "shop.stock:put",
      "shop.stock:count",
      "shop.stock:look up",
      "shop.stock:method",
      "shop.stock:Shelf.new",
      "shop.stock:Shelf.total",
      "shop.stock:Box.total",
      "shop.stock:Box.full",
      "shop.stock:crate.total",
      "shop.stock:open",
      "shop.stock:Rack.total",
      "shop.stock:total",
      "shop.stock:sum",
      "shop.stock:Shelf.sum",
    }, found)
  end)

  it("has the type of methods in their names, so that two classes of one file may use the same name", function()
    local Cart, order = {}, {}
    Cart.__index = Cart
    function Cart.total(cart) return #cart end
    function order:total() return Cart.total(self) end
    auto.module("shop", Cart)
    auto.module("shop", order)
    auto.module("shop", { total = function() end }, { type = "Return" })
    auto.module("shop", { total = function() end, __name = "Gift" })
    auto.module("shop", { total = function() end })
    local Plain = {}
    function Plain.sum() end
    auto.module("shop", Plain)
    auto.module("stock", Cart, { type = false })
    assert.equal(2, order.total { 1, 2 })
    assert.same({
      ["Cart.total shop  "] = 0,
      ["Cart.total shop order.total shop"] = 1,
      ["order.total shop  "] = 1,
      ["Return.total shop  "] = 0,
      ["Gift.total shop  "] = 0,
      ["total shop  "] = 0,
      ["sum shop  "] = 0,
    }, instrumented.by(client, "function_calls_total", "function", "module", "caller_function", "caller_module"))
  end)

  it("has the plain names of its table if the table is no class", function()
    local users = {}
    function users.find() end
    auto.module("users", users)
    assert.equal("find", auto.functions()[1].name)
  end)
end)

describe("objectives", function()
  local auto, client

  before_each(function()
    auto, client = instrumented.new()
  end)

  it("label the calls with the success rate and the durations with the latency", function()
    local both = auto.objective("both"):success_rate(99.9):latency(1, 95)
    auto.wrap(function() end, { name = "both", module = "m", objective = both })()
    auto.wrap(function() end, { name = "rate", module = "m", objective = auto.objective("rate"):success_rate(90) })
    auto.wrap(function() end, { name = "time", module = "m", objective = auto.objective("time"):latency(0.05, 99) })
    auto.wrap(function() end, { name = "none", module = "m" })
    assert.same(
      {
        ["both both 99.9 "] = 1,
        ["rate rate 90 "] = 0,
        ["time   "] = 0,
        ["none   "] = 0,
      },
      by(
        client,
        "function_calls_total",
        "function",
        "objective_name",
        "objective_percentile",
        "objective_latency_threshold"
      )
    )
    assert.same(
      {
        ["both both 95 1.0"] = 1,
        ["rate   "] = 0,
        ["time time 99 0.05"] = 0,
        ["none   "] = 0,
      },
      by(
        client,
        "function_calls_duration_seconds_count",
        "function",
        "objective_name",
        "objective_percentile",
        "objective_latency_threshold"
      )
    )
  end)

  it("add a bucket that ends at their latency, before and after functions are wrapped", function()
    local exporter = { name = "none", export = function() return true end }
    auto, client = instrumented.new(nil, { driver = "manual", exporters = { exporter } })
    local before = auto.wrap(function() end, { name = "before", module = "m" })
    local slow = auto.objective("slow"):latency(0.3, 99)
    local after = auto.wrap(function() end, { name = "after", module = "m", objective = slow })
    before()
    after()
    auto.objective("known"):latency(0.25, 99)
    local buckets = by(client, "function_calls_duration_seconds_bucket", "function", "le")
    assert.same({ 1, 1, 1 }, { buckets["before 0.3"], buckets["after 0.3"], buckets["after 0.25"] })
    assert.equal(
      32,
      (function()
        local n = 0
        for _ in pairs(buckets) do
          n = n + 1
        end
        return n
      end)()
    )
    auto.objective("slower"):latency(20, 99) -- the old bounds are gone after a flush
    assert(client:flush())
    before()
    after()
    buckets = by(client, "function_calls_duration_seconds_bucket", "function", "le")
    assert.same({ 1, 1 }, { buckets["before 20.0"], buckets["after 20.0"] })
    client:shutdown()
  end)

  it("of the same name are one objective, and are listed as plain tables", function()
    local one = auto.objective("a"):success_rate(95)
    assert.equal(one, auto.objective("a"):success_rate(95))
    auto.objective("b"):latency(0.5, 90)
    assert.same({
      { name = "a", success_rate = 95 },
      { name = "b", latency = { threshold = 0.5, percentile = 90 } },
    }, auto.objectives())
  end)
end)

describe("a disabled client", function()
  it("returns the function itself, but lists it", function()
    local auto, client = instrumented.new(nil, { enabled = false })
    local function f() end
    local users = { f = f }
    auto.module("users", users)
    assert.equal(f, users.f)
    local function g() end
    assert.equal(g, auto.wrap(g, { name = "g", module = "m", objective = auto.objective("o"):latency(0.3, 99) }))
    assert.equal("g", auto.functions()[2].name)
    assert.equal(g, auto.functions()[2].f)
    assert.is_truthy(auto.queries(g).request_rate)
    assert.equal("", client:text())
  end)

  it("is what CHALK_DISABLED gives too", function()
    local code, output = process.run(
      [[
      local auto = require("chalk.autometrics")
      local function f() end
      print(auto.wrap(f, { name = "f", module = "m" }) == f)]],
      { env = { CHALK_DISABLED = "1" } }
    )
    assert.same({ 0, "true\n" }, { code, output })
  end)

  it("records nothing if it is disabled after wrapping", function()
    local code, output = process.run [[
      local chalk, auto = require("chalk"), require("chalk.autometrics")
      local f = auto.wrap(function(...) return ... end, { name = "f", module = "m" })
      chalk.init { enabled = false }
      print(select("#", f(1, nil)), f(1, nil))
      print(#chalk.text())]]
    assert.same({ 0, "2\t1\tnil\n0\n" }, { code, output })
  end)
end)

describe("chalk.init", function()
  it("may come before or after wrapping, and its namespace is not put before the names", function()
    for _, order in ipairs { "init() wrap()", "wrap() init()" } do
      local code, output = process.run([[
        local chalk, auto = require("chalk"), require("chalk.autometrics")
        local f
        local function init()
          chalk.init { exporters = { chalk.exporter.prometheus { namespace = "app" } }, buckets = { 1 },
            max_series = 1, idle_timeout = 0.01 }
        end
        local function wrap() f = auto.wrap(function() end, { name = "f", module = "m" }) end
        ]] .. order .. [[ f()
        for line in chalk.text():gmatch("[^\n]+") do
          local name = line:match("^function_calls[%w_]*{") or line:match("^build_info{")
          if name then print(name, line:match("result=\"(%a+)") or "", line:match("%d+$")) end
        end]])
      assert.equal(0, code, output)
      assert.is_truthy(output:find("function_calls_total{\tok\t1\n", 1, true), output)
      assert.is_truthy(output:find("build_info{\t\t1\n", 1, true), output)
      assert.is_nil(output:find("__overflow__", 1, true))
      assert.equal(15, select(2, output:gsub("function_calls_duration_seconds_bucket", "")))
    end
  end)

  it("does not mark these metrics as chalk's own, which some exporters leave out", function()
    local found
    local client = chalk.new {
      driver = "manual",
      exporters = {
        {
          name = "x",
          export = function(_, batch)
            found = {}
            for m in batch:each() do
              found[m.name] = m.own or false
            end
            return true
          end,
        },
      },
    }
    local auto = require("chalk.autometrics").new(client)
    auto.wrap(function() end, { name = "f", module = "m" })()
    assert(client:flush())
    assert.same({ false, false, true }, { found.function_calls, found.build_info, found.overflow })
    client:shutdown()
  end)
end)

describe("children of a fork", function()
  it("add their calls to the same total, callers included", function()
    local code, output = process.run [[
      local ffi = require("ffi")
      ffi.cdef "int fork(void); int waitpid(int, int *, int); void _exit(int);"
      local chalk, auto = require("chalk"), require("chalk.autometrics")
      local f = auto.wrap(function() end, { name = "f", module = "m" })
      local g = auto.wrap(function() f() end, { name = "g", module = "m", concurrent = true })
      g()
      local pids = {}
      for i = 1, 3 do
        local pid = ffi.C.fork()
        if pid == 0 then
          for _ = 1, 100 do g() end
          ffi.C._exit(0)
        end
        pids[i] = pid
      end
      for _, pid in ipairs(pids) do ffi.C.waitpid(pid, nil, 0) end
      for line in chalk.text():gmatch("[^\n]+") do
        if line:find("^function_calls_[tc]") and not line:find(" 0$") then print(line:match("(%d+)$")) end
      end]]
    assert.same({ 0, "301\n301\n" }, { code, output })
  end)
end)
