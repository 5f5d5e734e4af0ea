-- Numbers as text that reads back as the same double. The core finds the shortest such text, because `tostring` writes
-- only 14 digits and `%.17g` often writes more digits than are needed.

local core = require "chalk.core"

local ffi, C = core.ffi, core.C

local M = {}

local digits = ffi.new "char[32]"

--- The shortest text that reads back as this number.
---@param value number
---@return string
function M.text(value) return ffi.string(digits, C.chalk_text_double(digits, value)) end

--- A bound as the value of the label `le`. A whole number has a decimal point ("1.0"), so each bound has only one text.
---@param value number
---@return string
function M.bound(value) return ffi.string(digits, C.chalk_text_bound(digits, value)) end

return M
