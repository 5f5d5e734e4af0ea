-- Runs a real nginx in its own directory.

local uv = require "luv"

local M = {}

local MODULES = { "ndk_http_module.so", "ngx_http_lua_module.so" }
local FOLDERS = { "/usr/lib/nginx/modules/", "/usr/lib64/nginx/modules/", "/usr/share/nginx/modules/" }
local START, STOP = 30, 10 -- time limits in seconds

local function now() return uv.hrtime() / 1e9 end

local function exists(path) return uv.fs_stat(path) ~= nil end

local function read(path)
  local file = io.open(path)
  if not file then return nil end
  local text = file:read "*a"
  file:close()
  return text
end

M.read = read

local function run(command)
  local pipe = assert(io.popen(command))
  local output = pipe:read "*a"
  pipe:close()
  return output
end

M.run = run

local function free_port()
  local socket = uv.new_tcp()
  assert(socket:bind("127.0.0.1", 0))
  local port = socket:getsockname().port
  socket:close()
  uv.run "nowait"
  return port
end

-- Returns the lines that load nginx's Lua module; "" if nginx has Lua built in, as OpenResty has.
local function modules()
  for _, folder in ipairs(FOLDERS) do
    if exists(folder .. MODULES[2]) then
      return ("load_module %s%s;\nload_module %s%s;"):format(folder, MODULES[1], folder, MODULES[2])
    end
  end
  return ""
end

---@class bench.Server
local Server = {}
Server.__index = Server

local function write_conf(self, template)
  local conf = assert(read(template)):gsub("@(%w+)@", function(name) return assert(self.settings[name], name) end)
  local file = assert(io.open(self.prefix .. "/nginx.conf", "w"))
  file:write(conf)
  file:close()
end

local function wait(seconds, what, done)
  local deadline = now() + seconds
  while not done() do
    if now() > deadline then error(what, 0) end
    uv.run "nowait"
    uv.sleep(20)
  end
end

-- Starts nginx in this session and not as a daemon, so that it inherits the priority of the bench.
local function spawn(self)
  local output = assert(uv.fs_open(self.prefix .. "/output", "w", tonumber("644", 8)))
  local process, problem = uv.spawn("nginx", {
    args = { "-p", self.prefix, "-c", self.prefix .. "/nginx.conf", "-e", self.prefix .. "/error.log" },
    stdio = { nil, output, output },
  }, function() self.ended = true end)
  uv.fs_close(output)
  assert(process, "nginx: " .. tostring(problem))
end

--- Starts nginx. `settings` has the number of workers, and a value for each further @name@ in the template.
---@param template string
---@param settings table
---@return bench.Server
function M.start(template, settings)
  local prefix = assert(uv.fs_mkdtemp((os.getenv "TMPDIR" or "/tmp") .. "/chalk-bench-XXXXXX"))
  assert(uv.fs_chmod(prefix, tonumber("755", 8)))
  local self = setmetatable({ prefix = prefix, settings = settings }, Server)
  settings.prefix, settings.modules = prefix, modules()
  settings.port, settings.listener = free_port(), free_port()
  write_conf(self, template)
  spawn(self)
  wait(START, "nginx wrote no pid file in time", function() return self.ended or self:master() end)
  if self.ended then error("nginx: " .. read(prefix .. "/output"), 0) end
  return self
end

---@return integer?
function Server:master() return tonumber(read(self.prefix .. "/nginx.pid") or "") end

--- Returns the pids of the master and the workers.
function Server:processes()
  local master = self:master()
  local list = { master }
  for pid in run("ps -o pid= --ppid " .. master):gmatch "%d+" do
    list[#list + 1] = tonumber(pid)
  end
  return list
end

--- Returns the memory of all processes in MiB, in which each shared page counts once (Pss).
function Server:memory()
  local sum = 0
  for _, pid in ipairs(self:processes()) do
    local text = read(("/proc/%d/smaps_rollup"):format(pid)) or ""
    sum = sum + (tonumber(text:match "\nPss:%s+(%d+) kB") or 0)
  end
  return sum / 1024
end

--- Waits until every worker has filled its series.
function Server:wait_full()
  local wanted = "stock_full " .. self.settings.workers
  wait(START, "the workers did not fill the metrics in time", function()
    local command = "curl -s --max-time 20 http://127.0.0.1:%d/metrics | grep '^stock_full'"
    return run(command:format(self.settings.listener)):find(wanted, 1, true)
  end)
end

function Server:stop()
  local master = self:master()
  if master then
    uv.kill(master, "sigterm")
    wait(STOP, "nginx did not end in time", function() return self.ended end)
  end
  run("rm -rf " .. self.prefix)
end

return M
