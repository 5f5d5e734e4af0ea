--- The process that flushes is killed, stopped or hangs. The others must continue to record, must see how old the last
--- flush is, and must take over the role if that is possible. Nothing may be lost or sent twice.

package.path = "spec/?.lua;" .. package.path

local chalk = require "chalk"
local children = require "support.children"
local committing = require "support.committing_exporter"
local core = require "chalk.core"
local files = require "support.files"
local fork = require "support.fork"
local wait = require "support.wait"

-- Arguments: the segment, the exporter's file, the number of metrics after which the exporter blocks, the file that
-- ends the program, the number of children.
local NODE = [[
  local chalk = require "chalk"
  local files = require "support.files"
  local fork = require "support.fork"
  local wait = require "support.wait"
  local options = { name = "sent", path = arg[2], stuck_after = tonumber(arg[3]) }
  chalk.init { segment_path = arg[1], flush_interval = 0.1, exporters = {
    chalk.exporter.custom("support.committing_exporter", options),
  } }
  local jobs = chalk.count("jobs", { tags = { { tag = "t" } } })
  local function work()
    while not io.open(arg[4]) do
      for i = 1, 100 do jobs:with(i % 5):inc() end
      wait.sleep(0.005)
    end
    assert(chalk.flush(20))
  end
  for _ = 1, tonumber(arg[5]) do fork.child(work) end
  io.write(fork.pid(), "\n")
  io.flush()
  work()
  print "ended"
  os.exit(0)
]]

local STOP, CONTINUE = 19, 18
local SOON = 2 -- seconds: one is promised, and a busy machine gets another one

describe("the process that flushes", function()
  local segment, sent, stop, client, jobs, nodes

  before_each(function()
    segment, sent, stop = files.name(), files.name(), files.name()
    nodes, client = {}, nil
  end)

  after_each(function()
    files.make_at(stop)
    for _, node in ipairs(nodes) do
      fork.kill(node.pid, CONTINUE)
    end
    for _, node in ipairs(nodes) do
      if not node.gone then
        if not node.killed then fork.kill(node.pid, fork.KILL) end
        node.finish()
      end
    end
    files.clean()
  end)

  local function start(stuck_after, forks)
    local node = children.start(NODE, {}, segment, sent, stuck_after or "never", stop, forks or 0)
    nodes[#nodes + 1] = node
    if not client then
      client = chalk.new { segment_path = segment }
      jobs = client:count("jobs", { tags = { { tag = "t" } } })
    end
    return node
  end

  local function total()
    local all = 0
    for value in client:text():gmatch "jobs_total{[^\n]- (%d+)\n" do
      all = all + tonumber(value)
    end
    return all
  end

  local function age() return tonumber(client:text():match "\nchalk_flush_age_seconds (%S+)") end
  local function holder() return client:info().holder end

  -- Kills a node and returns the time.
  local function kill(node)
    fork.kill(node.pid, fork.KILL)
    node.killed = true
    return core.C.chalk_now()
  end

  -- Ends all nodes, which flush once more, and checks that everything that was counted was sent. Each of the `kills`
  -- may have come between sending a difference and its commit, so that many may be sent twice.
  local function assert_all_sent(node, kills)
    files.make_at(stop)
    node.gone = true
    local code, output = node.finish()
    assert.same({ 0, "ended\n" }, { code, output })
    wait.till(function() return committing.sum(sent) >= total() end, 10, "the last flush")
    local sum, repeats = committing.sum(sent)
    assert.equal(total(), sum)
    assert.is_true(sum > 0)
    assert.is_true(repeats <= kills, repeats .. " differences were sent twice")
  end

  it("is succeeded within a second by another process when it is killed in the middle of a batch", function()
    local first = start(2)
    wait.till(function() return holder() == first.pid and committing.sum(sent) > 0 end)
    local second = start()
    wait.till(function() return total() > 1000 end)
    assert.equal(first.pid, holder())
    local killed = kill(first)
    wait.till(function() return holder() == second.pid end)
    local took = core.C.chalk_now() - killed
    assert.is_true(took < SOON, "took " .. took)
    assert_all_sent(second, 0)
  end)

  it("is succeeded by a process with an older configuration too, which keeps the role", function()
    local older = start()
    local newer = start()
    wait.till(function() return holder() == newer.pid and total() > 1000 end)
    local killed = kill(newer)
    wait.till(function() return holder() == older.pid end)
    local took = core.C.chalk_now() - killed
    assert.is_true(took < SOON, "took " .. took)
    for _ = 1, 50 do
      wait.sleep(0.02)
      assert.equal(older.pid, holder())
    end
    assert_all_sent(older, 1)
  end)

  it("is succeeded by its child, and that by the next child", function()
    local parent = start(nil, 2)
    wait.till(function() return holder() == parent.pid and client:info().writers >= 5 end)
    local killed = kill(parent)
    local holders = { parent.pid }
    for i = 1, 2 do
      wait.till(function() return holder() ~= holders[i] and holder() ~= 0 end)
      local took = core.C.chalk_now() - killed
      assert.is_true(took < SOON, "took " .. took)
      holders[i + 1] = holder()
      if i == 1 then killed = kill { pid = holders[2] } end
    end
    files.make_at(stop)
    local last
    wait.till(function()
      local before = last
      last = total()
      wait.sleep(0.2)
      return last == before and committing.sum(sent) == last
    end, 20, "the last flush")
    assert.is_true(select(2, committing.sum(sent)) <= 2)
  end)

  it("can be stopped: others still record, are scraped, see the age of the last flush, and take over", function()
    local first = start()
    -- It is stopped between two flushes, because others wait for a process that is stopped inside a lock.
    wait.till(function() return holder() == first.pid and client:info().flushed > 0 end)
    fork.kill(first.pid, STOP)
    local before, started = jobs:with("mine"):value(), core.C.chalk_now()
    repeat
      jobs:with("mine"):inc()
      jobs:with("mine " .. before):inc()
      before = before + 1
      assert.is_true(core.C.chalk_now() - started < 30, before .. " records beside a stopped flusher")
    until age() > 1.5 and before > 100
    assert.equal(before, jobs:with("mine"):value())
    assert.equal(first.pid, holder())
    local second, came = start(), core.C.chalk_now()
    wait.till(function() return holder() == second.pid end, 10, "the other process to take over the role")
    assert.is_true(core.C.chalk_now() - came < SOON)
    wait.till(function() return age() < 1 end)
    local then_ = committing.sum(sent)
    wait.till(function() return committing.sum(sent) > then_ end, 10, "flushes of the other process")
    fork.kill(first.pid, CONTINUE)
    wait.till(function() return total() > 2000 end)
    assert.equal(second.pid, holder())
    files.make_at(stop)
    first.gone = true
    assert.equal(0, (first.finish()))
    assert_all_sent(second, 1)
  end)

  it("can hang in an exporter: its own program still records, and another one takes over after it", function()
    local first = start(0)
    wait.till(function() return holder() == first.pid and total() > 500 end)
    wait.till(function() return age() > 1.5 end, 10, "the last flush to be old")
    local then_ = total()
    wait.till(function() return total() > then_ + 500 end, 10, "records of the process that hangs")
    assert.equal(0, committing.sum(sent))
    local second = start()
    wait.till(function() return client:info().writers >= 4 and total() > then_ + 2000 end)
    assert.equal(first.pid, holder())
    files.make_at(sent .. ".free")
    wait.till(function() return holder() == second.pid end, 10, "the newer configuration")
    files.make_at(stop)
    first.gone = true
    assert.equal(0, (first.finish()))
    assert_all_sent(second, 0)
    os.remove(sent .. ".free")
  end)

  it("can hang without making another process's flush wait longer than its time limit", function()
    local first = start(0)
    wait.till(function() return holder() == first.pid and age() > 1.5 end)
    for _, driver in ipairs { "manual", "loop", "thread" } do
      local other = chalk.new {
        segment_path = segment,
        driver = driver,
        flush_interval = 3600,
        exporters = {
          chalk.exporter.custom("support.committing_exporter", { name = driver, path = files.name() }),
        },
      }
      local started = core.C.chalk_now()
      local ok, message = other:flush(0.3)
      local took = core.C.chalk_now() - started
      assert.is_nil(ok)
      assert.matches("in time", message)
      assert.is_true(took >= 0.25 and took < 5, driver .. " took " .. took)
      other:shutdown(0.2)
    end
  end)
end)
