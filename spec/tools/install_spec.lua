--- What tools/ installs for the specs: what is there is found in a read-only place, and what cannot be had costs no
--- wait, fails nothing, and is said.

package.path = "spec/?.lua;" .. package.path

local children = require "support.children"
local commands = require "support.commands"
local examples = require "support.examples"
local files = require "support.files"
local programs = require "support.programs"
local uv = require "luv"

local child = examples.child

-- The version that a tool installs of a program.
local function version_in(tool, name) return assert(files.read(tool):match("\n" .. name .. "=v?(%S+)")) end

-- What a tool prints, and what it says, with variables of the environment.
local function run(tool, variables)
  local errors = files.make()
  local pipe = assert(io.popen(("env -u LD_PRELOAD %s %s 2>%s </dev/null"):format(variables, tool, errors)))
  local output = pipe:read "*a"
  pipe:close()
  return output, files.read(errors)
end

describe("tools", function()
  local folder

  before_each(function()
    folder = files.name()
    assert(uv.fs_mkdir(folder, tonumber("755", 8)))
  end)

  after_each(function()
    commands.run("rm -rf " .. folder)
    files.clean()
  end)

  -- A server on loopback that has nothing; the paths it was asked for.
  local function empty_registry()
    local listener, asked = uv.new_tcp(), {}
    assert(listener:bind("127.0.0.1", 0))
    assert(listener:listen(16, function()
      local socket = uv.new_tcp()
      listener:accept(socket)
      socket:read_start(function(_, data)
        asked[#asked + 1] = data and data:match "^%u+ (%S+)"
        if data then socket:write "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" end
        socket:shutdown(function()
          if not socket:is_closing() then socket:close() end
        end)
      end)
    end))
    finally(function()
      listener:close()
      uv.run "nowait"
    end)
    return "http://127.0.0.1:" .. listener:getsockname().port, asked
  end

  it("receivers asks a registry that fails once, and says what there is not", function()
    if not programs.need "npm" or not programs.need "go" then return end
    local registry, asked = empty_registry()
    local process = child.spawn(child.find "env", {
      "-u",
      "LD_PRELOAD",
      "CHALK_RECEIVERS=" .. folder .. "/receivers",
      "npm_config_registry=" .. registry,
      "npm_config_cache=" .. folder .. "/npm",
      "npm_config_update_notifier=false",
      "GOPROXY=" .. registry,
      "GOFLAGS=-modcacherw",
      "GOMODCACHE=" .. folder .. "/go",
      "sh",
      "-c",
      "exec tools/receivers 2>&1",
    })
    finally(function() process:stop() end)
    assert.equal(0, process:finish(60), process.output)
    assert.is_nil(("\n" .. process.output):find "\netsy " or ("\n" .. process.output):find "\nexporter ")
    assert.matches("npm did not install statsd", process.output, 1, true)
    assert.matches("statsd_exporter [^\n]* was not built", process.output)
    local times = 0
    for _, path in ipairs(asked) do
      if path == "/statsd" then times = times + 1 end
    end
    assert.equal(1, times, table.concat(asked, " "))
  end)

  it("receivers and observer find what is installed where nothing can be written", function()
    if not commands.run "unshare -m true 2>/dev/null" then return pending "mounting is not allowed" end
    local places = {
      ("etsy-%s/node_modules/statsd/stats.js"):format(version_in("tools/receivers", "etsy")),
      ("exporter-v%s/statsd_exporter"):format(version_in("tools/receivers", "exporter")),
      version_in("tools/observer", "version") .. "/bin/metrics-observer",
    }
    for i, place in ipairs(places) do
      places[i] = folder .. "/" .. place
      assert(commands.run(("mkdir -p $(dirname '%s') && touch '%s' && chmod +x '%s'"):gsub("%%s", places[i])))
    end
    local inside = (
      "unshare -m sh -c 'mount --bind %s %s && mount -o remount,bind,ro %s && tools/receivers && "
      .. "exec tools/observer'"
    ):format(folder, folder, folder)
    local output, said = run(inside, ("CHALK_RECEIVERS=%s CHALK_OBSERVER=%s"):format(folder, folder))
    local expected = ("etsy %s\nexporter %s\n%s\n"):format(unpack(places))
    if not child.find "node" then expected = expected:gsub("^[^\n]*\n", "") end
    assert.equal(expected, output, said)
  end)

  it("that install nothing without npm, Go and cargo leave specs pending, on CI too, with the reason", function()
    for _, name in ipairs { "bash", "env", "sh", "dirname", "mkdir", "flock", "rm", "mv", "timeout", "tmux" } do
      local path = child.find(name)
      if path then assert(uv.fs_symlink(path, folder .. "/" .. name)) end
    end
    local luajit = child.find(os.getenv "LUAJIT" or "luajit")
    assert(uv.fs_symlink(luajit, folder .. "/luajit"))
    local code, output = children.run(
      [[
      local servers = require "support.statsd_servers"
      print(servers.missing "etsy")
      print(servers.missing "exporter")
      print(require("support.observer").install())
      os.exit(0)
    ]],
      {
        env = {
          CI = "true",
          PATH = folder,
          LUAJIT = "luajit",
          CHALK_RECEIVERS = folder .. "/receivers",
          CHALK_OBSERVER = folder .. "/observer",
        },
      }
    )
    assert.equal(0, code, output)
    assert.matches("etsy is not installed, by tools/receivers: [^\n]*there is no npm", output)
    assert.matches("exporter is not installed", output, 1, true)
    assert.matches("there is no go", output, 1, true)
    if child.find "tmux" then assert.matches("\nnil\t[^\n]*there is no cargo", output) end
  end)

  it("setup says once that apt has no lists", function()
    if not programs.need "apt-get" then return end
    local settings = (
      'Dir::State::lists "%s/lists"; Dir::State::status "%s/status"; Dir::Cache "%s/cache"; '
      .. 'Dir::Etc::sourcelist "/dev/null"; Dir::Etc::sourceparts "/dev/null";'
    ):format(folder, folder, folder)
    assert(
      commands.run(
        ("cd %s && mkdir -p lists/partial cache/archives/partial dpkg/info && touch status dpkg/status"):format(
          folder
        )
      )
    )
    local variables = ("APT_CONFIG=%s DPKG_ADMINDIR=%s/dpkg"):format(files.make(settings), folder)
    local _, said = run("tools/setup demo", variables)
    local lines = {}
    for line in said:gmatch "tools/setup: apt knows[^\n]*" do
      lines[#lines + 1] = line
    end
    assert.same({ "tools/setup: apt knows none of these: run apt-get update as root, and then this again" }, lines)
  end)

  -- What the check of the floors says of the sources with one line more in a file of lua/.
  local function floors_with(file, line)
    assert(
      commands.run(
        ("mkdir %s/tools && cp tools/floors %s/tools && cp -r src lua %s"):format(folder, folder, folder)
      )
    )
    local changed = assert(io.open(folder .. "/lua/chalk/" .. file, "a"))
    changed:write("\n" .. line .. "\n")
    changed:close()
    return (run(folder .. "/tools/floors", ""))
  end

  for what, case in pairs {
    ["a module that requires one above it"] = {
      "define/naming.lua",
      'local view = require "chalk.read.view"',
      "define/naming requires read/view, which is not below it\n",
    },
    ["one that does so late"] = {
      "net/gzip.lua",
      'local function late() return require("chalk.flush.events").mask end',
      "net/gzip requires flush/events, which is not below it\n",
    },
    ["modules that require each other"] = {
      "base/json.lua",
      'local quote = require "chalk.base.quote"',
      "a circle: base/",
    },
    ["an exporter that knows another one"] = {
      "exporter/stream/fields.lua",
      'local names = require "chalk.exporter.statsd.names"',
      "exporter/stream/fields requires exporter/statsd/names, which is another exporter's\n",
    },
    ["a module that calls the library and is not listed"] = {
      "define/naming.lua",
      'local C = require("chalk.core").C',
      "define/naming calls the library, and tools/floors does not list it\n",
    },
    ["a room that runs without the library and reaches it"] = {
      "base/lists.lua",
      'local core = require "chalk.core"',
      "define/tree is to run without the library, and requires base/lists, which requires core\n",
    },
  } do
    it("floors finds " .. what, function()
      local said = floors_with(case[1], case[2])
      assert.truthy(said:find(case[3], 1, true), said)
    end)
  end
end)
