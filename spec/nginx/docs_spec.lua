--- The configurations in the documentation of nginx. If this file fails, somebody who copies one gets an nginx that
--- does not start, or does not export what the page says.

package.path = "spec/?.lua;" .. package.path

local files = require "support.files"
local nginx = require "support.nginx"
local wait = require "support.wait"

local PATHS = [[
  lua_package_path "$path";
  lua_package_cpath "$cpath";
  client_body_temp_path $prefix/body;
  proxy_temp_path $prefix/proxy;
  fastcgi_temp_path $prefix/fastcgi;
  uwsgi_temp_path $prefix/uwsgi;
  scgi_temp_path $prefix/scgi;
]]

local function block_of(page, language, number)
  local found = 0
  for name, block in files.read(page):gmatch "\n```(%a*)\n(.-\n)```" do
    if name == language then found = found + 1 end
    if found == number then return block end
  end
  error(("%s has no %s block %d"):format(page, language, number))
end

-- Returns a text with literal strings replaced. Fails if one of them does not occur.
local function replaced(text, changes)
  for _, change in ipairs(changes) do
    local at, last = text:find(change[1], 1, true)
    assert(at, "the page no longer says " .. change[1])
    text = text:sub(1, at - 1) .. change[2] .. text:sub(last + 1)
  end
  return text
end

local function whole(fragment)
  return "$main\n$modules\nworker_processes 2;\nerror_log $prefix/error.log info;\npid $prefix/nginx.pid;\n"
    .. "events {}\nhttp {\naccess_log off;\n"
    .. PATHS
    .. fragment
    .. "}\n"
end

-- Returns the error log of a server without the line of the test's own request.
local function complaints(server) return (server:complaints():gsub("[^\n]*/info[^\n]*\n?", "")) end

local SOCKET = 'socket = "$prefix/chalk.sock",'

describe("the documentation of nginx", function()
  if nginx.missing() then return pending(nginx.missing()) end

  after_each(nginx.stop_all)

  it("has a configuration that works without changes, except for paths and ports", function()
    local app, listener = nginx.start(), nginx.free_port()
    local server = nginx.start {
      definitions = block_of("docs/nginx.md", "json", 1),
      conf = replaced(block_of("docs/nginx.md", "nginx", 1), {
        { "user www-data;", "$main" },
        { "/run/nginx.pid", "$prefix/nginx.pid" },
        { "/var/log/nginx/", "$prefix/" },
        { "include /etc/nginx/modules-enabled/*.conf;", "$modules" },
        { "http {", "http {\n" .. PATHS },
        { "/var/log/nginx/", "$prefix/" },
        { '"/etc/nginx/metrics.json",', '"$prefix/metrics.json",' .. SOCKET },
        { "9464", tostring(listener) },
        { "127.0.0.1:8080", "127.0.0.1:" .. app.port },
        { "listen 80;", "listen 127.0.0.1:$port;" },
      }),
    }
    assert.equal("welcome\n", server:get("/").body)
    assert.equal("hello\n", server:get("/api/").body)
    for _, port in ipairs { server.port, listener } do
      wait.till(function()
        local samples = server:scrape(port)
        return samples['shop_logins_total{kind="guest"}'] == 1
          and samples['http_requests_total{host="shop.example",method="GET",status="2xx",route="api"}'] == 1
          and samples[('http_upstream_requests_total{upstream="127.0.0.1:%d",status="2xx"}'):format(app.port)]
            == 1
      end)
    end
    assert.equal("", complaints(server))
  end)

  it("lists all standard metrics", function()
    local app = nginx.start()
    local server = nginx.start {
      definitions = "{}",
      after = "http = require('resty.chalk').http()",
      http = "lua_shared_dict d 64k; proxy_cache_path $prefix/cache keys_zone=c:1m; log_by_lua_block { http:log() }",
      locations = ("location /proxied { proxy_cache c; proxy_pass http://127.0.0.1:%d/; }"):format(app.port),
      record = "",
    }
    server:get "/proxied"
    local page, types = files.read "docs/nginx.md", nil
    wait.till(function()
      types = select(2, server:scrape())
      return types.http_cache_requests_total and types.nginx_connections
    end)
    for name in pairs(types) do
      assert.truthy(name:find "^chalk_" or page:find("`" .. name .. "`", 1, true), name)
    end
    for row in page:match("\n## Standard HTTP metrics(.-)\n## "):gmatch "\n| (`[^|]+) |" do
      for name in row:gmatch "`([hn][%w]+_%w+[%w_]*)`" do
        assert.truthy(types[name], name)
      end
    end
  end)

  it("has a solution for systems that forbid anonymous memory", function()
    local server = nginx.start {
      conf = whole(replaced(block_of("docs/nginx.md", "nginx", 3), {
        { '"/etc/nginx/metrics.json",', '"$prefix/metrics.json",' .. SOCKET },
        { '"/run/nginx-metrics"', '"$prefix/metrics"' },
      }) .. [[
        init_worker_by_lua_block { require("resty.chalk").init_worker() }
        server {
          listen 127.0.0.1:$port;
          location /metrics { content_by_lua_block { require("resty.chalk").serve() } }
        }]]),
    }
    assert.truthy(server:scrape().chalk_series)
    assert.equal("", complaints(server))
  end)

  it("has working steps to migrate from nginx-lua-prometheus", function()
    local server = nginx.start {
      conf = whole(replaced(block_of("docs/nginx-lua-prometheus.md", "nginx", 1), {
        { "definitions = {},", "definitions = {}," .. SOCKET },
        { "listen 9145;", "listen 127.0.0.1:$port; server_name shop.example;" },
      })),
    }
    local samples
    wait.till(function()
      samples = server:scrape()
      return (samples['shop_nginx_http_requests_total{host="shop.example",status="200"}'] or 0) > 1
    end)
    assert.truthy(samples['shop_nginx_http_request_duration_seconds_bucket{host="shop.example",le="0.1"}'])
    assert.equal("", complaints(server))
  end)
end)
