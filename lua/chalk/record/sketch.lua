-- Quantile sketches in Lua: methods on pointers to the core's chalk_sketch.

local core = require "chalk.core"
local shown = require "chalk.base.shown"

local ffi, C = core.ffi, core.C

local M = {}

---@class chalk.Sketch
local Sketch = {}

--- The number of values in it.
---@return integer
function Sketch:count() return tonumber(C.chalk_sketch_count(self)) end

--- The sum of the values.
---@return number
function Sketch:sum() return C.chalk_sketch_sum(self) end

--- The smallest value; NaN when the sketch is empty.
---@return number
function Sketch:min() return C.chalk_sketch_min(self) end

--- The largest value; NaN when the sketch is empty.
---@return number
function Sketch:max() return C.chalk_sketch_max(self) end

--- The value of rank floor(q * (count - 1)), with a relative error of at most error(); NaN when the sketch is empty.
---@param q number from 0 to 1
---@return number
function Sketch:quantile(q)
  if type(q) ~= "number" or not (q >= 0 and q <= 1) then
    error("quantile takes a number from 0 to 1, not " .. shown(q), 2)
  end
  return C.chalk_sketch_quantile(self, q)
end

--- The relative error that quantiles do not exceed, e.g. 0.01 for 1 %.
---@return number
function Sketch:error() return C.chalk_sketch_error(self) end

--- The scale of its buckets. There are 2^scale buckets from one power of two to the next.
---@return integer
function Sketch:scale() return C.chalk_sketch_scale(self) end

--- The non-empty buckets in increasing order.
---@return fun(): number?, number?, integer? lower, upper, count
function Sketch:buckets()
  local bucket = ffi.new "chalk_bucket"
  local i = 0
  return function()
    if C.chalk_sketch_bucket(self, i, bucket) == 0 then return nil end
    i = i + 1
    return bucket.lower, bucket.upper, tonumber(bucket.count)
  end
end

-- A metatype is set once in a VM, so this fails when the module is loaded again; the functions of the first load stay.
pcall(ffi.metatype, "chalk_sketch", { __index = Sketch })

--- Takes ownership of a sketch that the core made: the collector frees it.
---@param pointer ffi.cdata*
---@return chalk.Sketch? sketch nil for a null pointer: the core had no memory
function M.own(pointer)
  if pointer == nil then return nil end
  return ffi.gc(pointer, C.chalk_sketch_free)
end

--- Makes an empty sketch; nil when there is no memory for one.
---@param options { initial_error: number?, max_buckets: integer? }? 0.0001 to 0.5 (0.001), 8 to 8192 (512)
---@return chalk.Sketch?
function M.new(options)
  options = options or {}
  local initial_error, max_buckets = options.initial_error or 0.001, options.max_buckets or 512
  if not (initial_error >= 0.0001 and initial_error <= 0.5) then
    error("initial_error must be a number from 0.0001 to 0.5", 2)
  end
  if not (max_buckets >= 8 and max_buckets <= 8192) then error("max_buckets must be a number from 8 to 8192", 2) end
  return M.own(C.chalk_sketch_new(initial_error, max_buckets))
end

return M
