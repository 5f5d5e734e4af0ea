--- A service that forks and then starts chalk: what the child starts is its own.

package.path = "spec/?.lua;" .. package.path

local children = require "support.children"
local files = require "support.files"

local PROGRAM = [[
  local chalk, fork = require "chalk", require "support.fork"
  local jobs = chalk.count "jobs"
  jobs:inc()
  local function threads()
    local pipe = io.popen("ls /proc/" .. fork.pid() .. "/task")
    local _, n = pipe:read("*a"):gsub("%%d+", "")
    pipe:close()
    return n
  end
  local child = fork.child(function()
    chalk.init {
      driver = "%s",
      flush_interval = 3600,
      exporters = { chalk.exporter.custom("support.file_exporter", { path = arg[1] }) },
    }
    local before = threads()
    jobs:inc(2)
    chalk.count("more"):inc()
    assert(threads() == before, "the child has started more threads")
    assert(chalk.shutdown())
  end)
  os.exit(fork.wait(child) or 100)
]]

describe("a child that calls init", function()
  after_each(files.clean)

  for _, driver in ipairs { "thread", "loop", "manual" } do
    it("with the driver " .. driver .. " has one flusher, which ends with shutdown", function()
      local path = files.name()
      local code, output = children.run(PROGRAM:format(driver), {}, path)
      assert.same({ 0, "" }, { code, output })
      assert.equal("jobs{} total=3 delta=3\nmore{} total=1 delta=1\n--\nshutdown\n", files.read(path))
    end)
  end
end)

-- The parent's last flush has looked at the counts already when the child counts once more and ends.
local LEAVING = [[
  local chalk, fork, wait = require "chalk", require "support.fork", require "support.wait"
  local flags = fork.shared(2)
  chalk.init {
    flush_interval = 3600,
    exporters = { chalk.exporter.custom("support.file_exporter", { path = arg[1], yields = 600 }) },
  }
  local jobs = chalk.count "jobs"
  local child = fork.child(function()
    jobs:inc()
    flags[0] = 1
    wait.till(function() return flags[1] == 1 end)
    wait.sleep(0.2)
    jobs:inc()
    os.exit(0)
  end)
  wait.till(function() return flags[0] == 1 end)
  jobs:inc()
  flags[1] = 1
  assert(chalk.shutdown())
  os.exit(fork.wait(child))
]]

-- arg: the exporter's file, the driver.
local STOPPED = [[
  local chalk, fork, wait = require "chalk", require "support.fork", require "support.wait"
  local jobs = chalk.count "jobs"
  chalk.init {
    driver = arg[2],
    flush_interval = 0.05,
    exporters = { chalk.exporter.custom("support.file_exporter", { path = arg[1] }) },
  }
  jobs:inc()
  assert(chalk.shutdown())
  os.exit(fork.wait(fork.child(function()
    jobs:inc()
    wait.sleep(0.5)
    jobs:inc()
    assert(chalk.flush())
    os.exit(0)
  end)))
]]

for _, driver in ipairs { "thread", "loop", "manual" } do
  it("a child that is forked after the shutdown of the driver " .. driver .. " exports nothing", function()
    local path = files.name()
    local code, output = children.run(STOPPED, {}, path, driver)
    assert.same({ 0, "" }, { code, output })
    assert.equal("jobs{} total=1 delta=1\n--\nshutdown\n", files.read(path))
    files.clean()
  end)
end

it("what a child counts while its parent flushes last is flushed by the child", function()
  local path, sum = files.name(), 0
  local code, output = children.run(LEAVING, {}, path)
  assert.same({ 0, "" }, { code, output })
  for delta in files.read(path):gmatch "delta=(%d+)" do
    sum = sum + tonumber(delta)
  end
  assert.equal(3, sum, files.read(path))
  files.clean()
end)
