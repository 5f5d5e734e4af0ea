--- What the specs stand on holds with other builds of what they run, which are not installed here: stand-ins behave as
--- those do.

package.path = "spec/?.lua;" .. package.path

local children = require "support.children"
local commands = require "support.commands"
local descriptors = require "support.descriptors"
local files = require "support.files"
local uv = require "luv"

describe("the specs' support", function()
  after_each(files.clean)

  it("tells whether a command succeeds, with and without LUA52COMPAT", function()
    assert.same({ true, false }, { commands.run "true", commands.run "false" })
    local execute = os.execute
    finally(function() os.execute = execute end) -- luacheck: ignore 122
    os.execute = function(command) -- luacheck: ignore 122
      if execute(command) == 0 then return true, "exit", 0 end
      return nil, "exit", 1
    end
    assert.same({ true, false }, { commands.run "true", commands.run "false" })
  end)

  it("counts open descriptors the same each time", function()
    local before = descriptors.count()
    for _ = 1, 500 do
      assert.equal(before, descriptors.count())
    end
  end)

  it("waits for the pid file of an nginx, which ends before its master has written it", function()
    local folder = files.name()
    assert(uv.fs_mkdir(folder, tonumber("755", 8)))
    finally(function() commands.run("rm -r " .. folder) end)
    local program = assert(io.open(folder .. "/nginx", "w"))
    program:write [[#!/bin/sh
      [ "$1" != -V ] || exec echo --add-module=lua
      { while ! [ -e go ]; do sleep 0.01; done; sleep 60 & echo $! >nginx.pid; } >/dev/null 2>&1 &
    ]]
    program:close()
    assert(uv.fs_chmod(folder .. "/nginx", tonumber("755", 8)))
    local code, output = children.run(
      [[
      local nginx = require "support.nginx"
      local server = nginx.new {}
      local files = require "support.files"
      -- The file comes once it has been looked for in vain.
      local read = files.read
      function files.read(name)
        local text = read(name)
        if name:find "nginx.pid$" and text == "" then files.make_at(server.prefix .. "/go") end
        return text
      end
      assert(server:launch())
      print(server.master > 0)
      os.exit(0)
    ]],
      { env = { PATH = folder .. ":" .. os.getenv "PATH" } }
    )
    assert.same({ 0, "true\n" }, { code, output })
  end)
end)
