--- A process runs out of file descriptors. The application must live on, its records must count, and flushes must
--- continue once there are descriptors again. Each program runs with every number of free descriptors that could
--- matter.

package.path = "spec/?.lua;" .. package.path

local children = require "support.children"
local files = require "support.files"

local MOST = 14
-- MALLOC_PERTURB_ overwrites freed memory, so that a use of it shows.
local OPTIONS = { shell = "ulimit -n 64; ulimit -c 0;", env = { MALLOC_PERTURB_ = "165" } }

-- Arguments: the driver, the number of free descriptors, the exporter's file.
local COMMON = [[
  local driver, left, path = arg[1], tonumber(arg[2]), arg[3]
  local chalk, fork, wait = require "chalk", require "support.fork", require "support.wait"
  local jobs = chalk.count("jobs")
  jobs:inc(1)
  local options = { driver = driver, flush_interval = 3600,
    exporters = { chalk.exporter.custom("support.file_exporter", { path = path }) } }
  local function run_out()
    local all = {}
    repeat
      local file = io.open("/dev/null")
      all[#all + 1] = file
    until not file
    for _ = 1, left do table.remove(all):close() end
    return function()
      for _, file in ipairs(all) do file:close() end
    end
  end
]]

local INIT = COMMON
  .. [[
  local come_back = run_out()
  local ok, message = chalk.try_init(options)
  jobs:inc(10)
  come_back()
  if not ok then
    assert(message:find "file descriptors: Too many open files", message)
    assert(chalk.try_init(options))
  end
  jobs:inc(100)
  assert(chalk.flush())
  io.write "fine\n"
]]

-- The parent has the flusher's role and is killed while its child has few descriptors, from before the fork or after
-- it.
local CHILD = COMMON
  .. [[
  chalk.init(options)
  assert(chalk.flush())
  local ready = fork.shared(1)
  local parent = fork.pid()
  local come_back = arg[4] == "before" and run_out()
  fork.child(function()
    come_back = come_back or run_out()
    jobs:inc(10)
    ready[0] = 1
    wait.till(function() return fork.parent() ~= parent end)
    chalk.flush(0.4)
    jobs:inc(100)
    chalk.flush(0.4)
    come_back()
    assert(chalk.flush())
    io.write "fine\n"
    io.flush()
    os.exit(0)
  end)
  wait.till(function() return ready[0] == 1 end)
  fork.kill(parent, fork.KILL)
]]

-- The flusher itself runs out of descriptors, and must exit without any.
local HOLDER = COMMON
  .. [[
  chalk.init(options)
  assert(chalk.flush())
  local come_back = run_out()
  jobs:inc(10)
  chalk.flush(0.4)
  jobs:inc(100)
  come_back()
  assert(chalk.flush())
  io.write "fine\n"
  io.flush()
  run_out()
]]

-- Another thread takes the descriptors after chalk has checked that there are enough, and before luv creates its loop.
-- libuv's own pipe for signals is open already.
local RACE = COMMON
  .. [[
  local luv = require "chalk.flush.driver.luv"
  local ffi = require "ffi"
  require("support.vms").open():run("require 'luv'")
  local come_back = run_out()
  luv.need_descriptors = function() end
  local uv, message = luv.load()
  come_back()
  assert(uv or message)
  collectgarbage()
  collectgarbage()
  uv = assert(luv.load())
  local rang = false
  uv.new_timer():start(1, 0, function() rang = true end)
  uv.run()
  assert(rang)
  chalk.init(options)
  jobs:inc(110)
  assert(chalk.flush())
  io.write "fine\n"
]]

describe("without file descriptors", function()
  after_each(files.clean)

  -- Runs a program with each number of free descriptors, all at once. Some batch must have everything that was
  -- recorded.
  local function try(driver, program, when)
    local running = {}
    for left = 0, MOST do
      local path = files.name()
      running[left] = { path = path, child = children.spawn(program, OPTIONS, driver, left, path, when or "") }
    end
    local wrong = {}
    for left = 0, MOST do
      local output = running[left].child.pipe:read "*a" -- ends when the last process with the pipe has ended
      running[left].child.pipe:close()
      local seen = files.read(running[left].path)
      local fine = output:find("fine\n", 1, true) and seen:find("jobs{} total=111 ", 1, true)
      if not fine then wrong[#wrong + 1] = ("%d left: %s\n%s"):format(left, output, seen) end
    end
    assert.same({}, wrong)
  end

  it("luv can be loaded again after it could not create its loop", function() try("loop", RACE) end)

  for _, driver in ipairs { "thread", "loop", "manual" } do
    it("init fails with the reason and can be called again, driver " .. driver, function() try(driver, INIT) end)

    it("a process lives on and flushes later, driver " .. driver, function() try(driver, HOLDER) end)

    it("a child whose parent is killed takes over the role later, driver " .. driver, function()
      try(driver, CHILD, "before")
      try(driver, CHILD, "after")
    end)
  end
end)
