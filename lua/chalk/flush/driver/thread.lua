-- The thread driver flushes in a separate VM on an OS thread, which the C core runs beside the application. This file
-- starts and ends the thread; chalk.flush.driver.worker is the code that runs in it.

local core = require "chalk.core"
local exporters = require "chalk.flush.exporters"
local log = require "chalk.base.log"
local paths = require "chalk.base.paths"
local serial = require "chalk.base.serial"

local ffi, C = core.ffi, core.C

local M = {}

local START_TIMEOUT, LAST_FLUSH = 10, 5 -- seconds

-- Functions of the Lua API, which the FFI finds in the process. This module declares them under private names (the real
-- ones follow __asm__), because the application may have declared some of them with other types.
if not pcall(function() return ffi.C.chalk_lua_close end) then
  ffi.cdef [[
    void *chalk_lua_newstate(void) __asm__("luaL_newstate");
    void chalk_lua_openlibs(void *state) __asm__("luaL_openlibs");
    int chalk_lua_loadbuffer(void *state, const char *text, size_t size, const char *name) __asm__("luaL_loadbuffer");
    void chalk_lua_pushlstring(void *state, const char *text, size_t size) __asm__("lua_pushlstring");
    int chalk_lua_pcall(void *state, int arguments, int results, int handler) __asm__("lua_pcall");
    const char *chalk_lua_tolstring(void *state, int index, size_t *size) __asm__("lua_tolstring");
    void chalk_lua_close(void *state) __asm__("lua_close");
  ]]
end

-- Lua code that sets up a new VM and calls a function there with a serialized table.
local function chunk_for(call)
  return ([[
local path, cpath, library, text = ...
package.path, package.cpath = path, cpath
package.preload["chalk.library"] = function() return library end
return %s(text)
]]):format(call)
end

local BOOT = chunk_for 'require("chalk.flush.driver.worker").run'
local TRIAL = chunk_for 'require("chalk.flush.driver.trial").run'

---@class chalk.ThreadDriver
local Driver = {}
Driver.__index = Driver

-- The functions of the Lua API as the core takes them. Their addresses are valid as long as the process lives.
local function lua_api()
  local L = ffi.C
  return ffi.new("chalk_lua", {
    L.chalk_lua_newstate,
    L.chalk_lua_openlibs,
    L.chalk_lua_loadbuffer,
    L.chalk_lua_pushlstring,
    L.chalk_lua_pcall,
    L.chalk_lua_tolstring,
    L.chalk_lua_close,
  })
end

local function start_thread(chunk, where, argument, segment, generation)
  local texts = { chunk, where.path, where.cpath, where.library, argument }
  local sizes = ffi.new("size_t[?]", #texts)
  for i, text in ipairs(texts) do
    sizes[i - 1] = #text
  end
  local list = ffi.new("const char *[?]", #texts, texts)
  return C.chalk_thread_start(lua_api(), list, sizes, #texts, segment, generation, core.message)
end

--- Loads the modules of exporters in a temporary VM like that of the flush thread. Without this check a process that
--- does not start the flush thread itself, as a server's first process, would learn too late that a module is missing.
--- Raises a message if a module cannot be loaded.
---@param untried { name: string, module: string }[]
function M.try(untried)
  if #untried == 0 then return end
  local thread = start_thread(TRIAL, paths.absolute(), serial.write(untried), nil, 0)
  if thread == nil then error(core.said(), 0) end
  local failed = C.chalk_thread_wait_ready(thread, START_TIMEOUT, core.message) ~= 0
  local message = core.said()
  C.chalk_thread_abandon(thread)
  if C.chalk_thread_wait(thread, START_TIMEOUT) == 1 then C.chalk_thread_free(thread) end
  if failed then error(message, 0) end
end

local function address_of(pointer) return tonumber(ffi.cast("uintptr_t", pointer)) end

-- Starts the thread and waits until it runs the flush loop, or waits for the role.
---@return string? message why the thread cannot work yet; it goes on trying
local function launch(self)
  local config = {}
  for name, value in pairs(self.config) do
    config[name] = value
  end
  config.paths = nil
  config.segment, config.client = address_of(self.client.segment), self.client.name
  config.listener = exporters.listener(self.client)
  local ok, text = pcall(serial.write, config)
  if not ok then error(text .. " (the thread driver copies options to the flush thread's VM)", 0) end
  local thread = start_thread(BOOT, self.config.paths, text, self.client.segment, self.config.generation)
  if thread == nil then error(core.said(), 0) end
  self.thread = thread
  if C.chalk_thread_wait_ready(thread, START_TIMEOUT, core.message) ~= 0 then return core.said() end
end

-- Ends the thread. Returns false if it does not end in time. `refused`: without a last flush, because init failed.
local function finish(self, timeout, refused)
  local thread = self.thread
  self.thread, self.closed = nil, true
  if refused then
    C.chalk_thread_abandon(thread)
  else
    C.chalk_thread_stop(thread)
  end
  self.stuck = C.chalk_thread_wait(thread, timeout) == 0
  if not self.stuck then C.chalk_thread_free(thread) end
  return not self.stuck
end

--- Starts the flush thread. Raises a message if it cannot start.
---@param client chalk.Client
---@param config table
---@return chalk.ThreadDriver
function M.start(client, config)
  local self = setmetatable({ client = client, config = config }, Driver)
  config.clock = nil
  local message = launch(self)
  if message then
    client.live.stuck = not finish(self, LAST_FLUSH, true)
    error(message, 0)
  end
  return self
end

--- Makes a driver without a thread, for a process in which another VM has started one.
---@param client chalk.Client
---@param config table
---@return chalk.ThreadDriver
function M.attach(client, config) return setmetatable({ client = client, config = config, attached = true }, Driver) end

-- Waits for a flush. If the client has a function `pause`, which lets the application's other work go on, it is called
-- between looks; otherwise, or when `pause` fails, this blocks.
local function wait(client, ticket, timeout)
  local pause, deadline = client.pause, C.chalk_now() + timeout
  while pause and C.chalk_flush_wait(client.segment, ticket, 0) ~= 0 do
    local left = deadline - C.chalk_now()
    if left <= 0 then return false end
    if not pause() then return C.chalk_flush_wait(client.segment, ticket, left) == 0 end
  end
  return pause ~= nil or C.chalk_flush_wait(client.segment, ticket, timeout) == 0
end

--- Asks the holder of the flusher's role, in this process or another, for a flush, and waits for it.
---@param timeout number seconds
---@return boolean?, string?
function Driver:flush(timeout)
  if self.closed then return true end
  self.client:on_stale()
  if not self.thread then self:forked() end -- because the start in the forked child failed
  local segment = self.client.segment
  local ticket = C.chalk_flush_request(segment)
  if self.thread then C.chalk_thread_wake(self.thread) end
  if wait(self.client, ticket, timeout) then return true end
  return nil, "the flush did not end in time"
end

--- Starts a thread in a forked child, unless the driver was shut down. The parent's thread does not exist in the child,
--- and the child's thread takes the role when the parent has ended.
function Driver:forked()
  self.thread = nil
  if self.attached or self.closed then return end
  local ok, message = pcall(launch, self)
  if message then
    local what = ok and "the flush thread of a forked process cannot work yet and tries again: "
      or "the flush thread of a forked process does not start: "
    log.write("error", what .. message)
  end
end

--- Flushes for the last time and ends the thread.
---@return boolean?, string?
function Driver:close(timeout)
  if not self.thread then return true end
  if not finish(self, timeout or LAST_FLUSH) then return nil, "the last flush did not end in time" end
  exporters.unlisten(self.client, self.config.exporters)
  return true
end

return M
