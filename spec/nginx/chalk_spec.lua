--- chalk in a real nginx. If this file fails, a phase cannot record, a scrape misses records of a worker, or a hostile
--- request affects another one.

package.path = "spec/?.lua;" .. package.path

local commands = require "support.commands"
local exposition = require "support.exposition"
local files = require "support.files"
local nginx = require "support.nginx"
local request = require "support.request"
local wait = require "support.wait"

local PHASES = [[{ "tags": { "phase": { "value_type": "string" } }, "namespaces": { "ngx": { "metrics": [
  { "name": "seen", "type": "count", "tags": [ { "tag": "phase" } ] } ] } } }]]

-- Copies the Lua tree and the library to a folder that all users can read. Returns nginx's paths to them, and the
-- folder.
local function public_copy()
  local folder, here = files.name(), assert(package.searchpath("chalk", package.path)):match "^(.*)/chalk/init.lua$"
  local library = os.getenv "CHALK_LIBRARY" or assert(package.searchpath("libchalk", package.cpath))
  assert(commands.run(([[
    cp -r '%s' %s && cp '%s' %s/libchalk.so && { [ -e %s/chalk/chalk.h ] || cp '%s'/../src/chalk.h %s/chalk/; } &&
    chmod -R a+rX %s]]):format(here, folder, library, folder, folder, here, folder, folder)))
  return ("%s/?.lua;%s/?/init.lua;;"):format(folder, folder), folder .. "/?.so;;", folder
end

local function by_phase(server)
  local found = {}
  for key, value in pairs((server:scrape())) do
    local phase = key:match '^ngx_seen_total{phase="([%w_ ]+)"}$'
    if phase then found[phase] = value end
  end
  return found
end

local function mark(phase) return ('metrics.ngx.seen{ phase = "%s" }:inc()'):format(phase) end

local function block(directive, phase) return ("%s_by_lua_block { %s }\n"):format(directive, mark(phase)) end

describe("recording in nginx", function()
  if nginx.missing() then return pending(nginx.missing()) end

  after_each(nginx.stop_all)

  it("works in every phase of a request", function()
    local server = nginx.start {
      definitions = PHASES,
      after = mark "init",
      init_worker = 'require("resty.chalk").init_worker() ' .. mark "init_worker",
      record = "",
      http = "upstream behind { server 0.0.0.1; balancer_by_lua_block { "
        .. mark "balancer"
        .. ' require("ngx.balancer").set_current_peer("127.0.0.1", $port) } }',
      locations = "location /all { set_by_lua_block $x { "
        .. mark "set"
        .. ' return "" }'
        .. block("rewrite", "rewrite")
        .. block("access", "access")
        .. "content_by_lua_block { "
        .. mark "content"
        .. " ngx.timer.at(0, function() "
        .. mark "timer"
        .. ' end) ngx.print("x") }'
        .. block("header_filter", "header_filter")
        .. block("body_filter", "body_filter")
        .. block("log", "log")
        .. "}"
        .. "location /proxied { proxy_pass http://behind/; }",
    }
    assert(server:get("/all").status == 200)
    assert(server:get("/proxied").status == 200)
    local seen
    wait.till(function()
      seen = by_phase(server)
      return seen.timer and seen.log
    end)
    assert.is_true(seen.body_filter >= 1)
    seen.body_filter = nil
    assert.same({
      init = 1,
      init_worker = 2,
      set = 1,
      rewrite = 1,
      access = 1,
      content = 1,
      timer = 1,
      header_filter = 1,
      log = 1,
      balancer = 1,
    }, seen)
    assert.equal("", server:complaints())
  end)

  it("works in the phases of a TLS handshake", function()
    local folder = files.name()
    local made = commands.run(
      (
        "mkdir %s && openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost "
        .. "-keyout %s/key.pem -out %s/cert.pem >/dev/null 2>&1"
      ):format(folder, folder, folder)
    )
    if not made then return pending "there is no openssl" end
    local port = nginx.free_port()
    local server = nginx.start {
      definitions = PHASES,
      record = "",
      http = (
        "server { listen 127.0.0.1:%d ssl; ssl_certificate %s/cert.pem; ssl_certificate_key %s/key.pem; %s %s "
        .. "return 200 ok; }"
      ):format(
        port,
        folder,
        folder,
        block("ssl_client_hello", "ssl_client_hello"),
        block("ssl_certificate", "ssl_certificate")
      ),
      locations = ("location /tls { proxy_pass https://127.0.0.1:%d; }"):format(port),
    }
    assert.equal("ok", server:get("/tls").body)
    assert.same({ ssl_client_hello = 1, ssl_certificate = 1 }, by_phase(server))
    os.execute("rm -r " .. folder)
  end)

  it("before init_worker is not lost, also over a reload", function()
    local server = nginx.start { definitions = PHASES, record = "", after = mark "init" }
    assert.same({ init = 1 }, by_phase(server))
    server:reload()
    assert.same({ init = 2 }, by_phase(server))
  end)

  it("keeps the bytes of a hostile request inside its label value", function()
    local server = nginx.start {
      definitions = PHASES,
      record = [[ log_by_lua_block {
        metrics.ngx.seen:with(ngx.var.http_x_tag or ngx.unescape_uri(ngx.var.request_uri)):inc() } ]],
      server = "large_client_header_buffers 4 128k;",
    }
    local n = 0
    local function send(path, headers)
      n = n + 1
      return assert(server:get(path, { headers = headers }))
    end
    assert.equal(200, send("/%0Aforged_total%201%0A").status)
    assert.equal(200, send("/%22%7D%201%0A%23%20TYPE%20x%20counter%0Ax%7Ba=%22").status)
    assert.equal(200, send("/%5C%22%5C%5C%0D%0A%01%7F").status)
    assert.equal(200, send("/%FF%C0%80%ED%A0%80%F5%80%80%80%E2%82").status)
    assert.equal(200, send("/" .. ("a"):rep(65536)).status)
    assert.equal(200, send("/" .. ("%FF"):rep(20000)).status)
    assert.equal(200, send("/", 'X-Tag: a\255"b\\n} 5\r\n').status)
    local samples, types
    wait.till(function()
      samples, types = server:scrape()
      return exposition.sum(samples, "ngx_seen_total") == n
    end)
    assert.is_nil(samples.forged_total)
    assert.is_nil(types.x)
    for key in pairs(samples) do
      assert.is_truthy(key:find "^ngx_seen_total[{]" or key:find "^chalk_", key)
    end
    local response = server:get("/metrics", { headers = "Accept: application/openmetrics-text\r\n" })
    assert.equal("# EOF\n", response.body:sub(-6))
  end)

  it("works in workers of another user", function()
    local id = io.popen "id -u"
    local root = id:read "*a" == "0\n"
    id:close()
    if not root then return pending "only root can start workers as another user" end
    for _, socket in ipairs { false, "$prefix/a.sock" } do
      local path, cpath, folder = public_copy()
      local options = { user = "nobody", path = path, cpath = cpath, socket = socket }
      options.options = "exporters = { require('chalk').exporter.prometheus { listen = '127.0.0.1:0' } },"
      local server = nginx.start(options)
      assert(server:get "/")
      local worker = server:workers()[1]
      assert.is_nil(files.read(("/proc/%d/status"):format(worker)):match "\nUid:%s+0%s")
      assert.same({ 1, 1 }, { server:counted() })
      server:signal("kill", server:holder())
      assert.same({ 1, 1 }, { server:counted() })
      server:reload(options)
      assert.same({ 1, 1 }, { server:counted() })
      assert.is_truthy(server:complaints():find "^[^\n]* exited on signal 9$", server:complaints())
      nginx.stop_all()
      os.execute("rm -r " .. folder)
    end
  end)

  it("works with lua_code_cache off, which makes a VM for each request, and leaks no slot", function()
    local requests = nginx.long and 10000 or 200
    local server = nginx.start {
      http = "lua_code_cache off;",
      locations = [[
      location /work { access_log $prefix/access.log; content_by_lua_block {
        metrics.http.requests:with("200"):inc() metrics.http.time:record(1) ngx.say("x") } } ]],
    }
    local started = nginx.now()
    assert(commands.run(("wrk -t1 -c4 -d%ds http://127.0.0.1:%d/work >/dev/null"):format(1, server.port)))
    while server:lines() < requests do
      server:wrk({ seconds = nginx.long and 5 or 1, connections = 4, path = "/work" }).finish()
    end
    local lines, counted, timed = server:settled()
    assert.same({ lines, lines }, { counted, timed })
    assert.is_true(server:info().writers < 16, server:info().writers .. " slots are taken")
    if nginx.long then print(("%d VMs in %.0f s"):format(lines, nginx.now() - started)) end
    assert.equal("", (server:complaints():gsub("[^\n]*lua_code_cache is off[^\n]*\n?", "")))
  end)
end)

describe("resty.chalk's serve", function()
  if nginx.missing() then return pending(nginx.missing()) end

  local server

  before_each(function()
    server = nginx.start()
    assert(server:get "/")
    server:settled()
  end)

  after_each(nginx.stop_all)

  it("answers GET and HEAD in the requested format", function()
    local response = server:get "/metrics"
    assert.equal("text/plain; version=0.0.4; charset=utf-8", response.headers["content-type"])
    assert.equal("Accept, Accept-Encoding", response.headers.vary)
    local head = server:get("/metrics", { method = "HEAD" })
    assert.same(
      { 200, "", response.headers["content-type"] },
      { head.status, head.body, head.headers["content-type"] }
    )
    local open = server:get("/metrics", { headers = "Accept: application/openmetrics-text; version=1.0.0\r\n" })
    assert.is_truthy(open.headers["content-type"]:find "^application/openmetrics%-text")
    assert.equal("# EOF\n", open.body:sub(-6))
    local posted = server:get("/metrics", { method = "POST" })
    assert.equal(405, posted.status)
    assert.equal(200, server:get("/metrics").status)
    assert.equal("", server:complaints())
  end)

  it("compresses its answer", function()
    -- curl runs without a sanitizer's preloaded library, with which it may hang before it begins.
    local command = "env -u LD_PRELOAD curl -s --max-time 30 -H 'Accept-Encoding: gzip' -D %s/head "
      .. "http://127.0.0.1:%d/metrics | env -u LD_PRELOAD gzip -d"
    local pipe = io.popen(command:format(server.prefix, server.port))
    local body = pipe:read "*a"
    pipe:close()
    assert.is_truthy(files.read(server.prefix .. "/head"):lower():find("content-encoding: gzip", 1, true))
    assert.equal(1, exposition.parse(body)['http_requests_total{status="200"}'])
  end)

  it("answers HTTP/1.0, and keeps a connection", function()
    local old = request.get(server.port, { raw = "GET /metrics HTTP/1.0\r\n\r\n" })
    assert.equal(1, exposition.parse(old.body)['http_requests_total{status="200"}'])
    local two =
      "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\nGET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    local both = request.send(server.port, { raw = two })
    both.wait()
    assert.equal(2, select(2, both.received():gsub("HTTP/1.1 200 OK", "")))
  end)

  it("goes on when clients disconnect", function()
    local before = #files.read(("/proc/%d/stat"):format(server:holder()))
    assert.is_true(before > 0)
    for i = 1, 50 do
      local pending_one = request.send(server.port)
      request.turn(i % 5 / 1000)
      pending_one.close()
    end
    assert.equal(1, (server:counted()))
    assert.equal("", server:complaints())
  end)
end)

describe("chalk.flush in nginx", function()
  if nginx.missing() then return pending(nginx.missing()) end

  local path

  before_each(function() path = files.name() end)

  after_each(function()
    nginx.stop_all()
    files.clean()
  end)

  -- Starts a server with a slow exporter.
  local function start(locations)
    return nginx.start {
      workers = 1,
      locations = locations,
      options = ([[ flush_interval = 3600, exporters = {
      require('chalk').exporter.custom('support.file_exporter', { path = %q, yields = 200 }) }, ]]):format(
        path
      ),
    }
  end

  it(
    "lets the worker's other requests go on in all phases in which nginx can wait, also those of a later nginx",
    function()
      local server = start [[ location /flush { content_by_lua_block {
      local others = 0
      ngx.thread.spawn(function()
        while true do
          ngx.sleep(0.001)
          others = others + 1
        end
      end)
      local get_phase = ngx.get_phase
      ngx.get_phase = function() return "a phase that is not known" end
      local ok = require("chalk").flush()
      ngx.get_phase = get_phase
      ngx.say(ok, " ", others > 10)
      ngx.exit(ngx.OK)
    } } ]]
      assert.equal("true true\n", server:get("/flush").body)
      assert.equal("", server:complaints())
    end
  )

  it("blocks in phases in which nginx cannot wait", function()
    local server = start [[ location /flush {
      header_filter_by_lua_block { ngx.header.x_flushed = tostring(require("chalk").flush()) }
      return 200 "x";
    } ]]
    assert.equal("true", server:get("/flush").headers["x-flushed"])
    assert.is_true(#files.read(path) > 0)
    assert.equal("", server:complaints())
  end)
end)

it("chalk.flush in an nginx where chalk is disabled returns at once", function()
  if nginx.missing() then return pending(nginx.missing()) end
  local server = nginx.start {
    workers = 1,
    options = "enabled = false,",
    locations = [[
    location /flush { content_by_lua_block { ngx.say(tostring(require("chalk").flush())) } }
  ]],
  }
  assert.equal("true\n", server:get("/flush").body)
  assert.equal("", server:complaints())
  nginx.stop_all()
  files.clean()
end)

-- Starts a server that must not start. Returns its error output.
local function refused(options)
  local server = nginx.new(options)
  local ok, output = server:launch()
  assert.is_nil(ok, "it has started")
  return output .. server:errors()
end

local PLAIN = [[
  worker_processes 1; $modules
  $main error_log $prefix/error.log info; pid $prefix/nginx.pid;
  events { }
  http {
    access_log off; lua_package_path "$path"; lua_package_cpath "$cpath";
    client_body_temp_path $prefix/body; proxy_temp_path $prefix/proxy; fastcgi_temp_path $prefix/fastcgi;
    uwsgi_temp_path $prefix/uwsgi; scgi_temp_path $prefix/scgi;
    $http
    server { listen 127.0.0.1:$port; location / { content_by_lua_block { $record } } location = /info { return 200; } }
  }
]]

describe("bad input to resty.chalk", function()
  if nginx.missing() then return pending(nginx.missing()) end

  after_each(nginx.stop_all)

  for what, case in pairs {
    ["a definitions file that is missing"] = {
      { before = "os.remove('$prefix/metrics.json')" },
      "metrics%.json: cannot be read: No such file",
    },
    ["definitions that are wrong"] = {
      { definitions = '{ "namespaces": { "a": { "metrics": [ {} ] } } }' },
      "metrics%.json",
    },
    ["definitions that are not JSON"] = { { definitions = "{ no" }, "metrics%.json" },
    ["no definitions"] = { { options = "definitions = false," }, "definitions" },
    ["an option that is not known"] = { { options = "flush_intervall = 1," }, "flush_intervall" },
    ["another driver"] = { { options = "driver = 'loop'," }, "driver must be" },
    ["init twice with other definitions"] = {
      { after = 'require("resty.chalk").init { definitions = "$prefix/other.json" }' },
      "called twice",
    },
    ["no options"] = { { before = 'require("resty.chalk").init()' }, "needs a table of options" },
  } do
    it(what .. ": nginx refuses to start, with a reason", function()
      local said = refused(case[1])
      assert.is_truthy(said:find(case[2]), said)
    end)
  end

  it("init twice with the same definitions: the second returns the same metrics", function()
    local server = nginx.start {
      after = [[
      assert(require("resty.chalk").init { definitions = "$prefix/metrics.json" } == metrics) ]],
    }
    assert(server:get "/")
    assert.same({ 1, 1 }, { server:counted() })
  end)

  for what, case in pairs {
    ["serve before init"] = { 'require("resty.chalk").serve()', "serve was called without init" },
    ["init in a request"] = {
      'require("resty.chalk").init { definitions = {} }',
      "init must be called in init_by_lua",
    },
    ["init_worker in a request"] = {
      'require("resty.chalk").init_worker()',
      "init_worker was called without init",
    },
  } do
    it(what .. ": the error names the mistake", function()
      local server = nginx.start { workers = 1, conf = PLAIN, record = case[1] }
      assert.equal(500, server:get("/").status)
      assert.is_truthy(server:errors():find(case[2], 1, true), server:errors())
    end)
  end

  -- Starts a server without init_worker, and waits until it answers.
  local function start_without(options)
    options.init_worker = " "
    local server = nginx.new(options)
    assert(server:launch())
    wait.till(function() return server:get "/info" end)
    return server
  end

  it("no init_worker: a scrape is answered at once with the name of the missing directive", function()
    local server = start_without {}
    local asked = nginx.now()
    local response = server:get("/metrics", { deadline = 30 })
    assert.is_true(nginx.now() - asked < 10, "it hung")
    assert.equal(503, response.status)
    local words = "init_worker() was not called: http {} needs init_worker_by_lua_block"
    assert.is_truthy(response.body:find(words, 1, true), response.body)
    assert.is_truthy(server:complaints():find("init_worker() was not called", 1, true))
    assert.equal(200, server:get("/").status)
    server:reload {} -- which mends it, once the old worker takes no more requests
    wait.till(function()
      local ok, counted = pcall(server.counted, server)
      return ok and counted == 1
    end)
  end)

  it("no init_worker: a flush fails with a message", function()
    local server = start_without {
      locations = [[ location /flush { content_by_lua_block {
      ngx.say(select(2, require("chalk").flush())) } } ]],
    }
    assert.is_truthy(server:get("/flush").body:find("init_worker() was not called", 1, true))
  end)

  it("no init_worker: the first record of a worker writes a message to the log", function()
    local server = start_without { workers = 1 }
    assert.equal("", server:complaints())
    for _ = 1, 3 do
      assert.equal(200, server:get("/").status)
    end
    wait.till(function() return server:complaints() ~= "" end)
    assert.equal(1, select(2, server:complaints():gsub("init_worker%(%) was not called", "")))
  end)

  it("no init_worker in one worker: another worker serves", function()
    local server =
      nginx.start { init_worker = [[
      if ngx.worker.id() == 0 then require("resty.chalk").init_worker() end ]] }
    wait.till(function() return server:holder() end)
    for _ = 1, 10 do
      assert.equal(200, server:get("/metrics").status)
    end
  end)

  it("a wrong record: only the log phase of that request fails", function()
    local server = nginx.start { record = "log_by_lua_block { metrics.http.requests:with(nil):inc() }" }
    assert.equal(200, server:get("/").status)
    wait.till(function() return server:complaints():find("status", 1, true) end)
    assert.equal(1, exposition.sum(server:scrape(), "chalk_errors_total"))
  end)
end)
