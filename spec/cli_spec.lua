--- `chalk` on the command line: the help that users find, and the output and exit codes that scripts rely on.

local chalk_command = require "support.chalk_command"
local files = require "support.files"

local COMMANDS = { "check", "annotate", "rules", "dashboards" }

describe("chalk", function()
  local folder

  before_each(function() folder = chalk_command.folder() end)
  after_each(function() folder:remove() end)

  it("shows its commands with help, --help and -h", function()
    local code, output, errors = folder:chalk "help"
    assert.same({ 0, "" }, { code, errors })
    for _, name in ipairs(COMMANDS) do
      assert.matches("\n  " .. name .. " +%l", output)
    end
    assert.same({ 0, output, "" }, { folder:chalk "--help" })
    assert.same({ 0, output, "" }, { folder:chalk "-h" })
  end)

  it("shows the same description of a command by help COMMAND, --help and -h", function()
    for _, name in ipairs(COMMANDS) do
      local code, output, errors = folder:chalk("help", name)
      assert.same({ 0, "" }, { code, errors })
      assert.same({ 0, output, "" }, { folder:chalk(name, "--help") })
      assert.same({ 0, output, "" }, { folder:chalk(name, "-h") })
      assert.matches("^Usage: chalk " .. name .. " ", output)
      for line in output:gmatch "[^\n]+" do
        assert.is_true(#line <= 110, line)
      end
    end
  end)

  it("has the same version as the library, the build and the manual", function()
    local version = require("chalk")._VERSION
    assert.same({ 0, version .. "\n", "" }, { folder:chalk "--version" })
    assert.equal(version, "chalk " .. files.read("CMakeLists.txt"):match "project%(chalk VERSION ([%d.]+) ")
    assert.matches('"' .. version .. '"', files.read "man/chalk.1", 1, true)
  end)

  it("has a manual with every command and every option, and no others", function()
    local manual = files.read("man/chalk.1"):gsub("\\%-", "-")
    for _, name in ipairs(COMMANDS) do
      local section = assert(manual:match("\n%.SS chalk " .. name .. "\n(.-)\n%.S[SH] "), name)
      local documented = {}
      for option in section:gmatch "\n%.TP\n[^\n]-%-%-(%l+)" do
        documented[#documented + 1] = option
      end
      local known = {}
      for _, option in ipairs(require("chalk.cli.command." .. name).options) do
        known[#known + 1] = option[1]
      end
      assert.same(known, documented)
    end
    local page = chalk_command.checkout .. "/man/chalk.1"
    local man = "env -u LD_PRELOAD LC_ALL=C.UTF-8 MANROFFSEQ= man --warnings -l " .. page
    local _, output = folder:shell("! command -v man >/dev/null || " .. man .. " 2>&1 >/dev/null")
    assert.equal("", output)
  end)

  for _, case in ipairs {
    { {}, "a COMMAND is needed" },
    { { "chek" }, 'unknown command "chek", did you mean "check"?' },
    { { "xyzzy" }, 'unknown command "xyzzy"' },
    { { "--verbose" }, "unknown option --verbose" },
    { { "help", "chek" }, 'unknown command "chek", did you mean "check"?' },
    { { "check" }, "check: a FILE is needed" },
    { { "check", "--togther", "a" }, 'check: unknown option --togther, did you mean "--together"?' },
    { { "check", "-x" }, "check: unknown option -x" },
    { { "check", "--quiet=yes", "a" }, "check: option --quiet takes no value" },
    { { "rules", "--require" }, "rules: option --require needs a MODULE" },
    { { "annotate" }, "annotate: --require MODULE is needed" },
    { { "dashboards" }, "dashboards: -o DIR is needed" },
  } do
    it("refuses the command line: chalk " .. table.concat(case[1], " "), function()
      local code, output, errors = folder:chalk(unpack(case[1]))
      assert.same({ 2, "", "chalk: " .. case[2] .. '\nTry "chalk help".\n' }, { code, output, errors })
    end)
  end

  it("fails when its output cannot be written", function()
    local code, _, errors = folder:shell(chalk_command.command "help" .. " >/dev/full")
    assert.same({ 1, "chalk: cannot write to standard output: No space left on device\n" }, { code, errors })
  end)

  it("runs through a link from any directory, and loads its own modules before others", function()
    folder:write("chalk/version.lua", 'return "of another chalk"\n')
    folder:shell("ln -s " .. chalk_command.binary .. " here")
    local luajit = os.getenv "LUAJIT" or "luajit"
    local clean = "env -u LUA_PATH -u LUA_CPATH "
    local version = require("chalk")._VERSION .. "\n"
    assert.same({ 0, version, "" }, { folder:shell(clean .. "LUA_PATH='./?.lua' " .. luajit .. " here --version") })
    assert.same({ 0, version, "" }, { folder:shell(clean .. "PATH=.:$PATH here --version") })
  end)
end)

describe("chalk check", function()
  local folder

  before_each(function()
    folder = chalk_command.folder()
    folder:write("a.json", '{ "metrics": [{ "name": "up", "type": "gauge" }] }')
    folder:write("b.json", '{ "metrics": [{ "name": "up", "type": "count" }, { "name": "x", "type": "count" }] }')
    folder:write("bad.json", '{ "metrics": [{ "name": "up", "type": "guage" }, { "nam": "x", "type": "count" }] }')
  end)

  after_each(function() folder:remove() end)

  it("prints how many metrics a file has, or nothing with --quiet", function()
    assert.same({ 0, "a.json: 1 metric\nb.json: 2 metrics\n", "" }, { folder:chalk("check", "a.json", "b.json") })
    assert.same({ 0, "", "" }, { folder:chalk("check", "-q", "a.json") })
  end)

  it("shows every error of every file with its field, and also the files that are right", function()
    local code, output, errors = folder:chalk("check", "bad.json", "a.json", "nowhere.json")
    assert.same({ 1, "a.json: 1 metric\n" }, { code, output })
    assert.equal(
      table.concat({
        'chalk: bad.json: metrics[1].type: unknown type "guage", did you mean "gauge"?',
        'chalk: bad.json: metrics[2]: missing field "name", expected a string',
        'chalk: bad.json: metrics[2]: unknown field "nam", did you mean "name"?',
        "chalk: nowhere.json: cannot be read: No such file or directory\n",
      }, "\n"),
      errors
    )
  end)

  it("finds a name that two files define differently with --together", function()
    local code, _, errors = folder:chalk("check", "--together", "a.json", "b.json")
    assert.equal(1, code)
    assert.matches('^chalk: b.json: metrics%[1%]: metric "up" is already defined differently', errors)
  end)

  it("takes words after -- as files", function()
    folder:write("-q", '{ "metrics": [{ "name": "up", "type": "gauge" }] }')
    assert.same({ 0, "-q: 1 metric\n", "" }, { folder:chalk("check", "--", "-q") })
  end)
end)
