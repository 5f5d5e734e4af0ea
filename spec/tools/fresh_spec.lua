--- tools/fresh leaves nothing behind however it ends. A stand-in for mmdebstrap mounts a file system in the root
--- directory, as mmdebstrap does, and never ends.

package.path = "spec/?.lua;" .. package.path

local commands = require "support.commands"
local examples = require "support.examples"
local files = require "support.files"
local uv = require "luv"

local child = examples.child

local STAND_IN = [[#!/bin/sh
for word; do case $word in */root) root=$word ;; esac; done
mkdir -p "$root/proc" && mount -t tmpfs none "$root/proc" && touch "$root/proc/mounted"
echo $$ >"$TMPDIR/../pid"
exec sleep 600
]]

local possible = uv.getuid() == 0 and commands.run "unshare -m true 2>/dev/null"

describe("tools/fresh", function()
  local folder, process

  before_each(function()
    folder = files.name()
    assert(commands.run(("mkdir -p '%s/bin' '%s/roots'"):gsub("%%s", folder)))
  end)

  after_each(function()
    if process then process:stop() end
    process = nil
    commands.run("rm -rf --one-file-system " .. folder)
    files.clean()
  end)

  local function program(text)
    local path = folder .. "/bin/mmdebstrap"
    local file = assert(io.open(path, "w"))
    file:write(text)
    file:close()
    assert(uv.fs_chmod(path, tonumber("755", 8)))
  end

  -- Spawns a command with the folder's programs first on PATH.
  local function spawn(...)
    local temporary, path = "TMPDIR=" .. folder .. "/roots", "PATH=" .. folder .. "/bin:" .. os.getenv "PATH"
    return child.spawn(child.find "env", { "-u", "LD_PRELOAD", temporary, path, ... })
  end

  -- Starts tools/fresh with the stand-in after a shell command, in its own mount namespace.
  local function start(before)
    program(STAND_IN)
    process = spawn("unshare", "-m", "sh", "-c", before .. "exec tools/fresh 2>&1")
    assert(child.wait(function() return files.read(folder .. "/pid") ~= "" end, 30), process.output)
  end

  local function roots()
    local names, scan = {}, assert(uv.fs_scandir(folder .. "/roots"))
    for name in function() return uv.fs_scandir_next(scan) end do
      names[#names + 1] = folder .. "/roots/" .. name
    end
    return names
  end

  local function it_roots(name, body)
    it(name, function()
      if not possible then return pending "needs root's rights and namespaces" end
      body()
    end)
  end

  for signal, code in pairs { sigint = 130, sigterm = 143 } do
    it_roots("leaves no root, no mount and no process when it is ended by " .. signal, function()
      start ""
      assert.equal(1, #roots())
      uv.kill(process.pid, signal)
      assert.equal(code, process:finish(30), process.output)
      assert.same({}, roots())
      assert.is_false(commands.run(("grep -q ' %s/' /proc/self/mountinfo"):format(folder)))
      assert.is_false(commands.run(("grep -qs 'TMPDIR=%s/' /proc/[0-9]*/environ"):format(folder)))
    end)
  end

  it_roots("deletes nothing when something is still mounted in its root", function()
    -- Another process holds a mount below the root directory, in the namespace in which tools/fresh deletes it.
    start(([[
      { while ! [ -e '%s'/pid ]; do sleep 0.01; done
        cd '%s'/roots/* && mkdir held && mount -t tmpfs none held && cd held && touch kept
        exec sh -c 'echo $$ >"$0/held"; exec sleep 600' '%s'; } >/dev/null 2>&1 &
    ]]):gsub("%%s", folder))
    assert(child.wait(function() return files.read(folder .. "/held") ~= "" end, 30), process.output)
    finally(function() uv.kill(tonumber(files.read(folder .. "/held")), "sigkill") end)
    uv.kill(process.pid, "sigterm")
    assert.equal(143, process:finish(30), process.output)
    assert.matches("not deleted, because something is mounted below: [^\n]*/chalk%-fresh", process.output)
    assert.equal(1, #roots())
    assert.truthy(uv.fs_stat(roots()[1] .. "/root"))
  end)

  it("says why it cannot make a root directory, and fails", function()
    local names = { "bash", "env", "dirname", "id", "git", "unshare", "true" }
    for _, name in ipairs(names) do
      assert(uv.fs_symlink(assert(child.find(name), name), folder .. "/bin/" .. name))
    end
    process = child.spawn(
      child.find "env",
      { "-u", "LD_PRELOAD", "CI=true", "PATH=" .. folder .. "/bin", "bash", "-c", "exec tools/fresh 2>&1" }
    )
    assert.equal(1, process:finish(30), process.output)
    assert.matches("^tools/fresh: cannot make a root directory: [^\n]+\n0 passed, 1 failed\n$", process.output)
  end)

  it_roots("fails if mmdebstrap fails, and leaves nothing behind", function()
    program "#!/bin/sh\nexit 7\n"
    process = spawn("bash", "-c", "exec tools/fresh 2>&1")
    assert.equal(1, process:finish(60), process.output)
    assert.matches("cannot make a root directory: mmdebstrap failed\n0 passed, 1 failed\n$", process.output)
    assert.same({}, roots())
  end)
end)
