--- Another version of chalk meets a running one, or the file at segment_path is no segment. A running service must
--- survive the upgrade of its package, and a start with a damaged file must be refused with a message that says what to
--- do.

package.path = "spec/?.lua;" .. package.path

local chalk = require "chalk"
local children = require "support.children"
local core = require "chalk.core"
local commands = require "support.commands"
local files = require "support.files"
local fork = require "support.fork"
local wait = require "support.wait"

local RESTART = "restart needed"

-- A service whose package is upgraded. When the file arg[1] exists, it continues to record, in its VM and in a child,
-- and prints its counts. It also prints that a new VM, as at a reload of nginx, is refused.
local SERVICE = [[
  local chalk = require "chalk"
  local fork = require "support.fork"
  local wait = require "support.wait"
  io.stdout:setvbuf("no")
  local jobs = chalk.count("jobs", { tags = { { tag = "t" } } })
  chalk.init { flush_interval = 0.05, exporters = {
    chalk.exporter.custom("support.file_exporter", { path = arg[1] .. ".sent" }),
  } }
  jobs:with("x"):inc()
  assert(chalk.flush())
  io.write(fork.pid(), "\n")
  wait.till(function() return io.open(arg[1]) end, 50)
  jobs:with("x"):inc()
  jobs:with("new"):inc()
  local vm = require("support.vms").open()
  local ok, message = pcall(vm.run, vm, 'require "chalk"')
  print(ok, message)
  for name in pairs(package.loaded) do
    if name:find("^chalk") then package.loaded[name] = nil end
  end
  print(pcall(require, "chalk"))
  local pid = fork.child(function()
    jobs:with("x"):inc()
    jobs:with("child"):inc()
  end)
  assert(fork.wait(pid) == 0)
  print(chalk.flush(), jobs:with("x"):value(), jobs:with("new"):value(), jobs:with("child"):value())
  os.exit(0)
]]

local function run(command) assert(commands.run(command .. " >/dev/null 2>&1"), command) end

local function quoted(...) return ("'" .. table.concat({ ... }, "' '") .. "'") end

local function source_of(module) return assert(package.searchpath(module, package.path)) end

local has_compiler = commands.run "cc --version >/dev/null 2>&1"
local it_compiled = has_compiler and it or function(name) pending(name .. " (no C compiler)") end

describe("an upgrade", function()
  local folder, path, go

  -- Copies a package into a folder: the Lua modules, the header and the library.
  local function install()
    local lua = source_of("chalk.core"):match "^(.*)/chalk/core%.lua$"
    run("cp -r " .. quoted(lua .. "/chalk", folder .. "/chalk"))
    run("cp " .. quoted("src/chalk.h", folder .. "/chalk/chalk.h"))
    run("cp " .. quoted(core.path, folder .. "/libchalk.so"))
  end

  local function replace(name, pattern, replacement)
    local text, n = files.read(name):gsub(pattern, replacement)
    assert.equal(1, n, pattern)
    local file = assert(io.open(name, "wb"))
    file:write(text)
    file:close()
  end

  -- Replaces the package by one with another CHALK_ABI. Files are replaced by renames, as package managers do it.
  local function upgrade()
    run("cp -r src " .. folder .. "/src")
    replace(folder .. "/src/chalk.h", "(#define CHALK_ABI) %d+", "%1 4711")
    local compile = "cc -std=c11 -D_GNU_SOURCE= -O0 -fPIC -shared -pthread -Wl,-z,nodelete"
    run(("%s -I%s/src -o %s/libchalk.so.new %s/src/*/*.c"):format(compile, folder, folder, folder))
    run("mv " .. quoted(folder .. "/libchalk.so.new", folder .. "/libchalk.so"))
    run("cp " .. quoted(folder .. "/chalk/core.lua", folder .. "/core.lua.new"))
    replace(folder .. "/core.lua.new", "(local ABI) = %d+", "%1 = 4711")
    run("mv " .. quoted(folder .. "/core.lua.new", folder .. "/chalk/core.lua"))
  end

  -- Calls f with paths by which scripts find that package first.
  local function with_package(f, ...)
    local old_path, old_cpath = package.path, package.cpath
    package.path = ("%s/?.lua;%s/?/init.lua;%s"):format(folder, folder, old_path)
    package.cpath = folder .. "/?.so;" .. old_cpath
    local result = { f(...) }
    package.path, package.cpath = old_path, old_cpath
    return unpack(result)
  end

  local function options() return { env = { CHALK_LIBRARY = folder .. "/libchalk.so" } } end

  before_each(function()
    folder, path, go = files.name(), files.name(), files.name()
    run("mkdir " .. folder)
    install()
  end)

  after_each(function()
    os.execute("rm -rf " .. quoted(folder, go .. ".sent"))
    files.clean()
  end)

  it_compiled("of the package lets a running process work on, and refuses new VMs until it is restarted", function()
    local service = with_package(children.start, SERVICE, options(), go)
    upgrade()
    files.make_at(go)
    local code, output = service.finish()
    assert.equal(0, code, output)
    local vm, reloaded, rest = output:match "^([^\n]*)\n([^\n]*)\n(.*)$"
    assert.matches("^false\t.*" .. RESTART, vm)
    assert.matches("^false\t.*" .. RESTART, reloaded)
    -- The child's flush thread does not have the role, so it has loaded nothing of the new package.
    assert.equal("true\t3\t1\t1\n", rest)
    local sent = 0
    for delta in files.read(go .. ".sent"):gmatch "delta=(%d+)" do
      sent = sent + tonumber(delta)
    end
    assert.equal(5, sent)
  end)

  it_compiled(
    "of one of two programs that share a segment_path refuses the newer one, and the older one works on",
    function()
      local count = [[
      local client = require("chalk").new({ segment_path = arg[1] })
      local jobs = client:count("jobs")
      jobs:inc()
      io.write(require("support.fork").pid(), "\n")
      io.flush()
      require("support.wait").till(function() return io.open(arg[2]) end, 50)
      jobs:inc()
      print(jobs:value())
    ]]
      local service = with_package(children.start, count, options(), path, go)
      upgrade()
      local try = 'print(require("chalk").try_init({ segment_path = arg[1] }))'
      local code, output = with_package(children.run, try, options(), path)
      assert.same(
        { 0, "nil\t" .. RESTART .. ": the segment was made by another version of chalk\n" },
        { code, output }
      )
      files.make_at(go)
      assert.same({ 0, "2\n" }, { service.finish() })
      -- The segment is not created again even when no process uses it, so that the older version can still read it.
      code, output = with_package(children.run, try, options(), path)
      assert.equal(0, code)
      assert.matches(RESTART, output)
      local client = chalk.new { segment_path = path }
      assert.equal(2, client:count("jobs"):value())
    end
  )
end)

describe("a segment_path", function()
  local path

  before_each(function() path = files.name() end)

  after_each(files.clean)

  -- Makes a segment with some series, which no process uses any more.
  local function make()
    local script = [[
      local client = require("chalk").new({ segment_path = arg[1] })
      client:count("jobs", { tags = { { tag = "t" } } }):with("x"):inc(3)
      client:histogram("seconds"):record(1)
    ]]
    assert.same({ 0, "" }, { children.run(script, {}, path) })
  end

  local function write_at(offset, bytes)
    local file = assert(io.open(path, "r+b"))
    file:seek("set", offset)
    file:write(bytes)
    file:close()
  end

  local function size()
    local file = assert(io.open(path, "rb"))
    local n = file:seek "end"
    file:close()
    return n
  end

  -- init fails each time with this message, and neither crashes nor changes the file. Without segment_path chalk works.
  local function assert_refused(words)
    local before = size()
    local script = [[
      local chalk = require "chalk"
      for _ = 1, 2 do print(chalk.try_init({ segment_path = arg[1] })) end
      local other = chalk.new()
      other:count("c"):inc()
      print(other:count("c"):value())
    ]]
    local code, output = children.run(script, {}, path)
    local message = "nil\t" .. words .. "\n"
    assert.same({ 0, message .. message .. "1\n" }, { code, output })
    assert.equal(before, size())
  end

  it("of an older layout is refused: restart needed", function()
    make()
    write_at(8, "\0\1\0\0") -- the layout stands after the eight bytes with which the segment of every version begins
    assert_refused(RESTART .. ": the segment was made by another version of chalk")
  end)

  it("of random bytes is refused", function()
    local bytes = {}
    for i = 1, 100000 do
      bytes[i] = string.char(math.random(0, 255))
    end
    files.make_at(path)
    write_at(0, table.concat(bytes))
    assert_refused "the file is not a segment of chalk"
  end)

  it("of another kind of file is refused, and the file is not changed", function()
    files.make_at(path)
    write_at(0, "dear diary")
    assert_refused "the file is not a segment of chalk"
    assert.equal("dear diary", files.read(path))
  end)

  it("that others can write to is refused, except by its group if segment_group allows that", function()
    make()
    run("chmod 666 " .. path)
    assert_refused(("cannot use %s: everybody may write to it"):format(path))
    run("chmod 660 " .. path)
    assert_refused(("cannot use %s: its group may write to it (segment_group allows that)"):format(path))
    local client = chalk.new { segment_path = path, segment_group = true }
    assert.equal(3, client:count("jobs", { tags = { { tag = "t" } } }):with("x"):value())
  end)

  it("that was truncated is refused", function()
    make()
    for _, bytes in ipairs { size() - 1, 100000000, 100000 } do
      run(("truncate -s %d %s"):format(bytes, path))
      assert_refused "the file is a damaged segment of chalk"
    end
    run("truncate -s 100 " .. path)
    assert_refused "the file is not a segment of chalk"
  end)

  it("with random bytes inside is refused, or can be used", function()
    for i = 1, 10 do
      os.remove(path)
      make()
      local bytes = {}
      for k = 1, 1000 do
        bytes[k] = string.char(math.random(0, 255))
      end
      write_at(4096 * i * i, table.concat(bytes))
      local code, output = children.run(
        [[
        local client = require("chalk").new()
        local ok, message = client:try_init { segment_path = arg[1] }
        if not ok then return print(message) end
        local jobs = client:count("jobs", { tags = { { tag = "t" } } })
        for i = 1, 100 do jobs:with(i):inc() end
        client:histogram("seconds"):record(1)
        print(#client:text() > 0)
      ]],
        {},
        path
      )
      assert.equal(0, code, output)
      assert.is_true(output == "true\n" or output:find("damaged", 1, true) ~= nil, output)
    end
  end)

  it("left incomplete by a process that died while creating it is created again", function()
    for _, pause in ipairs { 0, 0.001, 0.002 } do
      os.remove(path)
      local flag = fork.shared(1)
      local pid = fork.child(function()
        flag[0] = 1
        chalk.new { segment_path = path }
        wait.sleep(60)
      end)
      wait.till(function() return flag[0] == 1 end)
      wait.sleep(pause)
      fork.kill(pid, fork.KILL)
      fork.wait(pid)
      local client = chalk.new { segment_path = path }
      client:count("jobs"):inc()
      assert.equal(1, client:count("jobs"):value())
    end
  end)
end)
