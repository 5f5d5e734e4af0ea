--- The demo is the first thing a new user sees: it has to come to a good end by itself, and to tell the truth.

local uv = require "luv"
local examples = require "support.examples"

local function has(output, text)
  assert.is_truthy(output:find(text, 1, true), ("%q is not in:\n%s"):format(text, output))
end

-- The last section: "  wrk  12,345" and so on.
local function counted(output, who)
  local text = output:match("\n  " .. who .. " +([%d,]+)")
  return tonumber((text:gsub(",", "")))
end

local function check(code, output, client)
  assert.equal(0, code, output)
  assert.equal("agrees\n", output:match "\n([^\n]*\n)$")
  has(output, "# TYPE http_request_latency_seconds histogram\n")
  for _, endpoint in ipairs { "/fast", "/search", "/report", "/flaky", "other" } do
    assert.is_truthy(output:find("\n  " .. endpoint .. " +[%d,]+ +[%d,]+ +%d"), endpoint .. " has no row")
  end
  assert.is_true(counted(output, client) > 0)
  assert.equal(counted(output, "the service"), counted(output, "the scrape"))
  local pid = tonumber(output:match "service%.lua, process (%d+)")
  assert.is_nil((uv.kill(pid, 0)), "the service is still running")
end

describe("the demo", function()
  it("without wrk agrees with its client to the last request", function()
    local code, output = examples.run("demo.lua", { "--client=luv", "--seconds=2" }, 30)
    check(code, output, "client")
    assert.equal(counted(output, "client"), counted(output, "the service"))
  end)

  it("with wrk agrees but for what was under way when wrk stopped", function()
    if not examples.child.find "wrk" then return pending "wrk is not on PATH" end
    local code, output = examples.run("demo.lua", { "--client=wrk", "--seconds=2" }, 30)
    check(code, output, "wrk")
    local connections = tonumber(output:match "(%d+) connections")
    local cut = counted(output, "the service") - counted(output, "wrk")
    assert.is_true(cut >= 0 and cut <= connections)
  end)

  it("fails when the client counted something else", function()
    local wrk = examples.child.find "wrk"
    if not wrk then return pending "wrk is not on PATH" end
    local folder, path = uv.fs_mkdtemp "/tmp/chalk-demo-XXXXXX", os.getenv "PATH"
    finally(function()
      uv.os_setenv("PATH", path)
      os.remove(folder .. "/wrk")
      uv.fs_rmdir(folder)
    end)
    local file = assert(io.open(folder .. "/wrk", "w"))
    file:write(('#!/bin/sh\n%s "$@" | sed \'s/"failed":[0-9]*/"failed":7/\'\n'):format(wrk))
    file:close()
    uv.fs_chmod(folder .. "/wrk", tonumber("755", 8))
    uv.os_setenv("PATH", folder .. ":" .. path)
    local code, output = examples.run("demo.lua", { "--seconds=1" }, 30)
    assert.equal(1, code)
    has(output, "differs: /flaky: the service's count of failures is ")
    has(output, "\ndisagrees\n")
  end)
end)
