--- The standard metrics of an HTTP server in a real nginx. If this file fails, they differ from the access log, or a
--- client can create series.

package.path = "spec/?.lua;" .. package.path

local exposition = require "support.exposition"
local nginx = require "support.nginx"
local request = require "support.request"
local wait = require "support.wait"

local LOG = "log_by_lua_block { http:log() }"

local HTTP = [[
  log_by_lua_block { http:log() }
  lua_shared_dict sessions 1m;
  proxy_cache_path $prefix/cache keys_zone=cached:1m;
  map $uri $route { default pages; ~^/api/ api; }
  upstream back { server 127.0.0.1:$back; keepalive 4; }
  upstream half { server 127.0.0.1:$dead max_fails=0; server 127.0.0.1:$back backup; }
  server {
    listen 127.0.0.1:$back;
    location / { return 200 "back\n"; log_by_lua_block { return } }
    location /slow { content_by_lua_block { ngx.sleep(30) } log_by_lua_block { return } }
  }
]]

local LOCATIONS = [[
  location /api/ {
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_pass http://back;
  }
  location /cached { proxy_cache cached; proxy_cache_valid 10m; proxy_pass http://back; }
  location /dead { proxy_pass http://127.0.0.1:$dead; }
  location /half { proxy_pass http://half; }
  location /moved { error_page 502 = /api/moved; proxy_pass http://127.0.0.1:$dead; }
  location /slow { proxy_pass http://back; }
]]

-- Starts an nginx in which http() receives these options (Lua source).
local function start(options, more)
  local back, dead = nginx.free_port(), nginx.free_port()
  local function with_ports(text) return (text:gsub("%$back", back):gsub("%$dead", dead)) end
  local given = {
    after = ("http = require('resty.chalk').http { %s }"):format(options or ""),
    http = with_ports(HTTP),
    locations = with_ports(LOCATIONS),
    server = "server_name shop.example;",
    definitions = "{}",
    record = LOG,
  }
  for name, value in pairs(more or {}) do
    given[name] = value
  end
  local server = nginx.start(given)
  server.back, server.dead = "127.0.0.1:" .. back, "127.0.0.1:" .. dead
  return server
end

local function raw(server, text) return server:get("/", { raw = text }) end

-- Waits until a sample of the exposition has this value.
local function assert_becomes(server, key, value)
  local samples
  local ok, problem = pcall(wait.till, function()
    samples = server:scrape()
    return samples[key] == value
  end, 5)
  assert(ok, samples and ("%s is %s, not %s"):format(key, tostring(samples[key]), tostring(value)) or problem)
  return samples
end

local function series(name, labels) return ("%s{%s}"):format(name, labels) end

local function requests(labels) return series("http_requests_total", 'host="shop.example",' .. labels) end

describe("the standard metrics of nginx", function()
  if nginx.missing() then return pending(nginx.missing()) end

  after_each(nginx.stop_all)

  it("count requests by host, method and status", function()
    local server = start()
    for _ = 1, 3 do
      server:get "/"
    end
    server:get("/", { method = "POST" })
    server:get "/dead"
    raw(server, "GET / HTTP/1.0\r\n\r\n")
    raw(server, "PURGE / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    raw(server, "no request\r\n\r\n")
    raw(server, "GET /%00 HTTP/1.1\r\nHost: x\r\n\r\n")
    assert_becomes(server, requests 'method="GET",status="4xx"', 1)
    local samples = server:scrape()
    assert.equal(1, samples[requests 'method="OTHER",status="4xx"'])
    assert.equal(1, samples[requests 'method="POST",status="2xx"'])
    assert.equal(1, samples[requests 'method="GET",status="5xx"'])
    assert.equal(1, samples[requests 'method="OTHER",status="2xx"'])
    local before = exposition.sum(samples, "http_requests_total")
    assert.equal(before, samples['http_request_duration_seconds_count{host="shop.example"}'])
    for _ = 1, 20 do
      server:get "/"
    end
    -- The 20 requests and the scrape.
    assert_becomes(server, requests 'method="GET",status="2xx"', samples[requests 'method="GET",status="2xx"'] + 21)
  end)

  it("count the bytes of the access log", function()
    local server = start(nil, {
      http = "log_format bytes '$request_length $bytes_sent';",
      locations = "",
      record = LOG .. " access_log $prefix/bytes.log bytes;",
    })
    server:get "/"
    server:get("/", { headers = "X: " .. ("x"):rep(2000) .. "\r\n" })
    local name = 'http_received_bytes_total{host="shop.example"}'
    wait.till(function() return (server:scrape()[name] or 0) > 0 end)
    local received, sent = 0, 0
    local file = assert(io.open(server.prefix .. "/bytes.log"))
    for line in file:lines() do
      local a, b = line:match "(%d+) (%d+)"
      received, sent = received + a, sent + b
    end
    file:close()
    assert.is_true(received > 2000)
    local samples = server:scrape() -- only / is recorded
    assert.equal(received, samples[name])
    assert.equal(sent, samples['http_sent_bytes_total{host="shop.example"}'])
  end)

  it("have no series that a client has created", function()
    local server = start(nil, { server = "server_name _;" })
    local function ask(i)
      raw(server, ("M%s /%d HTTP/1.1\r\nHost: h%d.example\r\nConnection: close\r\n\r\n"):format(("A"):rep(i), i, i))
    end
    ask(1)
    local key = series("http_requests_total", 'host="_",method="OTHER",status="2xx"')
    assert_becomes(server, key, 1)
    local before = server:info().series
    for i = 2, 30 do
      ask(i)
    end
    assert_becomes(server, key, 30)
    assert.is_true(server:info().series - before <= 4, "series of the scrape itself, and no others")
  end)

  it("distinguish the configured hosts, and count all others together", function()
    local server = start 'hosts = { "a.example", "B.example" }, methods = { "PURGE" }, status = "code"'
    for _, host in ipairs { "a.example", "A.EXAMPLE:80", "b.example", "evil.example", 'x\\"y' } do
      raw(server, ("PURGE / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n"):format(host))
    end
    local function count(host, status)
      return series("http_requests_total", ('host="%s",method="PURGE",status="%d"'):format(host, status))
    end
    local samples = assert_becomes(server, count("a.example", 200), 2)
    assert.equal(1, samples[count("b.example", 200)])
    assert.equal(2, (samples[count("other", 200)] or 0) + (samples[count("other", 400)] or 0))
  end)

  it("record each attempt to reach an upstream", function()
    local server = start()
    for _, path in ipairs { "/api/1", "/api/2", "/dead", "/half", "/moved" } do
      server:get(path)
    end
    local function attempts(upstream, status)
      return series("http_upstream_requests_total", ('upstream="%s",status="%s"'):format(upstream, status))
    end
    local samples = assert_becomes(server, attempts(server.back, "2xx"), 4)
    assert.equal(3, samples[attempts(server.dead, "5xx")])
    for _, name in ipairs { "connect", "header", "response" } do
      local key = ('http_upstream_%s_duration_seconds_count{upstream="%s"}'):format(name, server.back)
      assert.equal(4, samples[key], key)
    end
    assert.is_nil(samples[('http_upstream_header_duration_seconds_count{upstream="%s"}'):format(server.dead)])
  end)

  it("count requests by cache status", function()
    local server = start()
    for _ = 1, 4 do
      assert.equal("back\n", server:get("/cached").body)
    end
    local function of(status)
      return series("http_cache_requests_total", ('host="shop.example",cache_status="%s"'):format(status))
    end
    assert.equal(1, assert_becomes(server, of "HIT", 3)[of "MISS"])
  end)

  it("count requests whose client disconnected", function()
    local server = start 'status = "code"'
    local pending = request.send(server.port, { path = "/slow" })
    request.turn(0.2)
    pending.close "enough"
    assert_becomes(server, requests 'method="GET",status="499"', 1)
  end)

  it("have a tag route, from a variable", function()
    local server = start 'route = "$route"'
    server:get "/api/1"
    server:get "/"
    assert_becomes(server, requests 'method="GET",status="2xx",route="api"', 1)
    assert.equal(1, server:scrape()['http_request_duration_seconds_count{host="shop.example",route="api"}'])
  end)

  it("have a tag route, from a function, and count requests even if it fails", function()
    local server = start [[route = function()
      if ngx.var.uri == "/api/bad" then error "oh" end
      return ngx.var.uri:match "^/(%a+)"
    end]]
    server:get "/api/1"
    server:get "/api/bad"
    assert_becomes(server, requests 'method="GET",status="2xx",route="api"', 1)
    assert_becomes(server, 'http_request_duration_seconds_count{host="shop.example",route="api"}', 1)
    assert.truthy(server:errors():find "the route function failed: .-: oh")
    assert.equal(
      1,
      server:scrape()['http_upstream_requests_total{upstream="' .. server.back .. '",status="2xx"}'] - 1
    )
  end)

  it("leave out metrics that are switched off", function()
    local server = start 'bytes = false, upstream = false, cache = false, namespace = "web.front", buckets = { 1 }'
    server:get "/api/1"
    server:get "/cached"
    wait.till(function() return exposition.sum(server:scrape(), "web_front_requests_total") >= 3 end)
    local samples, types = server:scrape()
    for name in pairs(types) do
      assert.is_nil(name:find "upstream" or name:find "sent" or name:find "received" or name:find "cache", name)
    end
    assert.truthy(samples['web_front_request_duration_seconds_bucket{host="shop.example",le="1.0"}'])
  end)

  it("show connections, shared dictionaries and the memory of the VMs", function()
    local server = start()
    local open = {}
    for i = 1, 5 do
      open[i] = request.send(server.port, { raw = "GET / HTTP/1.1\r\nHost: x\r\n\r\n" })
    end
    local samples
    wait.till(function()
      samples = server:scrape()
      return (samples['nginx_connections{state="waiting"}'] or 0) >= 5
        and samples['nginx_lua_memory_bytes{worker="0"}']
        and samples['nginx_lua_memory_bytes{worker="1"}']
    end)
    assert.is_true(samples['nginx_connections{state="active"}'] >= 5)
    assert.is_true(samples['nginx_lua_memory_bytes{worker="1"}'] > 1e5)
    assert.equal(2 ^ 20, samples['nginx_shared_dict_capacity_bytes{dict="sessions"}'])
    assert.is_true(samples['nginx_shared_dict_free_bytes{dict="sessions"}'] > 2 ^ 19)
    for _, pending in ipairs(open) do
      pending.close()
    end
    wait.till(function() return server:scrape()['nginx_connections{state="waiting"}'] < 5 end)
  end)

  it("forget a shared dictionary that a reload removed", function()
    local after = "http = require('resty.chalk').http()"
    local function free(samples, name) return samples[('nginx_shared_dict_free_bytes{dict="%s"}'):format(name)] end
    local server =
      nginx.start { after = after, definitions = "{}", record = LOG, http = "lua_shared_dict old 64k;" }
    wait.till(function() return free(server:scrape(), "old") end)
    server:reload { after = after, definitions = "{}", record = LOG, http = "lua_shared_dict new 64k;" }
    wait.till(function()
      local samples = server:scrape()
      return free(samples, "new") and not free(samples, "old")
    end)
  end)

  it("record nothing if chalk is disabled", function()
    local server = start(nil, { options = "enabled = false," })
    assert.equal(200, server:get("/").status)
    assert.equal("", server:complaints())
  end)

  for options, message in pairs {
    ["hots = {}"] = 'http: unknown option hots, did you mean "hosts"?',
    ["hosts = { 1 }"] = "http: hosts must be a list of host names",
    ['route = "uri"'] = 'http: route must be a variable such as "$route", or a function',
    ['status = "all"'] = 'http: status must be "class" or "code"',
    ["buckets = { 2, 1 }"] = "http: buckets must be a list of 1 to 64 finite numbers",
    ["max_series = 0"] = "max_series: expected a whole number",
    ['namespace = "1"'] = "namespace",
  } do
    it("refuse " .. options, function()
      local server = nginx.new {
        after = ("http = require('resty.chalk').http { %s }"):format(options),
        definitions = "{}",
      }
      local ok, output = server:launch()
      assert.is_nil(ok)
      assert.truthy((output .. server:errors()):find(message, 1, true), output .. server:errors())
    end)
  end
end)
