--- A service that forks and then starts chalk: what the child starts is its own.

package.path = "spec/?.lua;" .. package.path

local children = require("support.children")
local files = require("support.files")

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

  for _, driver in ipairs({ "thread", "loop", "manual" }) do
    it("with the driver " .. driver .. " has one flusher, which ends with shutdown", function()
      local path = files.name()
      local code, output = children.run(PROGRAM:format(driver), {}, path)
      assert.same({ 0, "" }, { code, output })
      assert.equal("jobs{} total=3 delta=3\nmore{} total=1 delta=1\n--\nshutdown\n", files.read(path))
    end)
  end
end)
