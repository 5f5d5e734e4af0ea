-- The input is what a connection sent. Its first byte says where the network cut the rest in two; the answer must not
-- depend on that.

local parser = require "chalk.net.http_parser"

local MAX_HEAD = 256

local function check_request(request, at, buffer)
  assert(at > 1 and at <= #buffer + 1, "a head that ends outside of the buffer")
  assert(at <= MAX_HEAD + 10, "a head above the limit")
  assert(request.version == "1.0" or request.version == "1.1")
  assert(request.method:find "^[^%c%s]+$")
  local plain = request.method == "GET" or request.method == "HEAD"
  assert(not plain or request.path:sub(1, 1) == "/", "a path that does not begin at the root")
  assert(not (request.path .. request.query):find "[%c ]", "a control character in the target")
  assert(not request.path:find("?", 1, true))
  assert(type(request.keep_alive) == "boolean" and type(request.has_body) == "boolean")
  for name, value in pairs(request.headers) do
    assert(name == name:lower() and name:find "^[^%c%s:]+$", "a name that is no token")
    assert(not value:find "[%z\1-\8\10-\31\127]", "a control character in a value")
    assert(type(parser.accepts_gzip(value)) == "boolean")
    assert(type(parser.has_token(value, "close")) == "boolean")
  end
  local length, encoding = request.headers["content-length"], request.headers["transfer-encoding"]
  assert(not (length and encoding), "two lengths")
  assert(request.has_body == (encoding ~= nil or (tonumber(length) or 0) > 0), "has_body is wrong")
end

local function same(a, b)
  if type(a) ~= "table" or type(b) ~= "table" then return a == b end
  for key, value in pairs(a) do
    if not same(value, b[key]) then return false end
  end
  for key in pairs(b) do
    if a[key] == nil then return false end
  end
  return true
end

-- Takes the requests of a buffer, one after the other.
local function take_all(buffer)
  local rest = buffer
  for _ = 1, 16 do
    local request, at, message = parser.take(rest, MAX_HEAD)
    if not request then
      assert(request == nil or (type(at) == "number" and at >= 400 and at <= 505 and type(message) == "string"))
      return
    end
    check_request(request, at, rest)
    rest = rest:sub(at)
  end
end

return function(bytes)
  local cut = (bytes:byte(1) or 0) % math.max(#bytes, 1)
  local buffer = bytes:sub(2)
  local whole, at = parser.take(buffer, MAX_HEAD)
  local first, first_at = parser.take(buffer:sub(1, cut), MAX_HEAD)
  if first then
    assert(same(first, whole) and first_at == at, "further bytes made it another request")
  elseif first == false then
    assert(not whole, "refused, but accepted with further bytes")
  else
    -- As the server does: it does not read bytes again, except those that may be half of the end of a head.
    local later, later_at = parser.take(buffer, MAX_HEAD, math.max(cut - 2, 1))
    assert(same(later, whole) and later_at == at, "cut in two, it is another request")
  end
  take_all(buffer)
end
