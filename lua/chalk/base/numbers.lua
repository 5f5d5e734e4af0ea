-- Numbers as text that reads back to the same double. The core writes it: tostring gives 14 digits, and `%.17g` more
-- digits than are needed.

local core = require "chalk.core"

local ffi, C = core.ffi, core.C

local M = {}

local digits = ffi.new "char[32]"

--- The shortest text of a number that reads back to the same.
---@param value number
---@return string
function M.text(value) return ffi.string(digits, C.chalk_text_double(digits, value)) end

--- A bound as it stands in a label `le`: with a decimal point, so that one bound has one text.
---@param value number
---@return string
function M.bound(value) return ffi.string(digits, C.chalk_text_bound(digits, value)) end

return M
