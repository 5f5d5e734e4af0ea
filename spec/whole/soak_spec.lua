--- A service loses and invents no count while its processes are killed, stopped and forked. This is the soak for some
--- seconds; `make soak` runs it for ten minutes, and docs/soak.md is its last report.

local SECONDS, LIMIT = 15, 180

describe("a service whose processes are killed, stopped and forked all the time", function()
  it("loses and invents no count, answers scrapes, pushes, and does not grow in memory", function()
    local luajit = os.getenv "LUAJIT" or "luajit"
    local command = "SOAK_SECONDS=%d timeout -k 5 %d %s bench/soak.lua 2>&1; echo exit:$?"
    local pipe = assert(io.popen(command:format(SECONDS, LIMIT, luajit)))
    local output = pipe:read "*a"
    pipe:close()
    assert.matches("Nothing failed.\nexit:0\n$", output)
  end)
end)
