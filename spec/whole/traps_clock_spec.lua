--- The machine's clock is set back or forward by an hour, as an administrator, NTP or a resumed virtual machine does.
--- Flushes must keep their interval, series must become idle by the time that has really passed, and durations must be
--- the real ones.

package.path = "spec/?.lua;" .. package.path

local children = require "support.children"
local commands = require "support.commands"
local files = require "support.files"
local ports = require "support.ports"

local SOURCE = "spec/fixtures/clock.c"

-- Arguments: the driver, and the address of the listener.
local SCRIPT = [[
  local chalk = require "chalk"
  local core = require "chalk.core"
  local scrape = require "support.scrape"
  local uv = require "luv"
  local wait = require "support.wait"
  local ffi, now = core.ffi, core.C.chalk_now
  ffi.cdef "void clock_step(long seconds);"

  local INTERVAL = 0.2
  local client = chalk.new {
    driver = arg[1], flush_interval = INTERVAL, idle_timeout = { count = 1800, gauge = 1800, histogram = 1 },
    exporters = { chalk.exporter.prometheus { listen = arg[2] } },
  }
  local tagged = { tags = { { tag = "t" } } }
  local jobs, level = client:count("jobs", tagged), client:gauge("level", tagged)
  local times = client:histogram("times", tagged)
  jobs:with("idle"):inc(7)
  level:with("idle"):set(7)
  local busy, recorded = jobs:with("busy"), 0

  local function till(condition, what)
    wait.till(function()
      busy:inc()
      recorded = recorded + 1
      if arg[1] == "loop" then uv.run "nowait" end
      return condition()
    end, 20, what)
  end

  local function flushes() return client:info().done end

  -- Waits for four flushes, and checks that there are no more than the interval allows.
  local function assert_rhythm()
    local before, started = flushes(), now()
    till(function() return flushes() >= before + 4 end, "flushes")
    local n, most = flushes() - before, (now() - started) / INTERVAL + 2
    assert(n <= most, n .. " flushes where at most " .. most .. " are due")
  end

  local function assert_all_there()
    assert(jobs:with("busy"):value() == recorded, "counts left")
    assert(jobs:with("idle"):value() == 7 and level:with("idle"):value() == 7, "an idle series left")
    local age = tonumber(client:text():match "\nchalk_flush_age_seconds (%S+)")
    assert(age >= 0 and age < 20, "the last flush was " .. age .. " s ago")
    assert(client:flush(20))
    if arg[1] == "thread" then
      assert(assert(scrape.get(arg[2])):find('\njobs_total{t="idle"} 7\n', 1, true))
    end
  end

  local function set_clock(to)
    local clock, timer = os.time(), now()
    times:with("step " .. to):time(function() ffi.C.clock_step(to) end)
    return os.time() - clock, now() - timer, times:with("step " .. to):value():sum()
  end

  local shift = 0
  assert_rhythm()
  for _, to in ipairs { 3600, 0, -3600, 0 } do
    local moved, passed, timed = set_clock(to)
    assert(math.abs(moved - (to - shift)) < 30, "the clock moved by " .. moved)
    assert(passed >= 0 and passed < 30 and timed >= 0 and timed < 30, "it took " .. passed .. " or " .. timed .. " s")
    shift = to
    assert_rhythm()
    assert_all_there()
    -- The histogram's series is idle a second after its last record, whatever the clock says.
    till(function() return not client:text():find("times_count{", 1, true) end, "an idle series to leave")
  end
  assert(client:shutdown(20))
  print "well"
]]

describe("a clock that is set", function()
  local shim

  setup(function()
    shim = files.name()
    local command = ("%s -shared -fPIC -o %s %s"):format(os.getenv "CC" or "cc", shim, SOURCE)
    if not commands.run(command) then shim = nil end
  end)

  teardown(files.clean)

  for _, driver in ipairs { "thread", "loop" } do
    it("back and forward by an hour changes nothing for the " .. driver .. " driver", function()
      if not shim then return pending "there is no C compiler" end
      local others = os.getenv "LD_PRELOAD" -- a sanitizer's runtime must come first
      local env = { LD_PRELOAD = (others and others .. ":" or "") .. shim }
      local address = "127.0.0.1:" .. ports.tcp()
      assert.same({ 0, "well\n" }, { children.run(SCRIPT, { env = env }, driver, address) })
    end)
  end
end)
