--- LuaJIT VMs inside this process, created by the C API that the FFI finds, as the flush thread's VM is.

local ffi = require "ffi"

local M = {}

if not pcall(function() return ffi.C.luaL_newstate end) then
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
ffi.cdef "void lua_settop(void *state, int index);"

local C = ffi.C

---@class spec.Vm
local Vm = {}
Vm.__index = Vm

--- Creates a VM with the module paths of this one.
---@return spec.Vm
function M.open()
  local state = C.luaL_newstate()
  assert(state ~= nil)
  C.luaL_openlibs(state)
  local vm = setmetatable({ state = state }, Vm)
  vm:run("package.path, package.cpath = ...", package.path, package.cpath)
  return vm
end

--- Runs a chunk with strings as arguments. Returns its result as a string, or raises the error that it raised.
---@param source string
---@return string?
function Vm:run(source, ...)
  local state = self.state
  assert(C.luaL_loadbuffer(state, source, #source, "=vm") == 0)
  local n = select("#", ...)
  for i = 1, n do
    local text = (select(i, ...))
    C.lua_pushlstring(state, text, #text)
  end
  local code = C.lua_pcall(state, n, 1, 0)
  local text = C.lua_tolstring(state, -1, nil)
  local result = text ~= nil and ffi.string(text) or nil
  C.lua_settop(state, 0)
  if code ~= 0 then error(result, 2) end
  return result
end

function Vm:close() C.lua_close(self.state) end

return M
