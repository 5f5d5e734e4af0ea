-- What runs in the VM in which `init` tries the modules of custom exporters, see chalk.flush.driver.thread.

local core = require "chalk.core"
local exporter = require "chalk.exporter"
local log = require "chalk.base.log"
local serial = require "chalk.base.serial"

local C = core.C

local M = {}

--- Returns what is wrong with the first module that is no exporter's.
---@param text string a list of names and modules
---@return string?
function M.run(text)
  for _, one in ipairs(serial.read(text)) do
    local module, message = exporter.module(one.module)
    if not module then return ("exporter %s: %s"):format(one.name, log.text(message)) end
  end
  C.chalk_thread_ready(C.chalk_thread_self(), nil)
end

return M
