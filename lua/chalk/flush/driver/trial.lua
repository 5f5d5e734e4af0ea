-- The code of the temporary VM in which `init` loads the modules of custom exporters (chalk.flush.driver.thread.try).

local core = require "chalk.core"
local exporter = require "chalk.exporter"
local log = require "chalk.base.log"
local serial = require "chalk.base.serial"

local C = core.C

local M = {}

--- Loads modules of exporters.
---@param text string a serialized list of { name, module }
---@return string? message what is wrong with the first one that fails; nil if all are right
function M.run(text)
  for _, one in ipairs(serial.read(text)) do
    local module, message = exporter.module(one.module)
    if not module then return ("exporter %s: %s"):format(one.name, log.text(message)) end
  end
  C.chalk_thread_ready(C.chalk_thread_self(), nil)
end

return M
