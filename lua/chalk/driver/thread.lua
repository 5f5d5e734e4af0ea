-- The thread driver: a VM of its own on an OS thread of the C core's, beside the application. This file makes and
-- ends it; chalk.driver.worker is what runs there.

local core = require "chalk.core"
local exporters = require "chalk.exporters"
local log = require "chalk.log"
local serial = require "chalk.serial"

local ffi, C = core.ffi, core.C

local M = {}

local START_TIMEOUT, LAST_FLUSH = 10, 5

-- Of the Lua API, which the FFI finds in the process.
local function declare_lua()
  if pcall(function() return ffi.C.luaL_newstate end) then return end
  ffi.cdef [[
    void *luaL_newstate(void);
    void luaL_openlibs(void *state);
    int luaL_loadbuffer(void *state, const char *text, size_t size, const char *name);
    void lua_pushlstring(void *state, const char *text, size_t size);
    const char *lua_tolstring(void *state, int index, size_t *size);
    int lua_pcall(void *state, int arguments, int results, int handler);
    void lua_close(void *state);
  ]]
end

-- A chunk that calls a function with a table written down.
local function chunk_for(call)
  return ([[
local path, cpath, library, text = ...
package.path, package.cpath = path, cpath
package.preload["chalk.library"] = function() return library end
return %s(text)
]]):format(call)
end

local BOOT, TRIAL = chunk_for 'require("chalk.driver.worker").run', chunk_for 'require("chalk.driver.trial").run'

---@class chalk.ThreadDriver
local Driver = {}
Driver.__index = Driver

-- The parts of the Lua API as the core takes them. The addresses stay good for the process's life.
local function lua_api()
  declare_lua()
  local L = ffi.C
  return ffi.new("chalk_lua", {
    L.luaL_newstate, L.luaL_openlibs, L.luaL_loadbuffer, L.lua_pushlstring, L.lua_pcall, L.lua_tolstring, L.lua_close,
  })
end

local function start_thread(chunk, argument, segment, generation)
  local texts = { chunk, package.path, package.cpath, core.path, argument }
  local sizes = ffi.new("size_t[?]", #texts)
  for i, text in ipairs(texts) do
    sizes[i - 1] = #text
  end
  local list = ffi.new("const char *[?]", #texts, texts)
  return C.chalk_thread_start(lua_api(), list, sizes, #texts, segment, generation, core.message)
end

-- Raises what keeps a thread from being ready.
local function await_ready(thread)
  if thread == nil then error(core.said(), 0) end
  if C.chalk_thread_wait_ready(thread, START_TIMEOUT, core.message) == 0 then return end
  local message = core.said()
  if C.chalk_thread_wait(thread, 1) == 1 then C.chalk_thread_free(thread) end
  error(message, 0)
end

--- Loads the modules of exporters in a VM like the flush thread's, which is gone afterwards: a process that only stands
--- by, as a server's first one does, would find out too late. Raises what is wrong with one.
---@param untried { name: string, module: string }[]
function M.try(untried)
  if #untried == 0 then return end
  local thread = start_thread(TRIAL, serial.write(untried), nil, 0)
  await_ready(thread)
  if C.chalk_thread_wait(thread, START_TIMEOUT) == 1 then C.chalk_thread_free(thread) end
end

local function address_of(pointer) return tonumber(ffi.cast("uintptr_t", pointer)) end

local function launch(self)
  local config = {}
  for name, value in pairs(self.config) do
    config[name] = value
  end
  config.segment, config.client = address_of(self.client.segment), self.client.name
  config.listener = exporters.listener(self.client)
  local ok, text = pcall(serial.write, config)
  if not ok then error(text .. " (with the thread driver exporters live in a VM of their own)", 0) end
  local thread = start_thread(BOOT, text, self.client.segment, self.config.generation)
  await_ready(thread)
  self.thread = thread
end

--- Starts the flush thread. Raises what keeps it from starting.
---@param client chalk.Client
---@param config table
---@return chalk.ThreadDriver
function M.start(client, config)
  local self = setmetatable({ client = client, config = config }, Driver)
  config.clock = nil
  launch(self)
  return self
end

-- Where the client has a way to pause that lets others go on, it is taken.
local function wait(client, ticket, timeout)
  local pause, deadline = client.pause, C.chalk_now() + timeout
  while pause and C.chalk_flush_wait(client.segment, ticket, 0) ~= 0 do
    local left = deadline - C.chalk_now()
    if left <= 0 then return false end
    if not pause() then return C.chalk_flush_wait(client.segment, ticket, left) == 0 end
  end
  return pause ~= nil or C.chalk_flush_wait(client.segment, ticket, timeout) == 0
end

--- Asks whoever holds the flusher's role, in this process or another, for a flush, and waits.
---@return boolean?, string?
function Driver:flush(timeout)
  if self.closed then return true end
  self.client:on_stale()
  local segment = self.client.segment
  local ticket = C.chalk_flush_request(segment)
  if self.thread then C.chalk_thread_wake(self.thread) end
  if wait(self.client, ticket, timeout) then return true end
  return nil, "the flush did not end in time"
end

--- A child has no thread: it starts one, to be there when the parent is gone.
function Driver:forked()
  self.thread = nil
  local ok, message = pcall(launch, self)
  if not ok then log.write("error", "no flush thread in a forked process: " .. tostring(message)) end
end

--- Flushes a last time and ends the thread.
---@return boolean?, string?
function Driver:close(timeout)
  local thread = self.thread
  if not thread then return true end
  self.thread, self.closed = nil, true
  C.chalk_thread_stop(thread)
  if C.chalk_thread_wait(thread, timeout or LAST_FLUSH) == 0 then
    self.stuck = true
    return nil, "the last flush did not end in time"
  end
  C.chalk_thread_free(thread)
  exporters.unlisten(self.client, self.config.exporters)
  return true
end

return M
