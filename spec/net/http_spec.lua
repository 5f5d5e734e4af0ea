--- The HTTP server. If this file fails, a scraper gets a damaged or wrongly encoded response, or a malformed request
--- gets no answer that says what is wrong.

local ffi = require "ffi"
local uv = require "luv"
local http = require "chalk.net.http"
local wire = require "chalk.net.http_response"
local gzip = require "chalk.net.gzip"
local support = require "support.http_client"

local wait, clock = support.wait, support.clock

pcall(ffi.cdef, 'int chalk_spec_dup(int) __asm__("dup");')

local function gunzip(bytes)
  local name = os.tmpname()
  local file = assert(io.open(name, "wb"))
  file:write(bytes)
  file:close()
  local pipe = assert(io.popen("gzip -dc < " .. name))
  local text = pipe:read "*a"
  pipe:close()
  os.remove(name)
  return text
end

local function lines(count)
  local n = 0
  return function()
    n = n + 1
    return n <= count and ("line %d\n"):format(n):rep(1000) or nil
  end
end

local function lines_text(count)
  local parts = {}
  for chunk in lines(count) do
    parts[#parts + 1] = chunk
  end
  return table.concat(parts)
end

describe("http", function()
  local bed

  before_each(function() bed = support.fixture() end)

  after_each(function() bed:close() end)

  it("answers a scrape, and the next one on the same connection", function()
    bed:serve()
    local client = bed:open()
    for n = 1, 3 do
      local response = client:get("/metrics?" .. n)
      assert.equal(200, response.status)
      assert.equal("GET" .. n, response.body)
      assert.equal("text/x-test", response.headers["content-type"])
      assert.truthy(response.headers.date:find "^%a%a%a, %d%d %a%a%a %d%d%d%d %d%d:%d%d:%d%d GMT$")
    end
    assert.equal(1, bed.server.count)
  end)

  it("answers pipelined requests in order, even if the peer has shut its side after them", function()
    bed:serve()
    local client, batch = bed:open(), {}
    for n = 1, 100 do
      batch[n] = "GET /metrics?" .. n .. " HTTP/1.1\r\nHost: x\r\n\r\n"
    end
    client:send(table.concat(batch))
    client.handle:shutdown()
    for n = 1, 100 do
      assert.equal("GET" .. n, client:response().body)
    end
    assert.is_true(wait(function() return client.ended and bed.server.count == 0 end))
  end)

  it("accepts a request that arrives byte by byte", function()
    bed:serve()
    local client = bed:open()
    for byte in ("\r\nGET /metrics HTTP/1.1\nHost: x\n\n"):gmatch "." do
      client:send(byte)
      uv.run "nowait"
    end
    assert.equal("GET", client:response().body)
  end)

  it("answers HEAD with the headers of GET, and does not make the body", function()
    bed:serve()
    local client, pulled = bed:open(), false
    client:send "HEAD /metrics HTTP/1.1\r\n\r\n"
    assert.equal("4", client:response(true).headers["content-length"])
    bed.handler = function()
      return { body = function() pulled = true end }
    end
    client:send "HEAD /metrics HTTP/1.1\r\n\r\n"
    assert.equal(200, client:response(true).status)
    assert.equal("", client:received())
    assert.is_false(pulled)
  end)

  it("closes the connection if the request asks for it, and for HTTP/1.0 without keep-alive", function()
    bed:serve()
    for fields, version in pairs { ["Connection: close\r\n"] = "1.1", [""] = "1.0" } do
      local client = bed:open()
      client:send("GET /metrics HTTP/" .. version .. "\r\n" .. fields .. "\r\n")
      assert.equal("close", client:response().headers.connection)
      assert.is_true(wait(function() return client.ended end))
      assert.is_nil(client.error)
    end
    local client = bed:open():send "GET /metrics HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    assert.equal("keep-alive", client:response().headers.connection)
    assert.equal(200, client:get("/metrics").status)
  end)

  it("keeps the connection after 404 and 405, and lists the allowed methods for 405", function()
    bed:serve()
    local client = bed:open()
    assert.equal(404, client:get("/").status)
    local response = client:send("DELETE /metrics HTTP/1.1\r\nHost: x\r\n\r\n"):response()
    assert.equal(405, response.status)
    assert.equal("GET, HEAD", response.headers.allow)
    assert.equal(200, client:get("/metrics").status)
    assert.equal("GET, HEAD", wire.text(405, "no").headers.Allow)
  end)

  it("refuses requests that it cannot serve with the right status, then closes without a reset", function()
    bed:serve()
    for text, status in pairs {
      ["GARBAGE\r\n\r\n"] = 400,
      ["GET / HTTP/1.1\r\nA : b\r\n\r\n"] = 400,
      ["GET /metrics HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello"] = 400,
      ["POST /metrics HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello"] = 405,
      ["GET / HTTP/3.0\r\n\r\n"] = 505,
      ["GET / HTTP/1.1\r\nA: " .. ("x"):rep(100000)] = 431,
    } do
      local client = bed:open():send(text)
      local response = client:response()
      assert.equal(status, response.status)
      assert.equal("close", response.headers.connection)
      client.handle:shutdown()
      assert.is_true(wait(function() return client.ended end))
      assert.is_nil(client.error)
    end
    assert.equal(0, #bed.logged, "peers could fill the log")
  end)

  it("answers 500 and logs when the handler fails, and goes on serving", function()
    bed:serve()
    local cases = {
      function() error "broken pipework" end,
      function() return nil end,
      function() return { body = 7 } end,
      function() return { status = "x" } end,
    }
    for n, case in ipairs(cases) do
      bed.handler = case
      local response = bed:open():get "/metrics"
      assert.equal(500, response.status)
      assert.equal("close", response.headers.connection)
      assert.is_nil(response.body:find("broken", 1, true))
      assert.equal(n, #bed.logged)
    end
    assert.truthy(bed.logged[1]:find "^error .*broken pipework")
  end)

  it("never lets a header's value start another header", function()
    bed:serve()
    bed.handler = function() return { headers = { ["X-A"] = "b\r\nX-B: c" }, body = "" } end
    assert.is_nil(bed:open():get("/metrics").headers["x-b"])
  end)

  it("sends a long body in chunks, and unframed to HTTP/1.0", function()
    bed:serve()
    local ends = {}
    bed.handler = function()
      return { body = lines(50), done = function(complete) ends[#ends + 1] = complete end }
    end
    local client = bed:open()
    local response = client:get "/metrics"
    assert.equal("chunked", response.headers["transfer-encoding"])
    assert.equal(lines_text(50), response.body)
    assert.equal(200, client:get("/metrics").status)
    response = bed:open():send("GET /metrics HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"):response()
    assert.is_nil(response.headers["transfer-encoding"])
    assert.equal(lines_text(50), response.body)
    assert.same({ true, true, true }, ends)
  end)

  it("skips empty chunks of a body, which would end it", function()
    bed:serve()
    local chunks = { "", "a", "", "", "b", "" }
    bed.handler = function()
      local n = 0
      return {
        body = function()
          n = n + 1
          return chunks[n]
        end,
      }
    end
    assert.equal("ab", bed:open():get("/metrics").body)
  end)

  it(
    "cuts the connection when a body fails in the middle, so that the peer notices that it is incomplete",
    function()
      bed:serve()
      local complete
      bed.handler = function()
        local n = 0
        return {
          body = function()
            n = n + 1
            if n > 2 then error "no more" end
            return "x"
          end,
          done = function(whole) complete = whole end,
        }
      end
      local client = bed:open():send "GET /metrics HTTP/1.1\r\n\r\n"
      assert.is_true(wait(function() return client.ended end))
      assert.is_nil(client:received():find("0\r\n\r\n", 1, true))
      assert.truthy(bed.logged[1]:find "no more")
      assert.is_false(complete)
    end
  )

  it("compresses strings and long bodies, but only for requests that accept it", function()
    bed:serve()
    assert.is_true(gzip.available(), "zlib is missing on this machine")
    local text = lines_text(60)
    for _, body in ipairs { function() return text end, function() return lines(60) end, function() return "" end } do
      bed.handler = function() return { headers = { Vary = "Accept" }, body = body(), gzip = true } end
      local client = bed:open()
      local plain = client:get("/metrics").body
      local response = client:get("/metrics", "Accept-Encoding: deflate, gzip;q=0.8\r\n")
      assert.equal("gzip", response.headers["content-encoding"])
      assert.equal("Accept, Accept-Encoding", response.headers.vary)
      assert.equal(plain, gunzip(response.body))
      assert.is_true(#plain == 0 or #response.body < #plain / 10)
      assert.is_nil(client:get("/metrics", "Accept-Encoding: gzip;q=0\r\n").headers["content-encoding"])
      response = bed:open():send("GET /metrics HTTP/1.0\r\nAccept-Encoding: gzip\r\n\r\n"):response()
      assert.equal(plain, gunzip(response.body))
      client:send "HEAD /metrics HTTP/1.1\r\nAccept-Encoding: gzip\r\n\r\n"
      assert.equal("gzip", client:response(true).headers["content-encoding"])
    end
  end)

  it("serves a unix socket, and removes the path it made", function()
    local path = os.tmpname()
    os.remove(path)
    bed:serve { address = "unix://" .. path }
    assert.is_nil(bed.server.port)
    assert.equal("GET", bed:open(path):get("/metrics").body)
    bed.server:close()
    assert.is_nil(uv.fs_stat(path))
  end)

  it("serves a descriptor that its caller has opened, TCP or unix", function()
    local path = os.tmpname()
    os.remove(path)
    for _, kind in ipairs { "tcp", "unix" } do
      local listener = kind == "tcp" and uv.new_tcp() or uv.new_pipe(false)
      if kind == "tcp" then
        listener:bind("127.0.0.1", 0)
      else
        listener:bind(path)
      end
      bed:serve { fd = ffi.C.chalk_spec_dup(listener:fileno()) }
      assert.equal("GET", bed:open(kind == "unix" and path or nil):get("/metrics").body)
      assert.equal(kind == "tcp" and listener:getsockname().port or nil, bed.server.port)
      bed.server:close()
      listener:close()
    end
  end)

  it("says why it cannot listen", function()
    bed:serve()
    local function failure(options)
      options.handler = print
      local none, message = http.serve(options)
      assert.is_nil(none)
      return message
    end
    local taken = "127.0.0.1:" .. bed.server.port
    assert.truthy(failure({ address = taken }):find("cannot listen on " .. taken .. ": EADDRINUSE", 1, true))
    assert.truthy(failure({ address = "nonsense" }):find("nonsense", 1, true))
    assert.truthy(failure({ address = "1.2.3.4.5:1" }):find("1.2.3.4.5:1", 1, true))
    assert.truthy(failure({ address = "127.0.0.1:70000" }):find("70000", 1, true))
    assert.truthy(failure({ address = "unix:///nowhere/at/all" }):find("/nowhere/at/all", 1, true))
    assert.truthy(failure({ fd = 0 }):find("fd 0", 1, true))
    assert.has_error(function() http.serve { address = "127.0.0.1:0" } end, "http.serve needs a handler")
  end)

  it("lets the loop end after unref, with connections open", function()
    bed:serve()
    local client = bed:open()
    assert.equal(200, client:get("/metrics").status)
    bed.server:unref()
    client.handle:unref()
    local stop = clock() + 10
    while uv.run "nowait" and clock() < stop do
      uv.sleep(1)
    end
    assert.is_false(uv.loop_alive())
    assert.equal(1, bed.server.count)
  end)

  it("can be closed by its own handler, and with the VM's loop", function()
    bed:serve()
    bed.handler = function()
      bed.server:close()
      return wire.text(200, "x")
    end
    local client = bed:open():send "GET / HTTP/1.1\r\n\r\n"
    assert.is_true(wait(function() return client.ended end))
    local script = [[
      local uv, http = require("luv"), require("chalk.net.http")
      local server = http.serve({ address = "127.0.0.1:0", handler = function()
        return { body = function() return ("x"):rep(65536) end }
      end })
      local peer = uv.new_tcp()
      peer:connect("127.0.0.1", server.port, function() peer:write("GET / HTTP/1.1\r\n\r\n") end)
      for _ = 1, 20 do uv.run("nowait") end
      assert(server.count == 1)
      if arg[1] == "walk" then uv.walk(function(h) h:close() end) uv.run() server:close() end
    ]]
    local name = os.tmpname()
    local file = assert(io.open(name, "w"))
    file:write(script)
    file:close()
    for _, how in ipairs { "walk", "end" } do
      local pipe = io.popen(("LUA_PATH='%s' ${LUAJIT:-luajit} %s %s 2>&1; echo $?"):format(package.path, name, how))
      assert.equal("0\n", pipe:read "*a")
      pipe:close()
    end
    os.remove(name)
  end)
end)
