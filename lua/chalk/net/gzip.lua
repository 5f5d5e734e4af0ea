--- Streaming gzip through the system's zlib, if the machine has one.
--
-- A stream is a z_stream: its caller writes chunks, receives the bytes that zlib has ready, and receives the rest from
-- finish(). The z_stream lives outside Lua's heap. It is freed by close() or finish(), or else by the garbage
-- collector. zlib is loaded at run time, so a machine without it only loses compression.

--- Streaming gzip through the system's zlib, where there is one.
--
-- A stream is a z_stream owned by this module: bytes go in chunk by chunk, what zlib has ready comes out, and the
-- rest at the end. It lives outside Lua's heap and is freed by close(), by finish(), or at the latest by the garbage
-- collector. zlib is reached by dlopen, so a machine without it only loses compression.

local ffi = require "ffi"

local M = {}

-- Level 1, a window of 8 KiB and small hash tables. The repetitions in an exposition are close together, so this
-- compresses it as well as zlib's defaults do, with 96 KiB per stream instead of 256.
local LEVEL, WINDOW_BITS, MEMORY_LEVEL = 1, 13, 7
local GZIP_WRAPPER = 16 -- added to the window bits: asks for gzip's header (zlib.h, deflateInit2)
local DEFLATED, DEFAULT_STRATEGY = 8, 0
local NO_FLUSH, FINISH = 0, 4
local OK, STREAM_END, BUF_ERROR = 0, 1, -5
local OUTPUT_SIZE = 16384

-- This module declares zlib's functions under private names (the real ones follow __asm__), so that they cannot clash
-- with another zlib binding in the same VM. A VM accepts a declaration only once, but may load this module again.
local function declare()
  if pcall(ffi.typeof, "chalk_z_stream") then return end
  ffi.cdef [[
    typedef struct {
      const char *next_in;
      unsigned avail_in;
      unsigned long total_in;
      uint8_t *next_out;
      unsigned avail_out;
      unsigned long total_out;
      const char *msg;
      void *state, *zalloc, *zfree, *opaque;
      int data_type;
      unsigned long adler, reserved;
    } chalk_z_stream;
    const char *chalk_z_version(void) __asm__("zlibVersion");
    int chalk_z_init(chalk_z_stream *, int level, int method, int window_bits, int memory_level, int strategy,
                     const char *version, int stream_size) __asm__("deflateInit2_");
    int chalk_z_deflate(chalk_z_stream *, int flush) __asm__("deflate");
    int chalk_z_end(chalk_z_stream *) __asm__("deflateEnd");
  ]]
end

local function load_zlib()
  declare()
  for _, name in ipairs { "z", "libz.so.1" } do
    local found, lib = pcall(ffi.load, name)
    if found and pcall(function() return lib.chalk_z_version() end) then return lib end
  end
  return nil
end

local zlib = load_zlib()
local output = ffi.new("uint8_t[?]", OUTPUT_SIZE)

-- As a Lua function this finalizer refers to the library and so keeps it loaded as long as a stream exists. The C
-- function itself would not.
local function free_stream(stream) zlib.chalk_z_end(stream) end

---@class chalk.gzip.Stream
---@field private stream ffi.cdata*?
---@field private input string?
local Stream = {}
Stream.__index = Stream

--- Whether zlib was found.
---@return boolean
function M.available() return zlib ~= nil end

--- Starts a gzip stream.
---@return chalk.gzip.Stream? stream
---@return string? message if there is no zlib or no memory
function M.new()
  if not zlib then return nil, "zlib is not available" end
  local stream = ffi.new "chalk_z_stream"
  local code = zlib.chalk_z_init(
    stream,
    LEVEL,
    DEFLATED,
    WINDOW_BITS + GZIP_WRAPPER,
    MEMORY_LEVEL,
    DEFAULT_STRATEGY,
    zlib.chalk_z_version(),
    ffi.sizeof(stream)
  )
  if code ~= OK then return nil, "deflateInit2 failed with " .. code end
  return setmetatable({ stream = ffi.gc(stream, free_stream) }, Stream)
end

local function deflate(stream, flush)
  local compressed = {}
  repeat
    stream.next_out, stream.avail_out = output, OUTPUT_SIZE
    local code = zlib.chalk_z_deflate(stream, flush)
    if code ~= OK and code ~= STREAM_END and code ~= BUF_ERROR then error("deflate failed with " .. code) end
    compressed[#compressed + 1] = ffi.string(output, OUTPUT_SIZE - stream.avail_out)
  until stream.avail_out > 0
  return table.concat(compressed)
end

--- Compresses a chunk.
---@param chunk string
---@return string compressed the bytes that zlib has ready, often ""
function Stream:write(chunk)
  local stream = self.stream or error("the gzip stream is closed", 2)
  self.input = chunk -- keeps the string alive, because next_in is no reference for the collector
  stream.next_in, stream.avail_in = chunk, #chunk
  local compressed = deflate(stream, NO_FLUSH)
  stream.next_in, self.input = nil, nil
  return compressed
end

--- Ends the stream and closes it.
---@return string compressed the rest of the bytes
function Stream:finish()
  local stream = self.stream or error("the gzip stream is closed", 2)
  local compressed = deflate(stream, FINISH)
  self:close()
  return compressed
end

--- Frees the stream, finished or not. May be called again.
function Stream:close()
  local stream = self.stream
  if stream then
    self.stream = nil
    free_stream(ffi.gc(stream, nil))
  end
end

return M
