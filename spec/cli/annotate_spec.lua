--- A user who runs `chalk annotate` gets links above wrapped functions, and nothing else in the sources changes.

local uv = require "luv"
local annotate = require "chalk.cli.annotate"
local chalk_command = require "support.chalk_command"

local LINKS = { request_rate = "http://p/rate", error_ratio = "http://p/errors?e=f(x)" }

local function f(line, name) return { name = name or "find", module = "users", line = line, links = LINKS } end

local function block(dashes, indent, ending, name)
  local lines = {
    " <!-- chalk:links users." .. (name or "find") .. " -->",
    " - [Request rate](http://p/rate)",
    " - [Error ratio](http://p/errors?e=f%28x%29)",
    " <!-- /chalk:links -->",
  }
  for i, line in ipairs(lines) do
    lines[i] = (indent or "") .. (dashes or "---") .. line .. (ending or "\n")
  end
  return table.concat(lines)
end

local function line_of(text, content)
  local n = 0
  for line in text:gmatch "([^\r\n]*)\r?\n" do
    n = n + 1
    if line == content then return n end
  end
end

-- Expects a block in the place of "@@" in the source. A second run on the new text, in which the function is further
-- down, must change nothing, and a run without functions must give the old text.
local function expect(source, one, expected)
  local plain = source:gsub("@@", "")
  local text = assert(annotate.annotate(plain, { one }))
  assert.equal((source:gsub("@@", function() return expected end)), text)
  local content = plain:match("^" .. ("[^\r\n]*\r?\n"):rep(one.line - 1) .. "([^\r\n]*)")
  local moved = f(assert(line_of(text, content)), one.name)
  assert.equal(text, annotate.annotate(text, { moved }))
  assert.equal(plain, annotate.annotate(text, {}))
end

describe("a block of links", function()
  it("stands above the function as a documentation comment with the same indentation", function()
    expect("local a\n@@local function find() end\n", f(2), block())
    expect("return {\n@@\tfind = function() end,\n}\n", f(2), block("---", "\t"))
  end)

  it("continues the comment above the function, before its tags", function()
    expect("--- Finds.\n@@local function find() end\n", f(2), block())
    expect("--- Finds.\n-- Much more.\n@@function find() end\n", f(3), block "--")
    expect("-- plain\n@@function find() end\n", f(2), block "--")
    expect("--- Finds.\n@@---@param a string\n---@return nil\nfunction find(a) end\n", f(4), block())
    expect("--- Finds.\n@@-- @param a\nfunction find(a) end\n", f(3), block())
    expect("@@---@param a string\nfunction find(a) end\n", f(2), block())
    expect("--- Of something else.\n\n@@function find() end\n", f(3), block())
    expect("--[[ long\n comment ]]\n@@function find() end\n", f(3), block())
  end)

  it("is written once for each function of a line", function()
    local both = { f(1, "find"), f(1, "create") }
    local text = annotate.annotate("return { find = function() end, create = function() end }\n", both)
    assert.equal(block(nil, nil, nil, "create") .. block(), text:match "^(.*\n)return")
  end)

  it("never lands inside a string or comment that spans lines", function()
    expect("@@local s, find = [[\ntext\n]], function() end\n", f(3), block())
    expect("@@local s, find = 'a\\\nb', function() end\n", f(2), block())
    expect("@@local s, find = 'a\\z  \n\n  b', function() end\n", f(3), block())
    expect("@@local s --[==[\n]]\n]==] find = function() end\n", f(3), block())
    expect("@@local s, t, find = [[\n]], [[\n]], function() end\n", f(3), block())
  end)

  it("is not mistaken for text in a string", function()
    local text = "local s = [[\n" .. block() .. "]]\nlocal t = '--- <!-- chalk:links a -->'\n"
    assert.equal(text, annotate.annotate(text, {}))
    expect("local s = [[\n-- [[\n]]\n-- it's\n@@local find = function() end\n", f(5), block "--")
    expect("local s = '-- [['\n@@local find = function() end\n", f(2), block())
    expect("local s = a[b[1]] - c -- [[\n@@local find = function() end\n", f(2), block())
  end)

  it("keeps the line endings of the file, also if they are mixed or missing", function()
    expect("local a\r\n@@function find() end\r\n", f(2), block(nil, nil, "\r\n"))
    assert.equal(
      "a()\n" .. block(nil, nil, "\r\n") .. "function find() end\r\n",
      annotate.annotate("a()\nfunction find() end\r\n", { f(2) })
    )
    assert.equal(block() .. "function find() end", annotate.annotate("function find() end", { f(1) }))
    assert.equal(
      "a()\r" .. block(nil, nil, "\r") .. "function find() end\r",
      annotate.annotate("a()\rfunction find() end\r", { f(2) })
    )
  end)

  it("counts lines as LuaJIT does", function()
    local source = "#!/usr/bin/luajit '\r\n\n\r\r\r\nlocal s = 'a\\\r\nb'\nlocal f = function() end\nreturn f"
    local line = debug.getinfo(assert(loadstring((source:gsub("^#[^\r\n]*", ""))))(), "S").linedefined
    local text = annotate.annotate(source, { f(line) })
    assert.equal(
      "#!/usr/bin/luajit '\r\n\n\r\r\r\nlocal s = 'a\\\r\nb'\n" .. block() .. "local f = function() end\nreturn f",
      text
    )
  end)

  it("cannot be ended by characters of a name or a URL, so nothing of them runs as code", function()
    local odd = f(1, "a --> b\nos.exit(1)")
    odd.links = { calls = "http://p/\nos.exit(1) --" }
    local text = annotate.annotate("function find() end\n", { odd })
    assert.equal("---\n---\n---\nfunction find() end\n", (text:gsub("%-%-%-[^\n]*", "---")))
    assert.equal("function find() end\n", annotate.annotate(text, {}))
  end)

  it("is replaced when the links change, and removed when its function is gone", function()
    local old = annotate.annotate("--- Finds.\nlocal function find() end\n", { f(2) })
    local moved = f(6)
    moved.links = { request_rate = "http://q/rate" }
    local new = annotate.annotate(old, { moved })
    assert.equal(
      "--- Finds.\n--- <!-- chalk:links users.find -->\n--- - [Request rate](http://q/rate)\n"
        .. "--- <!-- /chalk:links -->\nlocal function find() end\n",
      new
    )
    assert.equal("--- Finds.\nlocal function find() end\n", annotate.annotate(new, {}))
  end)

  it("is refused with its line if it has no end, or the function is not on its line", function()
    local text, line, message = annotate.annotate("a()\n--- <!-- chalk:links x -->\nb()\n", {})
    assert.same({ nil, 2 }, { text, line })
    assert.matches("has no end", message)
    text, line, message = annotate.annotate("local a\nlocal b\n", { f(2) })
    assert.same({ nil, 2 }, { text, line })
    assert.matches("users.find does not begin on this line", message, 1, true)
    assert.is_nil((annotate.annotate("local a\n", { f(9) })))
  end)
end)

local USERS = [[
local auto = require "chalk.autometrics"
require "settings"

local M = {}

--- Creates a user.
---@param name string
function M.create(name)
  return name
end

function M.find()
end

return auto.module("users", M)
]]

local SETTINGS = 'require("chalk.autometrics").init { prometheus_url = "http://prom.example:9090/" }\n'

describe("chalk annotate", function()
  local folder

  before_each(function()
    folder = chalk_command.folder()
    folder:write("lua/users.lua", USERS)
    folder:write("settings.lua", SETTINGS)
  end)

  after_each(function() folder:remove() end)

  local function annotated() return folder:chalk("annotate", "--require", "users", "lua/") end

  it("finds the module in the directory, and prints the files that it changed", function()
    local code, output, errors = annotated()
    assert.same({ 0, "lua/users.lua\n", "" }, { code, output, errors })
    local text = folder:read "lua/users.lua"
    assert.matches(
      "%-%-%- Creates a user.\n%-%-%- <!%-%- chalk:links users.create %-%->\n%-%-%- %- %[Request rate%]"
        .. "%(http://prom.example:9090/graph[^\n]*%)\n",
      text
    )
    assert.matches("<!%-%- /chalk:links %-%->\n%-%-%-@param name string\nfunction M.create", text)
    assert.matches("<!%-%- /chalk:links %-%->\nfunction M.find", text)
    assert(loadstring(text))
  end)

  it("links to concurrent calls only if the function counts them", function()
    annotated()
    assert.is_nil(folder:read("lua/users.lua"):find("Concurrent calls", 1, true))
    folder:write("lua/users.lua", (USERS:gsub('"users", M', "%0, { concurrent = true }")))
    annotated()
    assert.equal(2, select(2, folder:read("lua/users.lua"):gsub("%[Concurrent calls%]", "")))
  end)

  it("does not touch the file in a second run", function()
    annotated()
    local text, stat = folder:read "lua/users.lua", uv.fs_stat(folder.path .. "/lua/users.lua")
    assert.same({ 0, "", "" }, { annotated() })
    assert.equal(text, folder:read "lua/users.lua")
    assert.same(stat.ino, uv.fs_stat(folder.path .. "/lua/users.lua").ino)
  end)

  it("writes nothing with --check, and fails until the links are there", function()
    local code, output, errors = folder:chalk("annotate", "--check", "-r", "users", "lua")
    assert.same({ 1, "", "chalk: lua/users.lua: the links are out of date\n" }, { code, output, errors })
    assert.equal(USERS, folder:read "lua/users.lua")
    annotated()
    assert.same({ 0, "", "" }, { folder:chalk("annotate", "--check", "-r", "users", "lua") })
    assert.equal(1, (folder:chalk("annotate", "--remove", "--check", "lua")))
  end)

  it("restores the source byte by byte with --remove, and loads no module for it", function()
    local crlf = USERS:gsub("\n", "\r\n")
    folder:write("lua/users.lua", crlf)
    annotated()
    local text = folder:read "lua/users.lua"
    assert.is_nil(text:gsub("\r\n", ""):find "[\r\n]")
    assert.is_not.equal(crlf, text)
    folder:write("lua/broken.lua", "this is no Lua")
    assert.same({ 0, "lua/users.lua\n", "" }, { folder:chalk("annotate", "--remove", "lua") })
    assert.equal(crlf, folder:read "lua/users.lua")
  end)

  it("keeps the mode of a file and the links to it", function()
    folder:shell "chmod 751 lua/users.lua && ln -s lua/users.lua link.lua"
    assert.equal(0, (folder:chalk("annotate", "-r", "users", "-I", "lua", "link.lua")))
    assert.equal("751 regular file\n", select(2, folder:shell "stat -c '%a %F' lua/users.lua"))
    assert.equal("symbolic link\n", select(2, folder:shell "stat -c '%F' link.lua"))
    assert.same({ "lua/users.lua", "settings.lua" }, folder:files())
  end)

  it("leaves files outside of the paths alone, and removes blocks of functions no longer wrapped", function()
    folder:write("lua/other.lua", USERS:gsub("users", "other") .. "-- \n")
    folder:write(
      "lua/both.lua",
      'require "users"\nrequire "other"\n--- <!-- chalk:links gone.x -->\n'
        .. "--- <!-- /chalk:links -->\nreturn true\n"
    )
    local before = folder:read "lua/other.lua"
    assert.equal(0, (folder:chalk("annotate", "-r", "both", "-I", "lua", "lua/users.lua", "lua/both.lua")))
    assert.equal(before, folder:read "lua/other.lua")
    assert.equal('require "users"\nrequire "other"\nreturn true\n', folder:read "lua/both.lua")
  end)

  it("changes no file when one cannot be written", function()
    folder:write("lua/a.lua", USERS:gsub("users", "a"))
    folder:write("lua/z.lua", 'require "a"\n' .. USERS)
    local before = { folder:read "lua/a.lua", folder:read "lua/z.lua" }
    folder:shell "chmod 444 lua/z.lua"
    -- Root runs without the capability to write any file. It can still read every file, wherever this checkout is.
    local bound = uv.getuid() == 0 and "setpriv --bounding-set=-dac_override " or ""
    local code, output, errors = folder:shell(bound .. chalk_command.command("annotate", "-r", "z", "lua"))
    assert.same({ 1, "", "chalk: cannot write lua/z.lua: permission denied\n" }, { code, output, errors })
    assert.same(before, { folder:read "lua/a.lua", folder:read "lua/z.lua" })
    assert.same({ "lua/a.lua", "lua/users.lua", "lua/z.lua", "settings.lua" }, folder:files())
  end)

  it("changes no file when the disk is full", function()
    -- A limit of the file size stands for a full disk. The new text of the first file fits, that of the second does
    -- not.
    folder:write("lua/a.lua", "-- <!-- chalk:links x -->\n-- <!-- /chalk:links -->\nreturn 1\n")
    folder:write("lua/b.lua", "-- <!-- chalk:links x -->\n-- <!-- /chalk:links -->\n" .. ("-- much\n"):rep(1000))
    local before = { folder:read "lua/a.lua", folder:read "lua/b.lua" }
    local command = chalk_command.command("annotate", "--remove", "lua")
    local _, output = folder:shell("( ulimit -f 4; trap '' XFSZ; " .. command .. "; echo $? ) 2>&1 | cat")
    assert.equal("chalk: cannot write lua/b.lua: file too large\n1\n", output)
    assert.same(before, { folder:read "lua/a.lua", folder:read "lua/b.lua" })
    assert.same({ "lua/a.lua", "lua/b.lua", "lua/users.lua", "settings.lua" }, folder:files())
  end)

  it("reports why a module cannot be loaded, and writes nothing", function()
    folder:write("lua/bad.lua", "local users = require 'users'\nerror('no database')\n")
    local code, _, errors = folder:chalk("annotate", "-r", "bad", "lua")
    assert.same({ 1, "chalk: cannot load module bad: lua/bad.lua:2: no database\n" }, { code, errors })
    folder:write("lua/exits.lua", "os.exit(0)\n")
    code, _, errors = folder:chalk("annotate", "-r", "exits", "lua")
    assert.equal(1, code)
    assert.matches(
      "cannot load module exits: lua/exits.lua:1: os.exit must not be called while a module is loaded",
      errors,
      1,
      true
    )
    code, _, errors = folder:chalk("annotate", "-r", "lua/users.lua", "lua")
    assert.equal(1, code)
    assert.matches('name the module without ".lua", as in --require users', errors, 1, true)
    code, _, errors = folder:chalk("annotate", "-r", "nowhere")
    assert.equal(1, code)
    assert.equal("chalk: cannot load module nowhere: not found: name the directory to look in by -I DIR\n", errors)
    assert.equal(USERS, folder:read "lua/users.lua")
  end)

  it("fails when there is nothing to annotate", function()
    folder:write("lua/plain.lua", "return {}\n")
    folder:write("empty/.keep", "")
    assert.same({ 1, "", "chalk: plain wraps no function\n" }, { folder:chalk("annotate", "-r", "plain", "lua") })
    local code, _, errors = folder:chalk("annotate", "-r", "users", "-I", "lua", "empty")
    assert.same({ 1, "chalk: none of the 2 wrapped functions is in empty\n" }, { code, errors })
    code, _, errors = folder:chalk("annotate", "-r", "users", "nowhere")
    assert.same({ 1, "chalk: cannot read nowhere: no such file or directory\n" }, { code, errors })
  end)
end)
