--- A real nginx whose master is root and whose workers are not. If this file fails, a worker that somebody has taken
--- over can crash the master, or make it hang, through the shared memory. It may only damage metrics.

package.path = "spec/?.lua;" .. package.path

local exposition = require "support.exposition"
local nginx = require "support.nginx"
local wait = require "support.wait"

-- Attacks by somebody who has taken over a worker. All of them use the descriptor that every worker has.

local LOCATIONS = [[
  location = /user { content_by_lua_block {
    local ffi = require "ffi"
    ffi.cdef "unsigned getuid(void);"
    ngx.say(ffi.C.getuid())
  } }
  location = /vandal { content_by_lua_block {
    local ffi = require "ffi"
    pcall(ffi.cdef, [=[
      ssize_t readlink(const char *path, char *out, size_t size);
      ssize_t pread(int fd, void *out, size_t size, long at);
      ssize_t pwrite(int fd, const void *bytes, size_t size, long at);
      int ftruncate(int fd, long size);
      int fallocate(int fd, int mode, long at, long size);
    ]=])
    local C, out, word = ffi.C, ffi.new "char[512]", ffi.new "uint64_t[1]"
    local function memory()
      for fd = 3, 200 do
        local n = C.readlink("/proc/self/fd/" .. fd, out, 512)
        if n > 0 and ffi.string(out, n):find "memfd:chalk" then return fd end
      end
    end
    local fd = assert(memory())
    local function get(at)
      assert(C.pread(fd, word, 8, at) == 8)
      return tonumber(word[0])
    end
    local function put(at, value)
      word[0] = value
      assert(C.pwrite(fd, word, 8, at) == 8)
    end
    -- Fields of the header: offsets of slots, stripes, cursors, metrics, series, cells, baselines, heap.
    local metrics, series, heap = get(96), get(104), get(128)
    local METRIC, NAME = 104, 40
    local does = {
      cut = function() return C.ftruncate(fd, 4096) .. " " .. ffi.errno() end,
      names = function()
        for i = 0, 31 do put(metrics + i * METRIC + NAME, 0x4141414141414140ULL) end
      end,
      header = function() put(136 + 56, 0) for at = 1024, 4088, 8 do put(at, -1ULL) end end,
      holes = function() return C.fallocate(fd, 3, 0, series) end, -- keeping its size
      anything = function()
        local till = os.time() + 2
        repeat
          for _ = 1, 1000 do
            local from = ({ 136, metrics, series, heap })[math.random(4)]
            put(from + math.random(0, 4000) * 8, math.random(0, 1) * math.random(2 ^ 52) * 8ULL - math.random(0, 1))
          end
        until os.time() > till
      end,
    }
    ngx.say(does[ngx.var.arg_does]() or "done")
  } }
]]

local function is_root() return io.popen("id -u"):read "*l" == "0" end

local function start() return nginx.start { user = "www-data", workers = 1, locations = LOCATIONS } end

local function count(text, what) return select(2, text:gsub(what, "")) end

-- Asks for a reload. Returns whether nginx accepted the configuration.
local function reload(server)
  local text = server:errors()
  local taken, refused = count(text, "gracefully shutting down"), count(text, "init_by_lua error")
  server:signal "hup"
  return wait.till(function()
    assert(nginx.is_alive(server.master), "the master died")
    text = server:errors()
    if count(text, "init_by_lua error") > refused then return "refused" end
    return count(text, "gracefully shutting down") > taken and "taken up"
  end, 20, "a reload")
end

local function is_served(server)
  wait.till(function()
    local response = server:get "/user"
    return response and response.status == 200
  end, 20, "an answer")
end

describe("a worker with fewer privileges", function()
  if nginx.missing() then return pending(nginx.missing()) end
  if not is_root() then return pending "only root has workers of less privilege" end

  after_each(nginx.stop_all)

  it("cannot truncate the memory", function()
    local server = start()
    assert.not_equal("0\n", server:get("/user").body)
    local before = select(2, server:settled())
    assert.equal("-1 1\n", server:get("/vandal?does=cut").body) -- EPERM
    assert.equal("taken up", reload(server))
    server:get "/"
    wait.till(function() return exposition.sum(server:scrape(), "http_requests_total") >= before + 1 end)
  end)

  it("cannot kill the master with invalid offsets", function()
    local server = start()
    server:get "/"
    server:get "/vandal?does=names"
    for _ = 1, 3 do
      reload(server)
    end
    is_served(server)
  end)

  it("cannot kill the master with a random header, which is refused with a message", function()
    local server = start()
    server:get "/vandal?does=header"
    assert.equal("refused", reload(server))
    assert.truthy(server:errors():find("restart needed", 1, true))
    assert.is_true(nginx.is_alive(server.master))
  end)

  it("cannot kill the master with holes in the memory", function()
    local server = start()
    server:get "/vandal?does=holes"
    reload(server)
    assert.is_true(nginx.is_alive(server.master))
  end)

  it("cannot kill the master by storing random bytes anywhere during reloads", function()
    local server = start()
    for _ = 1, 3 do
      pcall(server.get, server, "/vandal?does=anything", { deadline = 0.1 })
      reload(server)
    end
    assert.is_true(nginx.is_alive(server.master))
  end)
end)
