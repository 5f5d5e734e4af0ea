--- Runs a real nginx with its master and workers, in a temporary prefix, on free ports of loopback.
--
-- `start` writes the configuration and returns when nginx answers. `stop` ends every process of this nginx by its id
-- and removes the prefix. If the specs themselves are killed, a shell that watches them does the same. Requests are
-- counted by lines of the access log, because nginx writes a line in the same phase in which the specs record.

local uv = require "luv"
local core = require "chalk.core"
local commands = require "support.commands"
local exposition = require "support.exposition"
local files = require "support.files"
local ports = require "support.ports"
local request = require "support.request"
local wait = require "support.wait"

local M = {}

local MODULES = { "ndk_http_module.so", "ngx_http_lua_module.so" }
local STREAM_MODULES = { "ngx_stream_module.so", "ngx_stream_lua_module.so" } -- Debian has no package of the second

M.long = tonumber(os.getenv "NGINX_SECONDS") -- makes runs under load longer than by default

--- The common definitions, into which RECORD records.
M.DEFINITIONS = [[{
  "tags": { "status": { "value_type": "string" } },
  "namespaces": { "http": { "metrics": [
    { "name": "requests", "type": "count", "tags": [ { "tag": "status" } ] },
    { "name": "time", "type": "histogram", "unit": "seconds" }
  ] } }
}]]

M.RECORD = [[
  log_by_lua_block {
    metrics.http.requests:with(ngx.var.status):inc()
    metrics.http.time:record(tonumber(ngx.var.request_time))
  }
]]

local TEMPLATE = [[
$main
worker_processes $workers;
$modules
error_log $prefix/error.log info;
pid $prefix/nginx.pid;
events { worker_connections 1024; }
$stream
http {
  access_log off;
  client_body_temp_path $prefix/body;
  proxy_temp_path $prefix/proxy;
  fastcgi_temp_path $prefix/fastcgi;
  uwsgi_temp_path $prefix/uwsgi;
  scgi_temp_path $prefix/scgi;
  lua_package_path "$path";
  lua_package_cpath "$cpath";
  init_by_lua_block {
    $before
    metrics = require("resty.chalk").init { definitions = "$prefix/metrics.json", $options }
    $after
  }
  init_worker_by_lua_block { $init_worker }
  $http
  server {
    listen 127.0.0.1:$port;
    $server
    location = /metrics { content_by_lua_block { require("resty.chalk").serve() } }
    location = /info {
      content_by_lua_block {
        for name, value in pairs(require("chalk").info()) do
          ngx.say(name, " ", ("%.17g"):format(value))
        end
      }
    }
    location / {
      access_log $prefix/access.log;
      return 200 "hello\n";
      $record
    }
    $locations
  }
}
]]

local function output_of(command)
  local pipe = assert(io.popen(command))
  local text = pipe:read "*a"
  pipe:close()
  return text
end

-- Returns the lines of the configuration that load those of these modules that the folder has.
local function load_lines(folder, names)
  local lines = {}
  for _, name in ipairs(names) do
    if folder and uv.fs_stat(folder .. "/" .. name) then
      lines[#lines + 1] = ("load_module %s/%s;"):format(folder, name)
    end
  end
  return lines
end

local found

-- Finds the nginx program, and the lines that load its Lua modules.
local function find()
  if found then return found end
  found = {}
  local program = output_of("PATH=$PATH:/usr/sbin:/usr/local/openresty/nginx/sbin command -v nginx"):match "%S+"
  if not program then
    found.missing = "nginx is not installed"
    return found
  end
  local flags = output_of(program .. " -V 2>&1")
  local folder = flags:match "%-%-modules%-path=(%S+)"
  local lines, streams = load_lines(folder, MODULES), load_lines(folder, STREAM_MODULES)
  if #lines < #MODULES and not flags:find "lua" then found.missing = "nginx has no Lua module" end
  local has_stream = #streams == #STREAM_MODULES or flags:find "stream%-lua" or flags:find "ngx_stream_lua"
  if not has_stream then found.stream_missing = "nginx has no Lua module for stream {}" end
  for _, line in ipairs(#streams == #STREAM_MODULES and streams or {}) do
    lines[#lines + 1] = line
  end
  found.program, found.modules, found.ssl = program, table.concat(lines, "\n"), flags:find "http_ssl_module" ~= nil
  return found
end

--- Returns why specs of nginx cannot run; nil if they can. On CI a missing nginx is an error.
---@return string?
function M.missing()
  local missing = find().missing
  if missing and os.getenv "CI" == "true" then error(missing, 0) end
  return missing
end

--- Returns why specs of `stream {}` cannot run; nil if they can.
---@return string?
function M.stream_missing() return find().stream_missing end

--- Returns a port that is free at the moment.
---@return integer
function M.free_port() return ports.tcp() end

---@class spec.Nginx
---@field prefix string
---@field port integer
local Server = {}
Server.__index = Server

local function write(path, text)
  local file = assert(io.open(path, "wb"))
  file:write(text)
  file:close()
end

-- Returns lines that pass the variables of a sanitizer to the workers. The runtime must be preloaded before the
-- library, and nginx passes on only the variables that its configuration names.
local function preloads()
  local lines = {}
  for _, name in ipairs { "LD_PRELOAD", "ASAN_OPTIONS", "UBSAN_OPTIONS" } do
    if os.getenv(name) then lines[#lines + 1] = ("env %s;"):format(name) end
  end
  return table.concat(lines, "\n")
end

local function is_root() return output_of "id -u" == "0\n" end

local function user_line(user) return ("user %s %s;\n"):format(user, output_of("id -gn " .. user):match "%S+") end

---@class spec.NginxOptions
---@field workers integer? default 2
---@field definitions string? JSON, default M.DEFINITIONS
---@field options string? Lua, further options of resty.chalk's init
---@field before string? Lua code of init_by_lua before chalk's init; `after`: code after it
---@field init_worker string? Lua code
---@field record string? directives of location /, default M.RECORD
---@field locations string? further locations; `server`, `http` and `main`: directives of those levels
---@field stream string? a block before `http {}`, in which $path and $cpath are replaced
---@field user string? the user of the workers
---@field path string? lua_package_path; `cpath`: lua_package_cpath
---@field socket string|false? chalk's socket; false: chalk's default

local function socket_option(self, options)
  if options.socket == false then return "" end
  return ("socket = %q,"):format(options.socket or self.prefix .. "/chalk.sock")
end

function Server:configure(options)
  local library = os.getenv "CHALK_LIBRARY"
  local user = options.user or (is_root() and "root")
  local values = {
    prefix = self.prefix,
    port = self.port,
    modules = find().modules,
    main = (user and user_line(user) or "") .. preloads() .. (options.main or ""),
    workers = options.workers or 2,
    path = options.path or package.path,
    cpath = options.cpath or ((library and library:match "^(.*/)" .. "?.so;" or "") .. package.cpath),
    options = socket_option(self, options) .. (options.options or ""),
    before = options.before or "",
    after = options.after or "",
    init_worker = options.init_worker or 'require("resty.chalk").init_worker()',
    record = options.record or M.RECORD,
    locations = options.locations or "",
    server = options.server or "",
    http = options.http or "",
  }
  local function fill(text) return (text:gsub("%$([%l_]+)", values)) end
  for name, value in pairs(values) do
    if type(value) == "string" then values[name] = value:gsub("%$prefix", self.prefix):gsub("%$port", self.port) end
  end
  values.stream = fill(options.stream or "")
  write(self.prefix .. "/nginx.conf", fill(options.conf or TEMPLATE))
  write(self.prefix .. "/metrics.json", options.definitions or M.DEFINITIONS)
end

local function last_line(text) return text:match "([^\n]*)\n*$" end

function Server:launch()
  local command = ("cd '%s' && '%s' -p '%s' -c '%s/nginx.conf' -e '%s/error.log' >'%s/output' 2>&1 </dev/null"):format(
    self.prefix,
    find().program,
    self.prefix,
    self.prefix,
    self.prefix,
    self.prefix
  )
  local started = commands.run(command)
  self.output = files.read(self.prefix .. "/output")
  if not started then return nil, self.output end
  -- The process that was started forks the master and ends before the master writes its pid file.
  self.master = wait.till(function() return self:pid_in "nginx.pid" end, 10, "a pid file")
  return true
end

-- Waits until the specs have ended. It runs in a new session, so that a signal to the specs' process group does not end
-- it.
local WATCH = [[
  while [ -e "$0" ] && kill -0 "$1" 2>/dev/null; do sleep 1; done
  for file in "$0"/nginx.pid*; do
    [ -e "$file" ] && for pid in $(cat "$file") $(cat /proc/$(cat "$file")/task/*/children); do kill -9 "$pid"; done
  done
  rm -rf "$0"]]

-- Starts a shell that ends this nginx if the specs end without doing so.
local function watch(self)
  local process
  process = assert(uv.spawn("setsid", {
    args = { "sh", "-c", WATCH, self.prefix, tostring(uv.os_getpid()) },
    detached = true,
  }, function() process:close() end))
  process:unref()
end

local servers = {}

--- Makes a prefix with a configuration, without starting nginx.
---@param options spec.NginxOptions
---@return spec.Nginx
function M.new(options)
  local prefix = assert(uv.fs_mkdtemp "/tmp/chalk-nginx-XXXXXX")
  assert(uv.fs_chmod(prefix, tonumber("755", 8)))
  local self = setmetatable({ prefix = prefix, port = M.free_port(), known = {} }, Server)
  servers[#servers + 1] = self
  watch(self)
  self:configure(options)
  return self
end

--- Starts an nginx and waits until it answers.
---@param options spec.NginxOptions?
---@return spec.Nginx
function M.start(options)
  local self = M.new(options or {})
  assert(self:launch())
  wait.till(
    function() return #self:workers() == (options and options.workers or 2) and self:get "/info" end,
    10,
    "an answer: " .. last_line(self:errors())
  )
  return self
end

-- Processes

function Server:pid_in(name) return tonumber((files.read(self.prefix .. "/" .. name):match "%d+")) end

--- Returns the children of a master. During an upgrade its successor is one of them.
---@return integer[]
function Server:children(master)
  local list = {}
  for pid in files.read(("/proc/%d/task/%d/children"):format(master, master)):gmatch "%d+" do
    list[#list + 1] = tonumber(pid)
    self.known[tonumber(pid)] = true
  end
  return list
end

--- Returns the workers of the master, or of another master.
---@return integer[]
function Server:workers(master)
  local list = {}
  for _, pid in ipairs(self:children(master or self.master)) do
    local command = files.read(("/proc/%d/cmdline"):format(pid)) or "" -- nil: the process has ended meanwhile
    if command:find("worker process", 1, true) then list[#list + 1] = pid end
  end
  return list
end

local function is_alive(pid)
  local state = files.read(("/proc/%d/stat"):format(pid)):match "%) (%u)"
  return state ~= nil and state ~= "Z"
end

M.is_alive = is_alive

---@param name string such as "hup"
---@param pid integer? default: the master
function Server:signal(name, pid) return uv.kill(pid or self.master, "sig" .. name) end

--- Waits for the worker that flushes.
---@return integer
function Server:holder()
  return wait.till(function()
    local holder = self:info().holder
    return holder > 0 and is_alive(holder) and holder
  end, 10, "a worker that flushes")
end

--- Waits for a worker that does not flush.
---@return integer
function Server:other()
  return wait.till(function()
    local holder = self:holder()
    for _, pid in ipairs(self:workers()) do
      if pid ~= holder then return pid end
    end
  end, 10, "another worker")
end

--- Writes another configuration, if one is given, and reloads nginx. Waits until new workers answer.
---@param options spec.NginxOptions?
function Server:reload(options)
  if options then self:configure(options) end
  local before, workers = {}, options and options.workers
  for _, pid in ipairs(self:workers()) do
    before[pid] = true
  end
  self:signal "hup"
  wait.till(function()
    local fresh = 0
    for _, pid in ipairs(self:workers()) do
      if not before[pid] then fresh = fresh + 1 end
    end
    return fresh >= (workers or 1) and self:get "/info"
  end, 10, "workers with the new configuration: " .. last_line(self:errors()))
end

-- Requests and logs

---@return table? response
---@return string? problem
function Server:get(path, options)
  options = options or {}
  options.path = path
  return request.get(self.port, options)
end

--- Returns chalk.info() of a worker.
---@return table<string, number>
function Server:info()
  local response = wait.till(function()
    local response = self:get "/info"
    return response and response.status == 200 and response
  end)
  local info = {}
  for name, value in response.body:gmatch "(%S+) (%S+)\n" do
    info[name] = tonumber(value)
  end
  return info
end

--- Scrapes through `serve`, or from the listener at `port`. Raises an error if there is no answer.
---@param port integer?
---@return table<string, number> samples
---@return table<string, string> types
function Server:scrape(port)
  local response, problem = request.get(port or self.port)
  assert(response, problem)
  assert(response.status == 200, response.head .. response.body)
  return exposition.parse(response.body)
end

--- Returns how many requests were counted, and of how many the time was recorded.
---@return number, number
function Server:counted()
  local samples = self:scrape()
  return exposition.sum(samples, "http_requests_total"), exposition.sum(samples, "http_time_seconds_count")
end

--- Waits until all requests in the access log are counted. Returns the last figures, also if that does not happen.
---@return integer lines, number counted, number timed
function Server:settled()
  local lines, counted, timed
  pcall(wait.till, function()
    counted, timed = self:counted()
    lines = self:lines()
    return lines == counted and lines == timed
  end, 3)
  return lines, counted, timed
end

function Server:errors() return files.read(self.prefix .. "/error.log") end

--- Returns the lines of the error log that have level error or above, and those that are not nginx's own.
---@return string
function Server:complaints()
  local list = {}
  for line in self:errors():gmatch "[^\n]+" do
    local level = line:match "^%S+ %S+ %[(%l+)%]"
    if not level or level == "error" or level == "crit" or level == "alert" or level == "emerg" then
      list[#list + 1] = line
    end
  end
  return table.concat(list, "\n")
end

--- Returns the number of requests in the access log.
---@return integer
function Server:lines()
  local _, n = files.read(self.prefix .. "/access.log"):gsub("\n", "")
  return n
end

--- Starts wrk. `finish` waits for its end and returns its report.
---@param options { seconds: number, connections: integer?, path: string?, script: string? }
function Server:wrk(options)
  local script = options.script and self.prefix .. "/wrk.lua"
  if script then write(script, options.script) end
  local over
  local out = self.prefix .. "/wrk.out"
  local process, pid = uv.spawn("/bin/sh", {
    args = {
      "-c",
      ("exec wrk -t1 -c%d -d%ds %s http://127.0.0.1:%d%s >%s 2>&1"):format(
        options.connections or 16,
        options.seconds,
        script and "-s " .. script or "",
        self.port,
        options.path or "/",
        out
      ),
    },
  }, function() over = true end)
  self.wrk_pid = pid
  return {
    is_over = function() return over end,
    finish = function()
      while not over do
        uv.run "once"
      end
      process:close()
      self.wrk_pid = nil
      return files.read(out)
    end,
  }
end

-- The end

-- Returns the paths of unix sockets that a process has outside of the prefix, because chalk chose the path.
local function sockets_of(pid)
  local own, list = {}, {}
  local pipe = io.popen(("readlink /proc/%d/fd/* 2>/dev/null"):format(pid))
  for inode in pipe:read("*a"):gmatch "socket:%[(%d+)%]" do
    own[inode] = true
  end
  pipe:close()
  for inode, path in files.read("/proc/net/unix"):gmatch "(%d+) (/%S*/chalk%-[^/\n]*%.sock)\n" do
    if own[inode] then list[#list + 1] = path end
  end
  return list
end

--- Ends every process and removes the prefix.
function Server:stop()
  local pids = {}
  if self.wrk_pid then pids[self.wrk_pid] = true end
  for _, name in ipairs { "nginx.pid", "nginx.pid.oldbin" } do
    local master = self:pid_in(name)
    if master and is_alive(master) then
      uv.kill(master, "sigstop") -- a running master would start new workers
      for _, path in ipairs(sockets_of(master)) do
        os.remove(path)
      end
      pids[master] = true
      self:children(master)
    end
  end
  for pid in pairs(self.known) do
    local line = is_alive(pid) and files.read(("/proc/%d/cmdline"):format(pid)) or ""
    if line:find "^nginx: " then pids[pid] = true end
  end
  for pid in pairs(pids) do
    uv.kill(pid, "sigkill")
  end
  for pid in pairs(pids) do
    pcall(wait.till, function() return not is_alive(pid) end, 5)
  end
  os.execute(("rm -rf '%s'"):format(self.prefix))
end

--- Stops every nginx that was started, for after_each.
function M.stop_all()
  for _, server in ipairs(servers) do
    server:stop()
  end
  servers = {}
  uv.run "nowait" -- finishes closing handles: luv crashes if the VM ends while one is closing
end

--- Returns the seconds of chalk's monotonic clock.
---@return number
function M.now() return core.C.chalk_now() end

return M
