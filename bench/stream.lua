-- Times the event stream: how many events reach a client on loopback, and what a record costs meanwhile, without a
-- client, and beside a client that never reads. The client that reads is a separate process (bench/stream/counter.lua).

local chalk = require "chalk"
local core = require "chalk.core"
local harness = require "harness"
local record = require "record"

local ffi, C = core.ffi, core.C

local M = {}

local BUFFER = 2 ^ 20
local PATIENCE = 20 -- seconds

pcall(
  ffi.cdef,
  [[
  typedef struct { uint16_t family; uint8_t rest[14]; } chalk_bench_address;
  int socket(int family, int type, int protocol);
  int connect(int fd, const chalk_bench_address *, unsigned size);
  int close(int fd);
  int poll(void *fds, unsigned long n, int timeout);
  typedef struct { long seconds, nanoseconds; } chalk_bench_time;
  int clock_gettime(int clock, chalk_bench_time *);
]]
)

local function wait_until(condition, what)
  local deadline = C.chalk_now() + PATIENCE
  while not condition() do
    assert(C.chalk_now() < deadline, "waited in vain for " .. what)
    ffi.C.poll(nil, 0, 1)
  end
end

local port = 20000 + math.floor(C.chalk_wall() * 1000 % 10000)

--- Returns a client with the metrics of the record paths, whose flush thread has a stream exporter; and the metrics.
---@param buffer integer? the exporter's buffer_size
function M.start(buffer)
  local client, metrics, ok
  for _ = 1, 20 do
    port = port + 1
    client, metrics = record.client()
    ok = client:try_init {
      exporters = {
        chalk.exporter.stream { listen = "127.0.0.1:" .. port, buffer_size = buffer or BUFFER },
      },
    }
    if ok then return client, metrics end
  end
  error "no free port"
end

-- Starts a process that reads and counts events. Returns a function that waits for its figures.
local function read_along(client, seconds)
  local program = (os.getenv "LUAJIT" or "luajit") .. " bench/stream/counter.lua %d %g"
  local pipe = io.popen(program:format(port, seconds))
  assert(pipe:read "*l" == "connected")
  wait_until(function() return C.chalk_tap_kinds(client.segment) ~= 0 end, "a client")
  return function()
    local frames, took, bytes = pipe:read "*n", pipe:read "*n", pipe:read "*n"
    pipe:close()
    return frames, took, bytes
  end
end

-- Connects a client that never reads. Returns a function that disconnects it.
local function never_read()
  local address = ffi.new("chalk_bench_address", { 2 })
  address.rest[0], address.rest[1] = math.floor(port / 256), port % 256
  address.rest[2], address.rest[5] = 127, 1
  local fd = ffi.C.socket(2, 1, 0)
  assert(ffi.C.connect(fd, address, 16) == 0)
  return function() ffi.C.close(fd) end
end

local function until_off(client)
  wait_until(function() return C.chalk_tap_kinds(client.segment) == 0 end, "the tap to be off")
end

--- Returns the millions of events per second that reach one client while counts are recorded at full rate, and the
--- bytes of an event.
---@param seconds number
---@return number rate, number size
function M.delivered(seconds)
  local client, metrics = M.start()
  local count = record.loops(client, metrics).count
  count(1000)
  local finish = read_along(client, seconds)
  local ends = C.chalk_now() + 1.5 * seconds
  while C.chalk_now() < ends do
    count(10000)
  end
  -- The client waits for further events until its time is over.
  local over = C.chalk_now() + 0.3
  while C.chalk_now() < over do
    count(10)
    ffi.C.poll(nil, 0, 1)
  end
  local frames, took, bytes = finish()
  client:shutdown()
  return frames / took / 1e6, bytes / frames
end

local THREAD_CPU = 3
local time = ffi.new "chalk_bench_time"

-- Returns the seconds of processor time of this thread.
local function processor_time()
  ffi.C.clock_gettime(THREAD_CPU, time)
  return tonumber(time.seconds) + tonumber(time.nanoseconds) / 1e9
end

--- Returns the nanoseconds of processor time of a record whose event finds space in the ring, while a client reads, as
--- the median of bursts. The flush thread and the client work meanwhile, on whatever processors there are.
---@param name "count"|"gauge"|"histogram"
---@return number
function M.tapped(name)
  local BURST, WARM, ROUNDS = 100000, 3, 21
  local client, metrics = M.start(2 ^ 17)
  local loop = record.loops(client, metrics)[name]
  loop(BURST)
  local finish = read_along(client, 0.5)
  local times = {}
  for i = 1 - WARM, ROUNDS do
    local started = processor_time()
    loop(BURST)
    times[i] = (processor_time() - started) / BURST * 1e9
    local passes = C.chalk_tap_passes(client.segment)
    wait_until(function() return C.chalk_tap_passes(client.segment) - passes > 1 end, "empty rings")
  end
  local over = C.chalk_now() + 2
  while C.chalk_now() < over and C.chalk_tap_kinds(client.segment) ~= 0 do
    loop(10)
    ffi.C.poll(nil, 0, 1)
  end
  finish()
  client:shutdown()
  return harness.median(times)
end

-- The paths are measured in another process, with the exporter or without, because the traces of one VM depend on all
-- that it has run before.
local IDLE = { "count", "gauge", "histogram" }

local function measure_idle(with)
  local program = (os.getenv "LUAJIT" or "luajit") .. " bench/stream/idle.lua " .. (with and "with" or "without")
  local pipe, found = io.popen(program), {}
  for i = 1, #IDLE do
    found[i] = assert(pipe:read "*n")
  end
  pipe:close()
  return found
end

--- Returns the nanoseconds that a record takes more with the exporter while no client is connected: the worst of count,
--- gauge and histogram, from the medians of alternating rounds.
---@return number
function M.idle()
  local ROUNDS = 5
  local without, with = {}, {}
  for _ = 1, ROUNDS do
    for i, ns in ipairs(measure_idle(false)) do
      without[i] = without[i] or {}
      table.insert(without[i], ns)
    end
    for i, ns in ipairs(measure_idle(true)) do
      with[i] = with[i] or {}
      table.insert(with[i], ns)
    end
  end
  local worst = 0
  for i = 1, #IDLE do
    worst = math.max(worst, harness.median(with[i]) - harness.median(without[i]))
  end
  return worst
end

local STEP, BINS = 10, 100000 -- nanoseconds

-- Returns the 99.9th percentile of a record's time in nanoseconds, which includes a reading of the clock.
local function latency(series, n)
  local bins = ffi.new("uint32_t[?]", BINS + 1)
  local before = C.chalk_now()
  for _ = 1, n do
    series:inc()
    local after = C.chalk_now()
    local bin = math.min((after - before) * 1e9 / STEP, BINS)
    bins[bin] = bins[bin] + 1
    before = after
  end
  local above = n / 1000
  for bin = BINS, 0, -1 do
    above = above - bins[bin]
    if above <= 0 then return (bin + 1) * STEP end
  end
end

--- Returns the 99.9th percentile of a record's time in nanoseconds while a client reads, and the same while another
--- client never reads. Both are medians of alternating rounds.
---@return number without, number with
function M.slow_client()
  local ROUNDS, RECORDS = 7, 500000
  local client, metrics = M.start()
  local series = metrics.requests { endpoint = "/api", status = "success" }
  latency(series, RECORDS)
  local without, with = {}, {}
  for i = 1, ROUNDS do
    for _, times in ipairs { without, with } do
      local finish = read_along(client, 0.1)
      local leave = times == with and never_read()
      latency(series, RECORDS) -- fills the buffers of the client that never reads
      times[i] = latency(series, RECORDS)
      local over = C.chalk_now() + 0.5
      while C.chalk_now() < over do
        series:inc()
        ffi.C.poll(nil, 0, 1)
      end
      finish()
      if leave then leave() end
      until_off(client)
    end
  end
  client:shutdown()
  return harness.median(without), harness.median(with)
end

return M
