-- The work of the flush loop: holding the flusher's role, running exporters, and sweeping. The loop itself belongs to a
-- driver, which calls `run_once` for each iteration, or `flush` where there is no loop.
--
-- Invariants:
--
--   Role      Only the holder of the role flushes, serves, sweeps and has cursors, and `release` ends all of this. A
--             *lasting* flusher, that of the driver `manual`, releases the role after each flush and keeps its servers.
--   Exports   Each `export` runs in its own coroutine and may yield, so a slow exporter does not delay the others.
--             Exports of one exporter never overlap: the next one waits until the current one returns.
--   Sweeping  A sweep would free series that batches still read. So it runs only while no export is in progress, not
--             counting exports that have run for more than ABANDONED seconds.

local batches = require "chalk.read.batch"
local contract = require "chalk.exporter"
local core = require "chalk.core"
local events = require "chalk.flush.events"
local exporters = require "chalk.flush.exporters"
local log = require "chalk.base.log"
local system = require "chalk.net.system"
local view = require "chalk.read.view"

local ffi, C = core.ffi, core.C

local M = {}

--- The message of a flush or shutdown that an exporter calls in its `export`. Each would wait for that same export.
M.INSIDE = "an exporter's export cannot wait for a flush"

local ABANDONED = 60 -- seconds after which the flusher no longer waits for an export
local REFUSALS = 5 -- failures to listen that are not reported: a port stays in use for a moment after its process dies

--- An exporter of a flusher.
---@class chalk.FlushJob
---@field name string
---@field listen string? the address to serve at
---@field exporter chalk.HostedExporter
---@field context chalk.ExporterContext
---@field cursor ffi.cdata*? chalk_cursor, while the role is held, if the exporter needs differences
---@field server chalk.Server?
---@field refusals integer? failures to serve in a row
---@field running table? the export in progress
---@field waiting table? the flush that the exporter joins after that export
---@field last_message string? the last failure that was logged; nil after a success

---@class chalk.Flusher
---@field jobs chalk.FlushJob[]
---@field draining chalk.Server[] servers that may still answer after the role was released
---@field on_change fun()? called after each flush, and when an exporter begins to serve
local Flusher = {}
Flusher.__index = Flusher

-- Returns the function that takes views for scrapes.
local function view_taker(self)
  return view.sharing(function()
    self.client:note_state()
    return view.take(self.segment)
  end)
end

---@return chalk.ExporterContext
local function context_of(self, name)
  return {
    client = self.client,
    events = self.events,
    uv = self.uv,
    name = name,
    log = log.write,
    take_view = function() return self.take_view() end, -- `forked` replaces it
  }
end

local function new_exporter(spec, global_tags)
  if spec.exporter then return contract.host(spec.exporter) end
  return contract.make(spec.module, spec.options, global_tags)
end

-- Makes an exporter and adds it to the jobs. If that fails, shuts down the exporters added before and raises a message.
local function add_job(self, spec, global_tags)
  local exporter, message = new_exporter(spec, global_tags)
  local context, ok = context_of(self, spec.name), exporter ~= nil
  if ok then
    ok, message = pcall(exporter.attach, exporter, context)
  end
  if not ok then
    self:shut_exporters()
    error(("exporter %s: %s"):format(spec.name, log.text(message)), 0)
  end
  self.jobs[#self.jobs + 1] = { name = spec.name, listen = spec.listen, exporter = exporter, context = context }
  self.deltas = self.deltas or exporter.deltas
  -- The module is loaded now because later the process may have no free descriptor for reading the file.
  if spec.listen and exporter.needs_loop and self.uv then require "chalk.net.http" end
end

--- Makes a flusher for a client of this VM, with its exporters. Raises a message if an exporter cannot be made.
---@param client chalk.Client
---@param config table exporters (specs), interval, idle, global_tags, generation, clock, uv, lasting
---@return chalk.Flusher
function M.new(client, config)
  local self = setmetatable({
    client = client,
    segment = client.segment,
    jobs = {},
    draining = {},
    interval = config.interval,
    idle = ffi.new("double[?]", #config.idle, config.idle),
    generation = config.generation,
    clock = config.clock or C.chalk_now,
    uv = config.uv, -- nil: no loop runs
    lasting = config.lasting,
    events = events.new(client),
    holding = false,
    sweep_due = false,
    deltas = false,
  }, Flusher)
  self.next = self.clock() + self.interval
  self.take_view = view_taker(self)
  for _, spec in ipairs(config.exporters) do
    add_job(self, spec, config.global_tags)
  end
  return self
end

--- Counts a failure of an exporter, and logs the message unless it is the same as the last one.
---@param job chalk.FlushJob
---@param message any
function Flusher:complain(job, message)
  self.client.own.export_errors:with(job.name):inc()
  message = ("exporter %s: %s"):format(job.name, log.text(message))
  if message ~= job.last_message then log.write("error", message) end
  job.last_message = message
end

-- The role

-- Opens missing cursors, and touches the others so that they are not freed as unused. The exporters of a segment that
-- never had a cursor start at zero; later ones start at the current totals.
local function open_cursors(self)
  local fresh = C.chalk_cursors_ever(self.segment) == 0 and 1 or 0
  for _, job in ipairs(self.jobs) do
    if job.exporter.deltas and not job.cursor then
      local cursor = C.chalk_cursor_open(self.segment, job.name, fresh, self.clock(), core.message)
      if cursor == nil then
        self:complain(job, core.said())
      else
        job.cursor = ffi.gc(cursor, C.chalk_cursor_close)
      end
    elseif job.cursor then
      C.chalk_cursor_touch(job.cursor, self.clock())
    end
  end
end

-- Makes the server of an exporter. The server owns the descriptor; if there is no server, it is closed here.
---@return chalk.Server? server, any message, boolean? raised whether the exporter raised the message
local function open_server(self, job)
  local listener = exporters.listener(self.client)
  if C.chalk_listen(listener, job.listen, core.message) ~= 0 then return nil, core.said() end
  local fd = C.chalk_accept_fd(listener, job.listen)
  local ok, server, message = pcall(job.exporter.serve, job.exporter, fd, job.context)
  if ok and server then return server end
  if fd >= 0 then system.close(fd) end
  if ok then return nil, message end
  return nil, server, true
end

-- Serves an exporter's clients, unless it has a server already or cannot serve.
local function serve(self, job, at_start)
  if not job.listen or job.server or not job.exporter.serves then return end
  local server, message, raised = open_server(self, job)
  if raised and at_start then error(message, 0) end
  job.server, job.refusals = server, server and 0 or (job.refusals or 0) + 1
  if job.refusals > REFUSALS then self:complain(job, message) end
  if server and self.on_change then self.on_change() end
end

--- Takes the role if it is free.
---@return boolean holding whether this flusher holds the role now
function Flusher:hold()
  if not self.holding and C.chalk_hold(self.segment, self.generation) == 1 then
    self.holding = true
    open_cursors(self)
    self.events:hold(self.lasting)
  end
  return self.holding
end

--- Opens the sockets of exporters and serves them. A socket that cannot be opened is tried again by the next call.
---@param at_start boolean? whether an error that an exporter raises is raised here too, so that init fails
function Flusher:listen(at_start)
  for _, job in ipairs(self.jobs) do
    serve(self, job, at_start)
  end
end

--- Drops everything that belongs to the parent, in a forked child: the role, exports, servers and cursors.
function Flusher:forked()
  self.holding = false
  self.take_view = view_taker(self)
  self.events:forked()
  for _, job in ipairs(self.jobs) do
    job.exporter:forked()
    job.running, job.waiting, job.server, job.cursor = nil, nil, nil, nil
  end
end

--- Lets exporters send the events that they took while this flusher held the role.
---@return boolean sending whether some of them are still being sent
function Flusher:send_rest()
  local sending = false
  for _, job in ipairs(self.jobs) do
    if job.exporter:send_rest() then sending = true end
  end
  return sending
end

--- Prepares the last flush in a VM that is being closed. Cursors and snapshots are freed already, and no export in
--- progress can continue, so exports are dropped and cursors are opened again.
function Flusher:forsake()
  for _, job in ipairs(self.jobs) do
    if job.running then job.running.batch:finish() end
    job.running, job.waiting, job.cursor = nil, nil, nil
  end
  if self.holding then open_cursors(self) end
  self.events:forsake()
end

-- Drains a server, and keeps it in the list of those that `close_servers` may have to close.
local function drain(self, server)
  local draining = {}
  for _, other in ipairs(self.draining) do
    if not other.closed then draining[#draining + 1] = other end
  end
  draining[#draining + 1] = server
  self.draining = draining
  server:drain()
end

--- Whether a server still answers scrapes after the role was released.
---@return boolean
function Flusher:is_draining()
  for _, server in ipairs(self.draining) do
    if not server.closed then return true end
  end
  return false
end

-- Drains all servers of exporters.
local function drain_servers(self)
  for _, job in ipairs(self.jobs) do
    if job.server then drain(self, job.server) end
    job.server = nil
  end
end

--- Releases the role. Scrapes in progress are still answered while the loop runs.
function Flusher:release()
  if not self.holding then return end
  if not self.lasting then drain_servers(self) end
  for _, job in ipairs(self.jobs) do
    if job.running then job.running.batch:finish() end
    job.cursor = nil
  end
  self.events:release(self.lasting)
  self.holding = false
  C.chalk_release(self.segment)
  if not self.lasting then self:send_rest() end
end

-- A flush: one view, which its exporters share, and a function to call when all of them have returned. An exporter that
-- is still busy with an earlier flush waits, and joins the newest flush when it returns. The differences of that flush
-- contain those of the skipped ones, so a skipped flush is over for this exporter when the newest is.

---@class chalk.Flush
---@field view chalk.View
---@field readers integer how many exports use the view; the last one frees it
---@field exporters integer how many exporters have not returned; after the last one `over` is called
---@field over fun()
local Flush = {}
Flush.__index = Flush

-- Its maker counts as a reader and an exporter until all exporters have joined, so that the flush is not over before.
local function new_flush(v, over) return setmetatable({ view = v, readers = 1, exporters = 1, over = over }, Flush) end

--- An export begins to use the view.
function Flush:read() self.readers = self.readers + 1 end

--- An export, or the maker, no longer uses the view.
function Flush:let_go()
  self.readers = self.readers - 1
  if self.readers == 0 then view.free(self.view) end
end

--- An exporter has returned, or the maker has started all of them.
function Flush:leave()
  self.exporters = self.exporters - 1
  if self.exporters == 0 then self.over() end
end

-- Exporting

local start

-- Ends an export: commits it or counts its failure, then starts the export that waits for it. An export whose job has
-- dropped it (after a fork, or at the end of the VM) is ignored.
local function finish(self, job, run, ok, sent, message)
  if job.running ~= run then return end
  job.running = nil
  if run.batch.over then
    self:complain(job, "the flusher's role went to another process or VM during its export")
  elseif not ok then
    self:complain(job, sent)
  elseif sent == true then
    run.batch:commit_all()
    job.last_message = nil
  else
    self:complain(job, message or "export did not return true")
  end
  run.batch:finish()
  run.flush:let_go()
  run.done()
  self:sweep_if_due()
  local waiting = job.waiting
  if waiting and not job.running then
    job.waiting = nil
    start(self, job, waiting.flush, waiting.done)
  end
end

-- Runs an export in a new coroutine, until it yields or returns.
start = function(self, job, flush, done, blocking)
  local run = { flush = flush, since = self.clock(), done = done }
  run.batch = batches.new(flush.view, job.cursor, self.clock)
  run.batch.blocking = blocking
  job.running = run
  run.thread = coroutine.create(
    function() finish(self, job, run, pcall(job.exporter.export, job.exporter, run.batch)) end
  )
  local outer = self.starting
  self.starting = true
  local ok, message = coroutine.resume(run.thread)
  self.starting = outer
  if not ok then finish(self, job, run, false, message) end
end

--- Whether the caller is an exporter's `export`: one that has not yielded since it started, or one that was resumed.
---@return boolean
function Flusher:is_exporting()
  local thread = coroutine.running()
  for _, job in ipairs(self.jobs) do
    if thread and job.running and job.running.thread == thread then return true end
  end
  return self.starting or false
end

--- Whether an export is in progress that may still read series that a sweep would free.
---@return boolean
function Flusher:busy()
  local now = self.clock()
  for _, job in ipairs(self.jobs) do
    if job.running and now - job.running.since < ABANDONED then return true end
  end
  return false
end

-- Runs an exporter's export, now or after the export in progress.
local function join(self, job, flush, blocking)
  local running, waiting = job.running, job.waiting
  if job.exporter.deltas and not job.cursor then return flush:leave() end
  if running and self.clock() - running.since >= ABANDONED then
    self:complain(job, ("its export has not returned for %d s"):format(ABANDONED))
    return flush:leave()
  end
  flush:read()
  local function done()
    if waiting then waiting.done() end
    flush:leave()
  end
  if not running then return start(self, job, flush, done, blocking) end
  if waiting then waiting.flush:let_go() end
  job.waiting = { flush = flush, done = done }
end

local function warn_of_overflow(self, v)
  for _, range in ipairs(v.ranges) do
    local n = tonumber(C.chalk_metric_folded(self.segment, range.metric))
    if n > 0 then
      log.write(
        "warning",
        ("%s: a limit sent %d lookups to its overflow series"):format(range.definition.id_name, n)
      )
    end
  end
end

--- Flushes once. The caller must hold the role.
---@param done fun()? called when every exporter has returned
---@param blocking boolean? true: no loop runs until this returns, so exports must block instead of yielding
function Flusher:flush(done, blocking)
  local started, ticket = C.chalk_now(), C.chalk_flush_request(self.segment)
  local function over()
    self.client.own.flush:record(C.chalk_now() - started)
    C.chalk_flush_done(self.segment, ticket)
    if self.on_change then self.on_change() end
    if done then done() end
  end
  self.client:note_state()
  open_cursors(self)
  if not self.uv then self:listen() end -- without a loop no iteration does
  self.events:pump(true)
  local v, message = view.take(self.segment, self.deltas)
  if not v then
    log.write("error", "flush: " .. log.text(message))
    return over()
  end
  warn_of_overflow(self, v)
  local flush = new_flush(v, over)
  for _, job in ipairs(self.jobs) do
    flush.exporters = flush.exporters + 1
    join(self, job, flush, blocking)
  end
  flush:let_go()
  flush:leave()
  self.sweep_due = true
  self:sweep_if_due()
end

--- Sweeps once after each flush, as soon as no export is in progress.
function Flusher:sweep_if_due()
  if self.sweep_due and self.holding and not self:busy() then self:sweep() end
end

--- Drops idle series and makes dropped ones reusable.
function Flusher:sweep()
  self.sweep_due = false
  local v = view.take(self.segment)
  if v then
    C.chalk_sweep(v.snapshot, self.clock(), self.idle)
    view.free(v)
  end
  C.chalk_writer_tick(self.client.writer)
end

-- The loop

local info = ffi.new "chalk_info"

--- One iteration of the flush loop: takes, keeps or releases the role, and flushes when the interval is over or when a
--- process has asked for a flush. Each VM, with the role or without, also says
--- here that no record of it is under way (chalk_writer_tick), because reclaiming may wait for its slot.
function Flusher:run_once()
  local at_start = not self.has_run
  self.has_run = true
  C.chalk_writer_tick(self.client.writer)
  if self.holding and C.chalk_is_claimed(self.segment, self.generation) == 1 then self:release() end
  if not self:hold() then
    self:send_rest()
    return
  end
  C.chalk_heartbeat(self.segment)
  self:listen(at_start)
  self.events:pump()
  self:sweep_if_due()
  C.chalk_segment_info(self.segment, info)
  local now = self.clock()
  if info.requested > info.done and not self:busy() or now >= self.next then
    self.next = now + self.interval
    self:flush()
  end
end

--- Closes the servers that still answer scrapes.
function Flusher:close_servers()
  for _, server in ipairs(self.draining) do
    server:close()
  end
end

--- Shuts down all exporters.
function Flusher:shut_exporters()
  for _, job in ipairs(self.jobs) do
    local ok, message = pcall(job.exporter.shutdown, job.exporter)
    if not ok then self:complain(job, message) end
  end
end

--- Ends the flusher: shuts down the exporters and releases the role. Scrapes in progress go on until `close_servers`.
function Flusher:close()
  self:shut_exporters()
  if self.lasting then
    self.lasting = false
    self:hold() -- so that `release` releases it for good
  end
  self:release()
  drain_servers(self)
end

return M
