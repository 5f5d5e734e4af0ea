--- The drivers. If this file fails, records do not reach the exporters with one of the drivers: in the interval, when
--- flush is called, or when the program ends in some way.

package.path = "spec/?.lua;" .. package.path

local children = require "support.children"
local core = require "chalk.core"
local files = require "support.files"
local fork = require "support.fork"

-- A program. arg[1] is the exporter's file. A test adds options of the exporter, the driver, and code after init.
local PROGRAM = [[
  local chalk = require "chalk"
  local jobs = chalk.count("jobs")
  jobs:inc(2)
  local uv = require "luv"
  local options = { path = arg[1], %s }
  chalk.init { driver = "%s", flush_interval = 3600,
    exporters = { chalk.exporter.custom("support.file_exporter", options) } }
  jobs:inc(3)
  %s
]]

-- A private client is collected while its thread is still blocked by an exporter.
local PRIVATE = [[
  do
    local exporters = { chalk.exporter.custom("support.file_exporter", { path = arg[1] .. ".2", hangs = "block" }) }
    local client = chalk.new { exporters = exporters }
    client:flush(0.1)
    client:shutdown(0.1)
  end
  collectgarbage()
  collectgarbage()
  os.remove(arg[1] .. ".2")
]]

local FIRST, LAST = "jobs{} total=5 delta=5\n--\n", "jobs{} total=5 delta=5\n--\nshutdown\n"

-- An object of the application with a finalizer. It is younger than chalk's objects, so its finalizer runs first.
local FINALIZER = [[
  object = newproxy(true)
  getmetatable(object).__gc = function() %s end
]]

-- Makes luv behave as version 1.51, which cannot run the loop inside one of its callbacks.
local NEWER_LUV = [[
  local run, inside = uv.run, false
  uv.run = function(...)
    if inside then return nil, "EALREADY: connection already in progress", "EALREADY" end
    inside = true
    local alive = run(...)
    inside = false
    return alive
  end
]]

-- Makes coroutine.running behave as in LuaJIT with LUA52COMPAT, where the main thread is an object.
local MAIN_IS_A_THREAD = [[
  local running, main = coroutine.running, coroutine.create(function() end)
  coroutine.running = function()
    local co = running()
    return co or main, co == nil
  end
]]

-- A program with two exporters as tables. A test adds the code of the first one's export, and code after init.
local TABLES = [[
  local chalk, uv = require "chalk", require "luv"
  local driver, reported = arg[1], {}
  local function report(...) reported[#reported + 1] = table.concat({ ... }, " ") end
  chalk.count("jobs"):inc()
  chalk.init { driver = driver, flush_interval = 3600, exporters = {
    { name = "one", export = function(self, batch) %s end },
    { name = "other", export = function() report("other") return true end },
  } }
  %s
  io.write(table.concat(reported, "\n"))
]]

-- Declarations of the Lua API with types of its own, as an application may have them.
local DECLARED = [[
  require("ffi").cdef "typedef struct lua_State lua_State; lua_State *luaL_newstate(void); int lua_gettop(lua_State *);"
]]

-- A child changes its directory, and flushes after its parent was killed.
local MOVED = [[
  chalk.flush()
  local fork, wait = require "support.fork", require "support.wait"
  local ffi = require "ffi"
  ffi.cdef "int chdir(const char *path);"
  local reported, parent = fork.shared(1), fork.pid()
  fork.child(function()
    assert(ffi.C.chdir("/") == 0)
    jobs:inc()
    reported[0] = 1
    wait.till(function() return fork.parent() ~= parent end)
    assert(chalk.flush())
    os.exit(0)
  end)
  wait.till(function() return reported[0] == 1 end)
  fork.kill(parent, fork.KILL)
]]

describe("the driver", function()
  after_each(files.clean)

  local function program(driver, body, options) return PROGRAM:format(options or "", driver, body) end

  -- Runs a program to its end. Returns its exit code, the text of the exporter's file, its output and its run time.
  local function run(driver, body, options)
    local path, started = files.name(), core.C.chalk_now()
    local code, output = children.run(program(driver, body, options), {}, path)
    return code, files.read(path), output, core.C.chalk_now() - started
  end

  for _, driver in ipairs { "thread", "loop", "manual" } do
    describe(driver, function()
      describe("flushes for the last time", function()
        local function it_flushes(what, body, exit_code)
          it(what, function()
            local code, seen, output = run(driver, body)
            assert.same({ exit_code, LAST }, { code, seen }, output)
          end)
        end

        it_flushes("at a normal end", "", 0)
        it_flushes("at os.exit", "os.exit(3)", 3)
        it_flushes("at os.exit that closes the VM", "os.exit(3, true)", 3)
        it_flushes("at an uncaught error", "error('uncaught')", 1)
        it_flushes(
          "at shutdown, which may be repeated",
          "assert(chalk.shutdown()) assert(chalk.shutdown()) assert(chalk.flush())",
          0
        )
        it_flushes(
          "after the application's loop has run",
          "uv.new_timer():start(20, 0, function() end) uv.run()",
          0
        )
        it_flushes(
          "at os.exit inside the application's loop",
          "uv.new_timer():start(1, 0, function() os.exit(4) end) uv.run()",
          4
        )

        for what, call in pairs { shutdown = "assert(chalk.shutdown())", ["os.exit"] = "os.exit(0)" } do
          it_flushes("at " .. what .. " in a finalizer, when the VM is closed", FINALIZER:format(call), 0)
        end

        it("after a flush in a finalizer, when the VM is closed", function()
          for _, options in ipairs { "", "yields = 30" } do
            local code, seen, output = run(driver, FINALIZER:format "assert(chalk.flush())", options)
            assert.same({ 0, FIRST .. "jobs{} total=5 delta=0\n--\nshutdown\n" }, { code, seen }, output)
          end
        end)

        it("when the exporter yields", function()
          local code, seen, output = run(driver, "", "yields = 30")
          assert.same({ 0, LAST }, { code, seen }, output)
          code, seen, output = run(driver, "os.exit(0)", "yields = 30")
          assert.same({ 0, LAST }, { code, seen }, output)
        end)

        it("and sends what an earlier flush failed to send", function()
          local away = files.make()
          local body = ("chalk.flush() jobs:inc() os.remove(%q)"):format(away)
          local code, seen, output = run(driver, body, ("fails_while = %q"):format(away))
          assert.same({ 0, "jobs{} total=6 delta=6\n--\nshutdown\n" }, { code, seen }, output)
        end)
      end)

      it("returns from flush after the exporters have returned", function()
        local body = [[
          assert(chalk.flush())
          local file = io.open(arg[1])
          io.write(file:read "*a")
          file:close()
          jobs:inc()
          assert(chalk.flush(5))
          assert(chalk.flush())
          chalk.shutdown()
        ]]
        local rest = "jobs{} total=6 delta=1\n--\n" .. ("jobs{} total=6 delta=0\n--\n"):rep(2) .. "shutdown\n"
        for _, options in ipairs { "", "yields = 30" } do
          local code, seen, output = run(driver, body, options)
          assert.same({ 0, FIRST }, { code, output })
          assert.equal(FIRST .. rest, seen)
        end
      end)

      it("ends in order after the application has stopped its loop", function()
        local again = "uv.new_timer():start(0, 1, function() uv.stop() end) uv.stop()"
        for _, body in ipairs { "uv.stop()", again } do
          for _, options in ipairs { "", "yields = 30" } do
            local code, seen, output = run(driver, body, options)
            assert.same({ 0, LAST }, { code, seen }, output)
          end
        end
      end)

      it("flushes for the last time in a callback in which luv cannot run the loop", function()
        local body = NEWER_LUV .. "uv.new_timer():start(1, 0, function() os.exit(4) end) uv.run()"
        local code, seen, output = run(driver, body)
        assert.same({ 4, LAST }, { code, seen }, output)
      end)

      it("flushes from a coroutine outside the loop's callbacks", function()
        local body = [[
          coroutine.wrap(function() assert(chalk.flush()) end)()
          io.write(assert(io.open(arg[1])):read "*a")
        ]]
        local _, _, output = run(driver, body, "yields = 10")
        assert.equal(FIRST, output)
      end)
    end)
  end

  for _, driver in ipairs { "loop", "manual" } do
    describe(driver, function()
      it("ends in a callback in which luv cannot run the loop, although an exporter yields", function()
        local body = NEWER_LUV .. "uv.new_timer():start(1, 0, function() os.exit(4) end) uv.run()"
        local code, output = children.run(program(driver, body, "yields = 30"), { limit = 20 }, files.name())
        assert.same({ 4, "" }, { code, output })
      end)

      it("makes exporters block at the exit if luv cannot run the loop there", function()
        local export = "io.write(tostring(batch.blocking), ' ') io.flush() return true"
        local body = "uv.new_timer():start(1, 0, function() os.exit(4) end) uv.run()"
        local code, output = children.run(TABLES:format(export, NEWER_LUV .. body), { limit = 20 }, driver)
        assert.same({ 4, "true " }, { code, output })
        code, output = children.run(TABLES:format(export, body), { limit = 20 }, driver)
        assert.same({ 4, "nil " }, { code, (output:gsub("false", "nil")) })
      end)

      it("calls none of the application's callbacks at the exit, however many clients there are", function()
        local body = [[
          chalk.new { driver = driver, exporters = { { name = "third", export = function() return true end } } }
          uv.new_timer():start(1, 1, function()
            io.write("once")
            os.exit(4)
          end)
          uv.run()
        ]]
        assert.same({ 4, "once" }, { children.run(TABLES:format("return true", body), { limit = 20 }, driver) })
      end)

      it("does not mistake the main thread for a coroutine if LuaJIT has an object for it", function()
        local body = [[
          assert(chalk.flush())
          uv.new_timer():start(1, 0, function() io.write(tostring(chalk.flush())) end)
          uv.run()
        ]]
        local script = program(driver, MAIN_IS_A_THREAD .. body, "yields = 30")
        local code, output = children.run(script, { limit = 20 }, files.name())
        assert.same({ 0, "nil" }, { code, output:sub(-3) }, output)
      end)

      it("refuses a flush or shutdown that is called in an export", function()
        local script = TABLES:format(
          [[
          local ok, message = chalk.flush()
          report(tostring(ok), message)
          ok, message = chalk.shutdown()
          report(tostring(ok), message)
          local thread = coroutine.running()
          uv.new_timer():start(1, 0, function() assert(coroutine.resume(thread)) end)
          coroutine.yield()
          report(tostring(chalk.flush()))
          return true
        ]],
          "report(tostring(chalk.flush()))"
        )
        local code, output = children.run(script, { limit = 20 }, driver)
        local refused = "nil an exporter's export cannot wait for a flush\n"
        assert.same({ 0, refused:rep(2) .. "other\nnil\ntrue" }, { code, output })
      end)

      it("completes a flush although an exporter raises an error that cannot be shown as text", function()
        local script = TABLES:format(
          "error(setmetatable({}, { __tostring = function() error('no text', 0) end }))",
          "for _ = 1, 2 do report(tostring(chalk.flush())) end"
        )
        local code, output = children.run(script, { limit = 20 }, driver)
        local said = "chalk: error: exporter one: a table that cannot be shown as text\n"
        assert.same({ 0, said .. "other\ntrue\nother\ntrue" }, { code, output })
      end)
    end)
  end

  describe("thread", function()
    it("starts if the application has declared functions of the Lua API itself", function()
      local path = files.name()
      local code, output = children.run(DECLARED .. program("thread", ""), {}, path)
      assert.same({ 0, LAST }, { code, files.read(path) }, output)
    end)

    for _, loop in ipairs { "stop", "close" } do
      it("goes on after an exporter calls this on the loop: " .. loop, function()
        local body = "for _ = 1, 3 do assert(chalk.flush()) jobs:inc() end"
        local code, seen, output = run("thread", body, ("loop = %q"):format(loop))
        local said = "chalk: error: flush thread: an exporter closed the handles of the flush loop\n"
        assert.same({ 0, loop == "close" and said or "" }, { code, output })
        for total = 5, 8 do
          assert.matches(("jobs{} total=%d "):format(total), seen, 1, true)
        end
      end)
    end

    it("finds modules by relative paths in a child that has changed its directory", function()
      local here = os.getenv "PWD" .. "/"
      local function relative(text) return (text:gsub(here:gsub("%p", "%%%0"), "./")) end
      local env = {
        LUA_PATH = relative(package.path),
        LUA_CPATH = relative(package.cpath),
        CHALK_LIBRARY = relative(core.path),
      }
      local path = files.name()
      local child = children.spawn(program("thread", MOVED), { env = env }, path)
      local output = child.pipe:read "*a" -- also that of the child, which lives longer
      child.pipe:close()
      local moved = "jobs{} total=6 delta=1\n--\n"
      assert.equal(FIRST .. moved, files.read(path):sub(1, #(FIRST .. moved)), output)
    end)

    it("flushes while the application is busy", function()
      local body = [[
        local deadline, seen = os.time() + 20, nil
        repeat
          local file = io.open(arg[1])
          seen = file and file:read "*a"
          if file then file:close() end
        until seen and #seen > 0 or os.time() > deadline
        io.write(seen)
        os.exit(0)
      ]]
      local script = program("thread", body):gsub("3600", "0.05")
      local _, output = children.run(script, {}, files.name())
      assert.matches("^jobs{} total=%d delta=%d\n%-%-\n", output)
    end)
  end)

  describe("loop", function()
    it("flushes on the application's loop and does not keep the loop alive", function()
      local body = [[
        local check = uv.new_timer()
        check:start(1, 1, function()
          local file = io.open(arg[1])
          if file then
            io.write(file:read "*a")
            os.exit(0)
          end
        end)
        uv.run()
      ]]
      local _, output = children.run((program("loop", body):gsub("3600", "0.01")), {}, files.name())
      assert.equal(FIRST, output)
      local _, _, _, seconds = run("loop", "uv.run()")
      assert.is_true(seconds < 5)
    end)

    it("lets a coroutine in a callback wait for a flush while the loop goes on", function()
      local body = [[
        local ticks = 0
        local ticker = uv.new_timer()
        ticker:start(1, 1, function() ticks = ticks + 1 end)
        uv.new_timer():start(1, 0, function()
          coroutine.wrap(function()
            assert(chalk.flush())
            io.write(assert(io.open(arg[1])):read "*a", ticks > 5 and "went on" or "stood")
            ticker:close()
          end)()
        end)
        uv.run()
      ]]
      local _, _, output = run("loop", body, "yields = 50")
      assert.equal(FIRST .. "went on", output)
    end)

    it("flushes for the last time after the flush in progress", function()
      local body = [[
        uv.new_timer():start(1, 0, function()
          chalk.flush()
          jobs:inc()
          os.exit(0)
        end)
        uv.run()
      ]]
      local code, seen, output = run("loop", body, "yields = 50")
      assert.same({ 0, FIRST }, { code, seen:sub(1, #FIRST) }, output)
    end)
  end)

  -- Each program takes the time limit of the last flush, so they run side by side.
  it("ends although an exporter never returns, and flush returns too", function()
    local started = core.C.chalk_now()
    local head = "io.write(uv.os_getpid(), '\\n') io.flush() assert(not chalk.flush(0.2)) "
    local hanging = {}
    local function hang(driver, how, body)
      local path = files.name()
      local options = ("hangs = %q"):format(how)
      hanging[#hanging + 1] =
        { path = path, child = children.start(program(driver, head .. body, options), {}, path) }
    end
    for _, driver in ipairs { "thread", "loop", "manual" } do
      hang(driver, "yield", "")
      hang(driver, "yield", "os.exit(0)")
      hang(driver, "yield", "assert(not chalk.shutdown(0.2))")
    end
    hang("thread", "block", "")
    hang("thread", "block", "os.exit(0)")
    hang("thread", "block", PRIVATE)
    for i, one in ipairs(hanging) do
      local code, output = one.child.finish()
      assert.equal(0, code, i .. ": " .. output)
      assert.equal(FIRST, files.read(one.path):sub(1, #FIRST))
    end
    local seconds = core.C.chalk_now() - started
    assert.is_true(seconds < 9, "took " .. seconds)
  end)

  for _, driver in ipairs { "thread", "loop" } do
    it(driver .. " flushes for the last time when a handler in the application's loop ends the program", function()
      local path = files.name()
      local child = children.start(
        program(
          driver,
          [[
        local signal = uv.new_signal()
        signal:start("sigterm", function() os.exit(7) end)
        io.write(uv.os_getpid(), "\n")
        io.flush()
        uv.run()
      ]]
        ),
        {},
        path
      )
      fork.kill(child.pid, fork.TERM)
      local code, output = child.finish()
      assert.same({ 7, LAST }, { code, files.read(path) }, output)
    end)

    it(driver .. " flushes for the last time when SIGTERM stops the loop", function()
      local path = files.name()
      local child = children.start(
        program(
          driver,
          [[
        local signal = uv.new_signal()
        signal:start("sigterm", function() signal:close() end)
        io.write(uv.os_getpid(), "\n")
        io.flush()
        uv.run()
      ]]
        ),
        {},
        path
      )
      fork.kill(child.pid, fork.TERM)
      local code, output = child.finish()
      assert.same({ 0, LAST }, { code, files.read(path) }, output)
    end)
  end
end)
