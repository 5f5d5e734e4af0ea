--- VMs are opened and closed all the time, as with a VM for each request, and there are more of them than slots. No
--- count may be lost, and nothing may be left behind. CHALK_VMS sets how many are opened one after the other (1,000).

package.path = "spec/?.lua;" .. package.path

local chalk = require "chalk"
local children = require "support.children"
local descriptors = require "support.descriptors"
local files = require "support.files"
local vms = require "support.vms"

local LIVES = tonumber(os.getenv "CHALK_VMS" or "1000")

local LIFE = [[
  local i = tonumber((...))
  local chalk = require "chalk"
  local spec = { tags = { { tag = "t" } } }
  local count, latency = chalk.count("vm_jobs", spec), chalk.histogram("vm_seconds", spec)
  count:with("all"):inc()
  count:with(i % 10):inc()
  latency:with(i % 10):record(i % 10 + 1)
  -- This is recorded while the VM is closing.
  local last = count:with("last")
  getmetatable(newproxy(true)).__gc = function() last:inc() end
]]

-- A finalizer that was created before chalk's, and so runs after it.
local LATE = [[
  local count
  held = newproxy(true)
  getmetatable(held).__gc = function()
    count:with("never seen"):inc()
    count { t = "neither" }:inc()
    count:with("all"):inc()
    count:remove { t = "all" }
    count:clear()
  end
  local chalk = require "chalk"
  count = chalk.count("vm_late", { tags = { { tag = "t" } } })
  count:with("all"):inc()
  for i = 1, 100 do count:with("t" .. i):inc() end
  count:remove { t = "t1" }
]]

-- The same, with functions of the library that were never called before.
local FIRST_CALLS = [[
  local chalk, count, gauge, histogram
  held = newproxy(true)
  getmetatable(held).__gc = function()
    for what, call in pairs {
      clear = function() count:clear() end,
      remove = function() count:remove { t = "x" } end,
      inc = function() count:with("x"):inc() end,
      set = function() gauge:set(1) end,
      value = function() return gauge:with():value() end,
      record = function() histogram:record(1) end,
      flush = function() chalk:flush() end,
      info = function() chalk:info() end,
      text = function() chalk:text() end,
      define = function() chalk:count("more") end,
    } do
      local ok, message = pcall(call)
      if not ok and message ~= "chalk: the VM is closing" then io.stderr:write(what, ": ", tostring(message), "\n") end
    end
  end
  chalk = arg[1] == "private" and require("chalk").new() or require "chalk.global"
  count = chalk:count("late_jobs", { tags = { { tag = "t" } } })
  gauge, histogram = chalk:gauge("late_load"), chalk:histogram("late_seconds")
]]

-- Runs in each of many VMs that are open at the same time.
local KEEP = [[
  local chalk = require "chalk"
  local spec = { tags = { { tag = "t" } } }
  local count, latency = chalk.count("many_jobs", spec), chalk.histogram("many_seconds", spec)
  local load = chalk.gauge("many_load", { tags = { { tag = "t" } }, across = "sum" })
  local c, h, g = count:with("x"), latency:with("x"), load:with("x")
  function work(n)
    for i = 1, n do
      c:inc()
      count:with("x"):inc()
      h:record(i)
      g:inc()
    end
  end
  work(100)
]]

local function resident() return tonumber(files.read("/proc/self/status"):match "VmRSS:%s*(%d+)") end

describe("VMs", function()
  -- This VM creates the segment that the others share, and reads the totals.
  local jobs

  local function live(from, to)
    for i = from, to do
      local vm = vms.open()
      vm:run(LIFE, tostring(i))
      vm:close()
    end
  end

  it("one after the other leave nothing but their counts", function()
    local spec = { tags = { { tag = "t" } } }
    jobs = chalk.count("vm_jobs", spec)
    local seconds = chalk.histogram("vm_seconds", spec)
    local warm = math.max(100, LIVES / 10)
    live(1, warm)
    collectgarbage()
    local before, memory, open = resident(), chalk.info().memory, descriptors.count()
    live(warm + 1, LIVES)
    collectgarbage()
    local grown = resident() - before
    -- A sanitizer's runtime keeps freed memory for a while.
    local limit = (os.getenv "LD_PRELOAD" or ""):find "san" and 1e6 or 2048
    assert.is_true(grown < limit, grown .. " KiB more")
    assert.same({ memory, 1 }, { chalk.info().memory, chalk.info().writers })
    assert.is_true(descriptors.count() <= open) -- fewer, if older garbage with descriptors was collected
    assert.equal(LIVES, jobs:with("all"):value())
    local singly, timed = 0, 0
    for i = 0, 9 do
      singly, timed = singly + jobs:with(i):value(), timed + seconds:with(i):value():count()
    end
    assert.same({ LIVES, LIVES }, { singly, timed })
    assert.is_true(jobs:with("last"):value() <= LIVES)
  end)

  it("that look up series while they are closing get nothing and do no harm", function()
    local late = chalk.count("vm_late", { tags = { { tag = "t" } } })
    for _ = 1, 3 do
      local vm = vms.open()
      vm:run(LATE)
      vm:close()
    end
    assert.same({ 3, 0 }, { late:with("all"):value(), late:with("never seen"):value() })
    late:clear()
  end)

  it("can call the library's functions until the end", function()
    for _, client in ipairs { "private", "global" } do
      assert.same({ 0, "" }, { children.run(FIRST_CALLS, { env = { MALLOC_PERTURB_ = "165" } }, client) })
    end
  end)

  it("keep exact totals when 300 are open at once and most share a slot", function()
    local spec = { tags = { { tag = "t" } } }
    local count, latency = chalk.count("many_jobs", spec), chalk.histogram("many_seconds", spec)
    local load = chalk.gauge("many_load", { tags = { { tag = "t" } }, across = "sum" })
    local all = {}
    for i = 1, 300 do
      all[i] = vms.open()
      all[i]:run(KEEP)
    end
    assert.equal(127, chalk.info().writers)
    for i = 1, 300 do
      all[i]:run "work(50)"
    end
    assert.same(
      { 300 * 300, 300 * 150, 300 * 150 },
      { count:with("x"):value(), latency:with("x"):value():count(), load:with("x"):value() }
    )
    count:clear()
    latency:clear()
    for i = 300, 1, -1 do
      all[i]:run "work(10)"
      all[i]:close()
    end
    assert.same(
      { 300 * 20, 300 * 10, 1 },
      { count:with("x"):value(), latency:with("x"):value():count(), chalk.info().writers }
    )
    local vm = vms.open()
    vm:run(KEEP)
    assert.equal(2, chalk.info().writers)
    vm:close()
  end)
end)
