--- chalk can be installed in each of the documented ways, and loads from there with nothing of the checkout in reach.

-- Removes from the environment the paths of the checkout and the preloaded runtime.
local CLEAN = "env -u LD_PRELOAD -u CHALK_LIBRARY -u LUA_PATH -u LUA_CPATH -u BUILD -u MAKEFLAGS -u MAKELEVEL "
local LUAJIT = os.getenv "LUAJIT" or "luajit"

local function run(command)
  local pipe = assert(io.popen("(" .. command .. ') 2>&1; echo "exit:$?"'))
  local output = pipe:read "*a"
  pipe:close()
  local text, code = output:match "^(.-)exit:(%d+)%s*$"
  assert(code == "0", command .. "\n" .. output)
  return text
end

local function exists(path)
  local file = io.open(path)
  if file then file:close() end
  return file ~= nil
end

describe("an installation", function()
  local tree, checkout

  before_each(function()
    tree = run("mktemp -d"):match "%S+"
    checkout = tree .. "/checkout"
    local sources = "CMakeLists.txt Makefile chalk-scm-1.rockspec bin man src lua tools "
    run("mkdir " .. checkout .. " && cp -R " .. sources .. checkout)
  end)

  after_each(function() run("rm -rf " .. tree) end)

  local function load_from(prefix)
    local path = ("%s/share/lua/5.1/?.lua;%s/share/lua/5.1/?/init.lua;;"):format(prefix, prefix)
    local program = [[assert(require("chalk").load) io.write(package.searchpath("chalk", package.path))]]
    local command = "cd / && %s LUA_PATH='%s' LUA_CPATH='%s/lib/lua/5.1/?.so;;' %s -e '%s'"
    return run(command:format(CLEAN, path, prefix, LUAJIT, program))
  end

  -- Runs the command of an installation, which must find its modules and library without LUA_PATH.
  local function run_command(prefix)
    local command = "cd / && %s %s/bin/chalk %s"
    assert.equal(require("chalk")._VERSION .. "\n", run(command:format(CLEAN, prefix, "--version")))
    local program = assert(io.open(tree .. "/app.lua", "w"))
    program:write('assert(require("chalk.core").path:find("^' .. prefix .. '/"))\nerror("loaded")\n')
    program:close()
    local output = run(command:format(CLEAN, prefix, "rules -r app -I " .. tree .. " || true"))
    assert.equal("chalk: cannot load module app: " .. tree .. "/app.lua:2: loaded\n", output)
  end

  it("by luarocks make can be required", function()
    local prefix = tree .. "/rock"
    run(("cd %s && %s luarocks make --lua-version=5.1 --deps-mode none --tree %s"):format(checkout, CLEAN, prefix))
    assert.equal(prefix .. "/share/lua/5.1/chalk/init.lua", load_from(prefix))
    assert.is_true(exists(prefix .. "/lib/lua/5.1/libchalk.so"))
    local show = "cd / && %s luarocks show --lua-version=5.1 --tree %s --rock-dir chalk"
    assert.is_true(exists(run(show:format(CLEAN, prefix)):match "%S+" .. "/man/chalk.1")) -- where docs/cli.md says
    run_command(prefix)
  end)

  -- Returns the library's soname, whose number says which programs can use it.
  local function soname(library) return run("objdump -p " .. library):match "SONAME%s+(%S+)" end

  for where, libraries in pairs { ["into lib"] = "lib", ["into a multiarch directory"] = "lib/x86_64-linux-gnu" } do
    it("by make install " .. where .. " can be required, and a C host compiles against it", function()
      local prefix = tree .. "/usr"
      local flags = ("CMAKE_FLAGS='-DCHALK_TESTS=OFF -DCHALK_LIB_DIR=%s'"):format(libraries)
      run(("cd %s && %s make install %s PREFIX=%s"):format(checkout, CLEAN, flags, prefix))
      assert.equal(prefix .. "/share/lua/5.1/chalk/init.lua", load_from(prefix))

      run_command(prefix)
      assert.is_true(exists(prefix .. "/share/man/man1/chalk.1"))
      local found = soname(prefix .. "/" .. libraries .. "/libchalk.so")
      assert.truthy(found:find "^libchalk%.so%.%d+$", found)
      assert.is_true(exists(prefix .. "/" .. libraries .. "/" .. found))

      local host = assert(io.open(tree .. "/host.c", "w"))
      host:write "#include <chalk.h>\nint main(void) { return chalk_abi() < 0; }\n"
      host:close()
      local compile = "cc host.c $(pkg-config --cflags --libs chalk) -o host"
      local command = "cd %s && export PKG_CONFIG_PATH=%s/%s/pkgconfig && %s %s && LD_LIBRARY_PATH=%s/%s ./host"
      run(command:format(tree, prefix, libraries, CLEAN, compile, prefix, libraries))
    end)
  end
end)
