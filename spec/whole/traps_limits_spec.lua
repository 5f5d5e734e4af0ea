--- Memory or disk space runs out: a tiny or full file system, a limit of the file size, of the address space or of a
--- control group. The application must not die of SIGBUS, SIGXFSZ or the kernel's out-of-memory killer, must not stall,
--- and must not get an error that is not necessary.

package.path = "spec/?.lua;" .. package.path

local children = require "support.children"
local commands = require "support.commands"
local files = require "support.files"
local fork = require "support.fork"

local MIB = 1024 * 1024

-- The beginning of all scripts. `record` makes series of a count and a histogram. `check` compares the counts in text()
-- and in a scrape with what was recorded.
local KIT = [[
  local chalk = require "chalk"
  local uv = require "luv"
  local socket = uv.new_tcp()
  socket:bind("127.0.0.1", 0)
  local address = "127.0.0.1:" .. socket:getsockname().port
  socket:close()
  uv.run()
  local tagged = { tags = { { tag = "t" } } }
  local count, latency, recorded

  local function start(options)
    options.flush_interval = 0.05
    options.exporters = { chalk.exporter.prometheus { listen = address } }
    local ok, message = chalk.try_init(options)
    if not ok then return ok, message end
    count, latency, recorded = chalk.count("c", tagged), chalk.histogram("h", tagged), 0
    return true
  end

  local function record(from, to, spread)
    for i = from, to do
      count:with("value " .. i):inc()
      local series = latency:with("value " .. i)
      for k = 1, spread or 5 do series:record(1.5 ^ (k + i % 7)) end
      recorded = recorded + 1
    end
  end

  local function sum(text, name)
    local all = 0
    for value in text:gmatch("\n" .. name .. "{[^\n]-} (%d+)") do all = all + value end
    return all
  end

  local function check()
    assert(chalk.flush(30))
    local scrape = assert(require("support.scrape").get(address))
    for _, text in ipairs { chalk.text(), scrape } do
      local found = sum(text, "c_total")
      assert(found == recorded, ("%d of %d counts"):format(found, recorded))
    end
    return chalk.info(), scrape
  end
]]

-- Runs a script to its end.
local function run(script, shell, ...) return children.run(KIT .. script, { shell = shell }, ...) end

local function succeeds(command) return commands.run("{ " .. command .. "; } >/dev/null 2>&1") end

-- Returns `it` if the test is possible here, or else a function that makes the test pending.
local function it_if(possible, why)
  return possible and it or function(name) pending(name .. " (" .. why .. ")") end
end

-- Programs with a sanitizer reserve and use more memory than these limits.
local it_plain = it_if(not (os.getenv "LD_PRELOAD" or ""):find("asan", 1, true), "not with a sanitizer")
local it_mounted = it_if(succeeds "unshare -m mount -t tmpfs none /mnt", "mounting is not allowed")

describe("without space", function()
  after_each(files.clean)

  -- It is mounted in the script's own namespace, so that nothing is left behind whatever happens.
  describe("on a file system of 1 MiB", function()
    local directory, shell

    before_each(function()
      directory = files.name()
      assert(commands.run("mkdir " .. directory))
      shell = ('unshare -m sh -c \'mount -t tmpfs -o size=1m none %s && exec "$0" "$@"\''):format(directory)
    end)

    after_each(function() os.execute("rmdir " .. directory) end)

    it_mounted("new series are folded, totals stay exact, and scrapes are answered", function()
      local code, output = run(
        [[
        assert(start { segment_path = arg[1] .. "/segment" })
        record(1, 5000)
        local info, scrape = check()
        local counted = scrape:match("\nchalk_errors_total{") ~= nil
        print(info.folded > 0, info.series > 10, info.memory <= 1024 * 1024, counted)
        os.exit(0)
      ]],
        shell,
        directory
      )
      assert.same({ 0, "true\ttrue\ttrue\ttrue\n" }, { code, output:match "[^\n]*\n$" }, output)
    end)

    it_mounted("that is full, init fails with the reason, and works once there is space", function()
      local code, output = run(
        [[
        local fill = arg[1] .. "/fill"
        os.execute("cat /dev/zero 2>/dev/null >" .. fill)
        local ok, message = start { segment_path = arg[1] .. "/segment" }
        print(ok, message)
        os.remove(fill)
        assert(start { segment_path = arg[1] .. "/segment" })
        record(1, 10)
        check()
        os.exit(0)
      ]],
        shell,
        directory
      )
      assert.equal(0, code, output)
      assert.matches("^nil\t[^\n]*No space left on device\n$", output)
    end)

    it_mounted("that fills up while the program runs, new series are folded and existing ones are kept", function()
      local code, output = run(
        [[
        local fill = arg[1] .. "/fill"
        assert(start { segment_path = arg[1] .. "/segment" })
        record(1, 20)
        os.execute("cat /dev/zero 2>/dev/null >" .. fill)
        record(1, 20)
        record(1, 3000)
        local folded = check().folded
        -- Another program comes, which finds no space for its own row of cells.
        local path = ("%s/segment"):format(arg[1])
        local other = require("chalk").new { segment_path = path }
        local c = other:count("c", tagged)
        for i = 1, 100 do c:with("value " .. i):inc() end
        recorded = recorded + 100
        check()
        os.remove(fill)
        record(4000, 4010)
        local text = chalk.text()
        check()
        -- This program recorded three into the series. The other program's record is there or in the overflow series.
        local kept, new = text:match('c_total{t="value 1"} (%d+)'), text:match('c_total{t="value 4005"} (%d+)')
        print(folded > 0, tonumber(kept) >= 3, new)
        os.exit(0)
      ]],
        shell,
        directory
      )
      assert.same({ 0, "true\ttrue\t1\n" }, { code, output:match "[^\n]*\n$" }, output)
    end)
  end)

  describe("under a limit of the file size", function()
    it("that is too small, init fails with the reason", function()
      local code, output = run([[ print(start {}) os.exit(0) ]], "ulimit -f 16384;")
      assert.equal(0, code, output)
      assert.matches("^nil\t[^\n]*file size limit", output)
    end)

    it("that is smaller than wanted, less is reserved, and said", function()
      local code, output = run(
        [[
        assert(start {})
        record(1, 1000)
        check()
        os.exit(0)
      ]],
        "ulimit -f 819200;"
      )
      assert.equal(0, code, output)
      assert.matches("only %d+ of 1024 MiB could be reserved", output)
    end)
  end)

  describe("under a limit of the address space", function()
    it_plain("that is too small, init fails with the reason", function()
      local code, output = run([[ print(start {}) os.exit(0) ]], "ulimit -v 150000;")
      assert.equal(0, code, output)
      assert.matches("^nil\t[^\n]*cannot reserve memory for a segment: Cannot allocate memory", output)
    end)

    it_plain("that is smaller than wanted, less is reserved, and said", function()
      local code, output = run(
        [[
        assert(start {})
        record(1, 1000)
        check()
        os.exit(0)
      ]],
        "ulimit -v 900000;"
      )
      assert.equal(0, code, output)
      assert.matches("only %d+ of 1024 MiB could be reserved", output)
    end)
  end)

  describe("in a control group of", function()
    local group

    -- Makes a control group of either version with a memory limit. Returns the command that runs a script in it.
    local function limited(bytes)
      local limits = { ["/sys/fs/cgroup/memory"] = "memory.limit_in_bytes", ["/sys/fs/cgroup"] = "memory.max" }
      for root, limit in pairs(limits) do
        group = ("%s/chalk-spec-%d"):format(root, fork.pid())
        local made = ("mkdir %s && test -w %s/%s && echo %d >%s/%s"):format(
          group,
          group,
          limit,
          bytes,
          group,
          limit
        )
        if succeeds(made) then return ('sh -c \'echo $$ > %s/cgroup.procs && exec "$0" "$@"\''):format(group) end
        os.execute(("rmdir %s 2>/dev/null"):format(group))
      end
      pending "cannot make a control group with a memory limit here"
    end

    after_each(function() os.execute(("rmdir %s 2>/dev/null"):format(group)) end)

    it_plain("64 MiB, a segment takes at most half of it by default, and series are folded", function()
      local shell = limited(64 * MIB)
      local code, output = run(
        [[
        assert(start { max_buckets = 4096 })
        for i = 1, 4000 do
          local series = latency:with("value " .. i)
          for k = 1, 1500 do series:record(1.01 ^ k) end
          if i % 20 == 0 then collectgarbage() end
        end
        count:with("x"):inc()
        recorded = 1
        local info = chalk.info()
        print(info.memory_limit / 2 ^ 20, info.memory / 2 ^ 20 > 28, chalk.flush(30), count:with("x"):value())
        os.exit(0)
      ]],
        shell
      )
      assert.same({ 0, "32\ttrue\ttrue\t1\n" }, { code, output:match "[^\n]*\n$" }, output)
    end)

    it_plain("any size, a segment takes at most memory_limit if that is given", function()
      local shell = limited(256 * MIB)
      local code, output = run(
        [[
        assert(start { memory_limit = 8 * 2 ^ 20 })
        record(1, 20000)
        local info = check()
        print(info.memory_limit / 2 ^ 20, info.memory <= info.memory_limit, info.folded > 0)
        os.exit(0)
      ]],
        shell
      )
      assert.same({ 0, "8\ttrue\ttrue\n" }, { code, output:match "[^\n]*\n$" }, output)
    end)
  end)
end)
