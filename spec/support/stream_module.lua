--- Stands in for nginx's Lua module of `stream {}`, which may not be installed. For chalk that module is a second VM in
--- each process of nginx, with its own `ngx`, which is created in the master and closed with the VM of `http {}`.

local vms = require "support.vms"

local M = {}

local NGX = [[
  local prefix, phase = ..., "init"
  local function nothing() return true end
  ngx = {
    config = { subsystem = "stream", prefix = function() return prefix end },
    get_phase = function() return phase end,
    crc32_long = function(text) return #text end,
    shared = {}, worker = { id = function() return 0 end }, timer = { every = nothing }, log = nothing,
    sleep = function() error("API disabled in this context") end,
  }
  function enter(name) phase = name end
]]

local vm, guard

--- Runs `source` in the VM, in the phase with this name. The phase "init" creates the VM.
---@param phase string
---@param source string
---@return string?
function M.run(phase, source)
  if phase == "init" then
    vm = vms.open()
    guard = newproxy(true)
    getmetatable(guard).__gc = function() vm:close() end
    vm:run(NGX, rawget(_G, "ngx").config.prefix())
  end
  vm:run("enter(...)", phase)
  return vm:run(source)
end

return M
