--- The parser of HTTP requests. If this file fails, a request of a scraper or a browser is refused, or an ambiguous
--- request is accepted, which another program may read differently.

local parser = require "chalk.net.http_parser"

local MAX = 8192

local function take(text) return parser.take(text, MAX) end

local function refused(text)
  local request, status, message = take(text)
  assert.is_false(request)
  assert.is_string(message)
  return status
end

local function head(fields, line) return (line or "GET /metrics HTTP/1.1") .. "\r\n" .. fields .. "\r\n" end

describe("http_parser.take", function()
  it("returns method, path, query, version and headers of a request", function()
    local text = head("Host: a:1\r\nACCEPT: text/plain \r\nX-Empty:\r\n", "GET /metrics?name=up&x=%20 HTTP/1.1")
    local request, position = take(text .. "GET /next")
    assert.same({
      method = "GET",
      path = "/metrics",
      query = "name=up&x=%20",
      version = "1.1",
      keep_alive = true,
      has_body = false,
      headers = { host = "a:1", accept = "text/plain", ["x-empty"] = "" },
    }, request)
    assert.equal(#text + 1, position)
  end)

  it("joins repeated headers, so that a second Accept header is not lost", function()
    local request = take(head "Accept: a\r\nAccept: b;q=0.5\r\naccept:c\r\n")
    assert.equal("a, b;q=0.5, c", request.headers.accept)
  end)

  it("accepts line ends without CR, and a few empty lines before the request", function()
    local request, position = take "\r\n\nGET / HTTP/1.1\nHost: x\n\n"
    assert.equal("x", request.headers.host)
    assert.equal(28, position)
    assert.equal(400, refused(("\r\n"):rep(5) .. head ""))
  end)

  it("understands targets with scheme and host, as proxies send them", function()
    assert.equal("/m", take(head("", "GET http://host:1/m?q HTTP/1.1")).path)
    assert.equal("q", take(head("", "GET http://host:1/m?q HTTP/1.1")).query)
    assert.equal("/", take(head("", "GET HTTP://host HTTP/1.1")).path)
    assert.equal("/", take(head("", "GET http://host?x/y HTTP/1.1")).path)
  end)

  it("returns the same request, however the bytes are split", function()
    local text = "\r\n" .. head "Host: a\r\nAccept: b\r\n"
    local scanned
    for size = 1, #text do
      local request, position = parser.take(text:sub(1, size), MAX, scanned)
      if size < #text then
        assert.is_nil(request)
      else
        assert.equal("b", request.headers.accept)
        assert.equal(#text + 1, position)
      end
      scanned = math.max(1, size - 1)
    end
  end)

  it("waits for more bytes only while they can complete a valid head", function()
    assert.is_nil(take "")
    assert.is_nil(take "\r\n")
    assert.is_nil(take "GET / HTTP/1.1\r\nHost: x\r\n")
    assert.equal(400, refused "\22\3\1\2\0\1\0\1\252\3\3")
    assert.equal(400, refused "\0")
  end)

  it("refuses a head above the size limit, complete or not, and accepts one of exactly the limit", function()
    local fill = function(size)
      local text = head ""
      return head("A: " .. ("x"):rep(size - #text - 5) .. "\r\n")
    end
    assert.equal(MAX, #fill(MAX))
    assert.is_table((take(fill(MAX))))
    assert.equal(431, refused(fill(MAX + 1)))
    assert.equal(431, refused("GET /" .. ("x"):rep(MAX)))
    assert.equal(431, refused("GET / HTTP/1.1\r\n" .. ("A: b\r\n"):rep(MAX / 6)))
  end)

  it("refuses unsupported versions with 505", function()
    assert.equal(505, refused "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    assert.equal(505, refused(head("", "GET / HTTP/0.9")))
    assert.equal("1.1", take(head("", "GET / HTTP/1.7")).version)
  end)

  for name, text in pairs {
    ["no version"] = head("", "GET /metrics"),
    ["a bad version"] = head("", "GET / HTTP/11"),
    ["lower-case http"] = head("", "GET / http/1.1"),
    ["two blanks"] = head("", "GET  / HTTP/1.1"),
    ["a blank in the target"] = head("", "GET /a b HTTP/1.1"),
    ["a NUL in the target"] = head("", "GET /\0 HTTP/1.1"),
    ["no slash"] = head("", "GET metrics HTTP/1.1"),
    ["asterisk"] = head("", "GET * HTTP/1.1"),
    ["a line without colon"] = head "Host\r\n",
    ["a blank before the colon"] = head "Host : x\r\n",
    ["an empty name"] = head ": x\r\n",
    ["a folded line"] = head "A: b\r\n c\r\n",
    ["a NUL in a value"] = head "A: b\0c\r\n",
    ["a CR in a value"] = head "A: b\rc\r\n",
    ["a name that is no token"] = head "A(b): c\r\n",
    ["two hosts"] = head "Host: a\r\nHost: b\r\n",
    ["a negative length"] = head "Content-Length: -1\r\n",
    ["two lengths"] = head "Content-Length: 1\r\nContent-Length: 2\r\n",
    ["a length beside an encoding"] = head "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
  } do
    it("refuses " .. name .. " with 400", function() assert.equal(400, refused(text)) end)
  end

  it("tells whether a body follows", function()
    assert.is_true(take(head "Content-Length: 10\r\n").has_body)
    assert.is_true(take(head "Transfer-Encoding: chunked\r\n").has_body)
    assert.is_false(take(head "Content-Length: 0\r\n").has_body)
    assert.is_true(take(head "Content-Length: 99999999999999999999999\r\n").has_body)
  end)

  it("tells whether the connection stays open", function()
    local function keeps(fields, version) return take(head(fields, "GET / HTTP/" .. version)).keep_alive end
    assert.is_true(keeps("", "1.1"))
    assert.is_false(keeps("Connection: Close\r\n", "1.1"))
    assert.is_false(keeps("Connection: te, close\r\n", "1.1"))
    assert.is_false(keeps("", "1.0"))
    assert.is_true(keeps("Connection: Keep-Alive\r\n", "1.0"))
    assert.is_false(keeps("Connection: keep-alive, close\r\n", "1.0"))
  end)

  it("takes little time for heads that are made to be slow, so that no peer can stall a flush", function()
    local blanks = (" "):rep(MAX - 40)
    local heads = {
      head("A: x" .. blanks .. "y\r\n"),
      head("A:" .. blanks .. "\r\n"),
      head("A" .. blanks .. "\r\n"),
      head(("a:b\r\n"):rep(1500)),
      "GET " .. blanks,
      ("G"):rep(MAX - 1),
      head "\r",
      head("Accept-Encoding: " .. (";q"):rep(3000) .. "\r\n"),
      head("Connection: " .. (", "):rep(3000) .. "\r\n"),
    }
    local started = os.clock()
    for _ = 1, 20 do
      for _, text in ipairs(heads) do
        local request = take(text)
        if request then parser.accepts_gzip(request.headers["accept-encoding"]) end
      end
    end
    assert.is_true(os.clock() - started < 1, "180 heads took a second or more")
  end)

  it("never raises an error, and returns one of its three results for any bytes", function()
    local seed =
      head("Host: a\r\nAccept-Encoding: gzip;q=0.5, *\r\nContent-Length: 0\r\n", "GET http://a/b?c HTTP/1.1")
    local special = { "\0", "\r", "\n", "\r\n\r\n", " ", ":", "\t", "\255", "?", "/", "HTTP/", ";", ",", "=", "%" }
    math.randomseed(42)
    for _ = 1, 20000 do
      local text = seed
      for _ = 1, math.random(4) do
        local at, size = math.random(#text), math.random(0, 3)
        text = text:sub(1, at - 1) .. special[math.random(#special)] .. text:sub(at + size)
      end
      local request, position, message = take(text)
      if request then
        assert(position >= 1 and position <= #text + 1 and request.path and request.headers)
        parser.accepts_gzip(request.headers["accept-encoding"])
      elseif request == false then
        assert((position == 400 or position == 431 or position == 505) and message)
      else
        assert(request == nil and position == nil)
      end
    end
  end)
end)

describe("http_parser.accepts_gzip", function()
  for value, wanted in pairs {
    ["gzip"] = true,
    ["GZIP"] = true,
    ["x-gzip"] = true,
    ["deflate, gzip"] = true,
    ["gzip;q=0.5"] = true,
    ["gzip ; Q=0.001"] = true,
    ["*"] = true,
    ["*;q=0.1"] = true,
    ["br, *;q=0, gzip;q=1.000"] = true,
    ["gzip;q=1, identity; q=0.5"] = true,
    ["gzip, identity"] = true,
    [""] = false,
    ["identity"] = false,
    ["gzip;q=0"] = false,
    ["gzip;q=0.000"] = false,
    ["*;q=0"] = false,
    ["gzip;q=0, *"] = false,
    ["gzip;q=x"] = false,
    ["gzip;q="] = false,
    ["gzipped"] = false,
    ["deflate"] = false,
    ["identity, gzip;q=0.5"] = false,
    [",;,;q=1"] = false,
  } do
    it(
      ("returns %s for %q"):format(tostring(wanted), value),
      function() assert.equal(wanted, parser.accepts_gzip(value)) end
    )
  end

  it("returns false without the header", function() assert.is_false(parser.accepts_gzip(nil)) end)
end)
