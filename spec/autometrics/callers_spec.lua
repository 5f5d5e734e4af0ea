--- A user sees which instrumented function called which, and still gets the whole traceback of an error.

local instrumented = require "support.instrumented"
local process = require "support.children"
local vms = require "support.vms"

local by, results = instrumented.by, instrumented.results

local function counted(n, ...) return { n = n, ... } end

local function all(...) return counted(select("#", ...), ...) end

describe("the traceback of an error", function()
  local auto, innermost, middle, outer

  before_each(function()
    auto = instrumented.new()
    local function deepest() error "boom" end
    innermost = auto.wrap(function() deepest() end, { name = "innermost", module = "m" })
    middle = auto.wrap(function() innermost() end, { name = "middle", module = "m" })
    outer = auto.wrap(function() middle() end, { name = "outer", module = "m" })
  end)

  local function has(traceback, name)
    assert.is_truthy(traceback:find(name, 1, true), ("no %s in %s"):format(name, traceback))
  end

  it("is complete in the handler of an xpcall, which is called once", function()
    local calls = 0
    local ok, traceback = xpcall(outer, function(e)
      calls = calls + 1
      return debug.traceback(e)
    end)
    assert.is_false(ok)
    assert.equal(1, calls)
    has(traceback, "boom")
    has(traceback, "in function 'deepest'")
    assert.is_truthy(select(2, xpcall(outer, debug.traceback)):find("in function 'deepest'", 1, true))
  end)

  it("has the same levels in a handler as without wrappers", function()
    local info
    xpcall(outer, function() info = debug.getinfo(3, "nSl") end)
    assert.same({ "deepest", "@spec/autometrics/callers_spec.lua" }, { info.name, info.source })
  end)

  -- coroutine.running as LuaJIT has it with LUA52COMPAT.
  local MAIN_IS_A_THREAD = [[
    local running, main = coroutine.running, coroutine.create(function() end)
    coroutine.running = function()
      local co = running()
      return co or main, co == nil
    end
  ]]

  for what, before in pairs { ["has no object"] = "", ["is an object"] = MAIN_IS_A_THREAD } do
    it("is in the message that a host gets if the main thread " .. what, function()
      local vm = vms.open()
      local ok, message = pcall(vm.run, vm, before .. [[
        local auto = require("chalk.autometrics").new(require("chalk").new())
        local function deepest() error("boom") end
        local wrapped = auto.wrap(function() deepest() end, { name = "wrapped", module = "m" })
        local function call() wrapped() end
        call()
      ]])
      vm:close()
      assert.is_false(ok)
      has(message, "in function 'deepest'")
    end)
  end

  it("comes from a handler that may return anything or fail, as without wrappers", function()
    local function without() error "boom" end
    for _, handler in ipairs {
      function() return nil end,
      function() return 1, 2 end,
      function() error "again" end,
      function(e)
        pcall(error) -- after a caught error, LuaJIT calls the handler again for the handler's own error
        if #e > 40 then return "enough" end
        error(e .. "!", 0)
      end,
      tostring,
    } do
      assert.same(
        all(xpcall(without, handler)),
        all(xpcall(
          auto.wrap(without, {
            name = "f" .. tostring(handler),
            module = "m",
          }),
          handler
        ))
      )
    end
    local e = {}
    assert.equal(e, select(2, pcall(auto.wrap(error, { name = "error", module = "m" }), e)))
  end)

  it("is not mixed up with those of calls that fail in the handler, in coroutines too", function()
    local fails = auto.wrap(function() error("inner", 0) end, { name = "fails", module = "m" })
    local ok, result = xpcall(outer, function(e)
      pcall(error) -- without a caught error, LuaJIT would call no other handler
      local _, first = xpcall(fails, string.upper)
      local _, second = coroutine.resume(coroutine.create(fails))
      local _, third = coroutine.resume(coroutine.create(function()
        return select(2, xpcall(fails, function(inner) return inner .. " " .. tostring(pcall(fails)) end))
      end))
      return table.concat({ e:match "boom", first, second, third }, ", ")
    end)
    assert.same({ false, "boom, INNER, inner, inner false" }, { ok, result })
  end)

  it("is not mixed up with errors that were caught before, inside or after", function()
    local careful = auto.wrap(function()
      pcall(outer)
      local _, text = xpcall(middle, function(e) return "<" .. e .. ">" end)
      pcall(outer)
      error("last " .. text:match "<.*(boom>)", 0)
    end, { name = "careful", module = "m" })
    for _ = 1, 3 do
      local seen = {}
      local ok, result = xpcall(careful, function(e)
        pcall(outer)
        xpcall(outer, function() end)
        seen[#seen + 1] = e
        return "handled " .. e
      end)
      assert.same({ false, "handled last boom>", { "last boom>" } }, { ok, result, seen })
    end
  end)

  it("is on standard error when nothing catches it, in a program and in a callback of luv", function()
    for _, ending in ipairs {
      "f()",
      "package.preload.app = f require('app')",
      [[
      local uv = require("luv")
      local timer = uv.new_timer()
      timer:start(1, 0, function() timer:close() f() end)
      uv.run()]],
    } do
      local code, output = process.run([[
        local auto = require("chalk.autometrics")
        local function deepest() error("boom") end
        local f = auto.wrap(function() deepest() end, { name = "f", module = "m" })
        ]] .. ending)
      assert.is_true(code ~= 0, output)
      has(output, "boom")
      has(output, "in function 'deepest'")
    end
  end)

  it("does not hide a stack overflow, and later calls still work", function()
    local f
    f = auto.wrap(function(n) return 1 + f(n + 1) end, { name = "f", module = "m" })
    local ok, message = pcall(f, 1)
    assert.is_false(ok)
    assert.is_truthy(message:find("stack overflow", 1, true), message)
    assert.equal(1, auto.wrap(function() return 1 end, { name = "after", module = "m" })())
  end)
end)

describe("the caller of an instrumented function", function()
  local auto, client

  before_each(function()
    auto, client = instrumented.new()
  end)

  local function wrap(name, f) return auto.wrap(f, { name = name, module = name:upper() }) end

  local function callers()
    local found = {}
    for key, value in pairs(by(client, "function_calls_total", "function", "caller_function", "caller_module")) do
      if value > 0 then found[key] = value end
    end
    return found
  end

  it("is the innermost instrumented function around the call, or none", function()
    local c = wrap("c", function() end)
    local function b() c() end
    local a = wrap("a", function() b() end)
    a()
    c()
    assert.same({ ["a  "] = 1, ["c a A"] = 1, ["c  "] = 1 }, callers())
    local alone = 'function_calls_total{function="c",module="C",service_name="spec",result="ok"} 1\n'
    assert.is_truthy(client:text():find(alone, 1, true))
  end)

  it("is right after caught errors and in recursion", function()
    local fails = wrap("fails", function() error "x" end)
    local c = wrap("c", function() end)
    local a = wrap("a", function()
      pcall(fails)
      c()
    end)
    a()
    pcall(fails)
    c()
    local down
    down = wrap("down", function(n) return n > 0 and 1 + down(n - 1) or 0 end)
    assert.equal(3, down(3))
    assert.same({
      ["a  "] = 1,
      ["fails a A"] = 1,
      ["c a A"] = 1,
      ["fails  "] = 1,
      ["c  "] = 1,
      ["down  "] = 1,
      ["down down DOWN"] = 3,
    }, callers())
  end)

  it("is found in its own coroutine while coroutines alternate", function()
    local c = wrap("c", function() coroutine.yield() end)
    local a = wrap("a", function()
      coroutine.yield()
      c()
      coroutine.yield()
      c()
    end)
    local b = wrap("b", function()
      pcall(function()
        coroutine.yield()
        c()
        error "x"
      end)
      coroutine.yield()
      c()
    end)
    local coroutines = { coroutine.create(a), coroutine.create(b), coroutine.create(a), coroutine.create(c) }
    local left = true
    while left do
      left = false
      for _, co in ipairs(coroutines) do
        if coroutine.status(co) ~= "dead" then
          assert(coroutine.resume(co))
          left = true
        end
      end
    end
    assert.same({ ["a  "] = 2, ["b  "] = 1, ["c a A"] = 4, ["c b B"] = 2, ["c  "] = 1 }, callers())
  end)

  it("is right in coroutines that wait for timers of luv", function()
    local uv = require "luv"
    local function sleep(milliseconds)
      local co, timer = coroutine.running(), uv.new_timer()
      timer:start(milliseconds, 0, function()
        timer:close()
        assert(coroutine.resume(co))
      end)
      coroutine.yield()
    end
    local leaf = wrap("leaf", function() sleep(2) end)
    local a = wrap("a", function()
      sleep(1)
      leaf()
    end)
    local b = wrap("b", function()
      leaf()
      sleep(3)
      leaf()
    end)
    for _ = 1, 20 do
      coroutine.wrap(a)()
      coroutine.wrap(b)()
    end
    uv.run()
    assert.same({ ["a  "] = 20, ["b  "] = 20, ["leaf a A"] = 20, ["leaf b B"] = 40 }, callers())
  end)

  it("is forgotten with an abandoned coroutine, whose call counts as ok", function()
    local f = auto.wrap(function() coroutine.yield() end, { name = "f", module = "m", concurrent = true })
    for _ = 1, 100 do
      coroutine.wrap(f)()
    end
    assert.equal(100, by(client, "function_calls_concurrent", "function").f)
    require("support.wait").till(function()
      collectgarbage()
      return results(client)["f ok"] == 100
    end)
    assert.equal(0, by(client, "function_calls_concurrent", "function").f)
    assert.equal(0, by(client, "function_calls_duration_seconds_count", "function").f)
    f = wrap("g", function() end)
    coroutine.wrap(f)()
    assert.equal(1, callers()["g  "])
  end)

  -- Functions call each other at random, in coroutines that yield, fail, start others or are abandoned, while the
  -- collector runs and new coroutines get the memory of dead ones.
  it("is right whatever coroutines do, and wherever they are in memory", function()
    math.randomseed(11)
    local fs, expected, waiting = {}, {}, {}
    local function call(caller, depth)
      local name = "f" .. math.random(5)
      local id = ("%s %s %s"):format(name, caller or "", caller and "m" or "")
      expected[id] = (expected[id] or 0) + 1
      return fs[name](depth, name)
    end
    local function start()
      waiting[#waiting + 1] = coroutine.create(function() call(nil, 3) end)
    end
    local moves = {
      function()
        if coroutine.running() then coroutine.yield() end
      end,
      function() start() end,
      function(me, depth) pcall(call, me, depth) end,
      function(_, depth)
        pcall(coroutine.wrap(function() call(nil, depth) end))
      end,
      function(me, depth) call(me, depth) end,
    }
    local function body(depth, me)
      for _ = 1, depth > 0 and math.random(0, 2) or 0 do
        moves[math.random(#moves)](me, depth - 1)
      end
      if math.random(20) == 1 then error "boom" end
    end
    for i = 1, 5 do
      fs["f" .. i] = auto.wrap(function(...) return body(...) end, { name = "f" .. i, module = "m" })
    end
    for round = 1, 40000 do
      if #waiting < 40 then start() end
      local i = math.random(#waiting)
      coroutine.resume(waiting[i])
      pcall(call, nil, 2)
      if math.random(20) == 1 or coroutine.status(waiting[i]) == "dead" then
        waiting[i], waiting[#waiting] = waiting[#waiting], nil
      end
      if round % 5000 == 0 then collectgarbage() end
    end
    waiting = nil
    collectgarbage()
    collectgarbage() -- an abandoned call is counted when its finalizer has run
    for id in pairs(callers()) do
      expected[id] = expected[id] or 0
    end
    assert.same(expected, callers())
  end)

  it("is found without coroutine.running, by a word of the VM's global state", function()
    local threads = require "chalk.autometrics.running"
    assert.is_true(threads.is_fast)
    assert.equal(threads.MAIN, threads.running() == coroutine.running() and threads.MAIN or threads.running())
    for _ = 1, 1000 do
      local co = coroutine.create(function() return coroutine.running(), threads.running() end)
      local _, expected, found = coroutine.resume(co)
      assert.is_true(expected == found)
    end
  end)

  it("is found by that word each time, whatever LuaJIT compiles at the moment", function()
    local name = "chalk.autometrics.running"
    local before = package.loaded[name]
    for _ = 1, 500 do
      package.loaded[name] = nil
      assert.is_true(require(name).is_fast)
    end
    package.loaded[name] = before
  end)
end)
