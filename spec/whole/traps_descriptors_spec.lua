--- Running out of file descriptors: the application lives, what it records counts, and flushing goes on once there are
--- descriptors again. Each program is tried with every number of descriptors left that could matter.

package.path = "spec/?.lua;" .. package.path

local children = require "support.children"
local files = require "support.files"

local MOST = 14
-- Memory that was freed is overwritten, so that its use shows.
local OPTIONS = { shell = "ulimit -n 64; ulimit -c 0;", env = { MALLOC_PERTURB_ = "165" } }

-- arg: driver, descriptors left, the exporter's file
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

-- The parent has the role, and is killed when its child has few descriptors left, before the fork or after it.
local CHILD = COMMON
  .. [[
  chalk.init(options)
  assert(chalk.flush())
  local told = fork.shared(1)
  local parent = fork.pid()
  local come_back = arg[4] == "before" and run_out()
  fork.child(function()
    come_back = come_back or run_out()
    jobs:inc(10)
    told[0] = 1
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
  wait.till(function() return told[0] == 1 end)
  fork.kill(parent, fork.KILL)
]]

-- The flusher itself runs out of them, and has to end without any.
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

-- Between the look and luv's loop somebody else takes the descriptors. libuv's own pipe for signals is there already.
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

  -- Runs a program with each number of descriptors, side by side. A batch has to have all that was recorded.
  local function try(driver, program, when)
    local running = {}
    for left = 0, MOST do
      local path = files.name()
      running[left] = { path = path, child = children.spawn(program, OPTIONS, driver, left, path, when or "") }
    end
    local wrong = {}
    for left = 0, MOST do
      local output = running[left].child.pipe:read "*a" -- to the end of the last process that has it
      running[left].child.pipe:close()
      local seen = files.read(running[left].path)
      local fine = output:find("fine\n", 1, true) and seen:find("jobs{} total=111 ", 1, true)
      if not fine then wrong[#wrong + 1] = ("%d left: %s\n%s"):format(left, output, seen) end
    end
    assert.same({}, wrong)
  end

  it("a loop that luv could not make is forgotten", function() try("loop", RACE) end)

  for _, driver in ipairs { "thread", "loop", "manual" } do
    it("init says so, and can be called again, driver " .. driver, function() try(driver, INIT) end)

    it("a process lives on and flushes later, driver " .. driver, function() try(driver, HOLDER) end)

    it("a child whose parent is killed takes over later, driver " .. driver, function()
      try(driver, CHILD, "before")
      try(driver, CHILD, "after")
    end)
  end
end)
