--- The event stream at the end of VMs and processes. If this file fails, a process crashes or records are lost when a
--- VM ends, or a process forks, dies or runs out of descriptors, while clients are connected.

local beds = require "support.stream_bed"
local children = require "support.children"
local files = require "support.files"
local fork = require "support.fork"
local stream_client = require "support.stream_client"
local wait = require "support.wait"

-- The allocator overwrites freed memory, so that its use is noticed.
local ENV = { MALLOC_PERTURB_ = "165" }

-- A program with a connected client that ends in some way. Its arguments: driver, port, and the way it ends.
local COMMON = [[
  local chalk, core, uv = require "chalk", require "chalk.core", require "luv"
  local fork, wait = require "support.fork", require "support.wait"
  local driver, port = arg[1], arg[2]
  chalk.init { driver = driver, flush_interval = 3600, exporters = {
    chalk.exporter.stream { listen = "127.0.0.1:" .. port, buffer_size = 100000 },
  } }
  local jobs = chalk.count("jobs")
  jobs:inc(0)
  local alive = uv.new_timer()
  alive:start(1, 1, function() end)
  local function run_once()
    if driver == "loop" then uv.run "once" end
    if driver == "manual" then chalk.flush() end
  end
  local function clients() return tonumber(chalk.text():match 'chalk_stream_clients{[^\n]*} (%d+)' or 0) end
  local function connected(n)
    wait.till(function() run_once() return clients() == n end, 20, n .. " clients")
  end
]]

local ENDS = COMMON
  .. [[
  io.write(fork.pid(), "\n")
  io.flush()
  connected(1)
  jobs:inc(1)
  run_once()
  jobs:inc(2)
  alive:close()
  uv.run "nowait"
  if arg[3] == "exit" then os.exit(0) end
  if arg[3] == "close" then os.exit(0, true) end
  if arg[3] == "error" then error "an end" end
]]

-- A parent is killed while a client is connected. The child has recorded before, and serves the stream from then on,
-- until a file exists.
local ORPHAN = COMMON
  .. [[
  local parent = fork.pid()
  fork.child(function()
    wait.till(function() return clients() == 1 end, 30)
    jobs:inc(1)
    wait.till(function() return fork.parent() ~= parent end, 30)
    wait.till(function() -- whether a client is there, or still the parent's
      run_once()
      jobs:inc(2)
      return io.open(arg[3])
    end, 30)
    chalk.shutdown()
  end)
  io.write(fork.pid(), "\n")
  io.flush()
  connected(1)
  wait.till(function() run_once() return false end, 30)
]]

-- A process that forks before its loop has run.
local EARLY = [[
  local chalk, fork, uv = require "chalk", require "support.fork", require "luv"
  chalk.init { driver = "loop", exporters = { chalk.exporter[arg[1] ] { listen = "127.0.0.1:" .. arg[2] } } }
  local jobs = chalk.count("jobs")
  jobs:inc()
  local child = fork.child(function()
    local timer, calls = uv.new_timer(), 0
    timer:start(1, 1, function()
      calls = calls + 1
      if calls == 10 then jobs:inc() end
      if calls == 20 then uv.stop() end
    end)
    uv.run()
    timer:close()
    assert(jobs:with():value() == 2)
  end)
  print(fork.wait(child))
  os.exit(0)
]]

describe("the stream", function()
  local port, clients, node

  before_each(function()
    port, clients, node = beds.port(), {}, nil
  end)

  after_each(function()
    for _, client in ipairs(clients) do
      client:close()
    end
    if node then node.finish() end
    files.clean()
  end)

  local function connect()
    local client = wait.till(function() return stream_client.connect(port) end)
    clients[#clients + 1] = client
    return client
  end

  for _, driver in ipairs { "thread", "loop", "manual" } do
    for _, how in ipairs { "return", "exit", "close", "error" } do
      it(("contains the last records of a VM that ends by %s, driver %s"):format(how, driver), function()
        node = children.start(ENDS, { env = ENV }, driver, port, how)
        local client = connect()
        client:till(function() return client.ended end)
        assert.same({ "jobs{} increment_counter 1", "jobs{} increment_counter 2" }, client:lines())
        local code, output = node.finish()
        node = nil
        assert.equal(how == "error" and 1 or 0, code, output)
        if how ~= "error" then assert.equal("", output) end
      end)
    end

    it("goes on in a child whose parent is killed, driver " .. driver, function()
      local stop = files.name()
      node = children.start(ORPHAN, { env = ENV }, driver, port, stop)
      local first = connect()
      first:till(function() return #first.metrics == 1 end)
      fork.kill(node.pid, fork.KILL)
      first:till(function() return first.ended end) -- though the child lives
      local second = connect()
      second:till(function() return #second.metrics > 2 end)
      assert.equal("jobs{} increment_counter 2", second:lines()[3])
      files.make_at(stop)
      second:till(function() return second.ended end)
    end)
  end

  for _, exporter in ipairs { "stream", "prometheus" } do
    it(("of a parent does not disturb the loop of a child, exporter %s"):format(exporter), function()
      local code, output = children.run(EARLY, { env = ENV }, exporter, port)
      assert.same({ 0, "0\n" }, { code, output })
    end)
  end

  it("waits if descriptors have run out, and accepts clients when there are descriptors again", function()
    node = children.start(COMMON .. [[
      connected(0)
      local files = {}
      while true do
        local file = io.open("/dev/null")
        if not file then break end
        files[#files + 1] = file
      end
      io.write(fork.pid(), "\n")
      io.flush()
      wait.sleep(0.3)
      assert(clients() == 0)
      local before = os.clock()
      wait.sleep(0.2)
      assert(os.clock() - before < 0.1, "it spins")
      for _, file in ipairs(files) do file:close() end
      connected(2)
      jobs:inc(3)
      connected(0)
      os.exit(0)
    ]], { shell = "ulimit -n 40;" }, "thread", port)
    local one, other = connect(), connect()
    one:till(function() return #one.metrics == 1 end)
    other:till(function() return #other.metrics == 1 end)
    one:close()
    other:close()
    local code, output = node.finish()
    node = nil
    assert.same({ 0, "" }, { code, output })
  end)
end)
