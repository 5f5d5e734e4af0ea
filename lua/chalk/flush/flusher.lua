-- The flush loop's work, without the loop: taking and keeping the flusher's role, running exporters, sweeping. A
-- driver calls `turn` now and then, from a luv timer or by hand.
--
-- Each exporter's `export` runs in a coroutine of its own and may yield, so a slow one does not hold up the others;
-- flushes of one exporter never overlap: the next waits for the one under way. Sweeping frees what batches still read,
-- so it waits until no export is under way, or until those that are have taken longer than anybody can be waiting for.

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

--- Why neither flush nor shutdown is taken from an exporter: they would wait for its own export.
M.INSIDE = "an exporter's export cannot wait for a flush"

local ABANDONED = 60
local REFUSALS = 5 -- turns in which a port may be taken: for a moment it is, by the process whose death made room here

---@class chalk.Flusher
local Flusher = {}
Flusher.__index = Flusher

-- Views for scrapes.
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
    take_view = function() return self.take_view() end, -- after a fork there is another one
  }
end

local function new_exporter(spec, global_tags)
  if spec.exporter then return contract.host(spec.exporter) end
  return contract.make(spec.module, spec.options, global_tags)
end

-- Adds an exporter. Raises what is wrong with it, and those that were made before are told that it is over.
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
  -- Loaded now: later there may be no descriptor to read it by.
  if spec.listen and exporter.needs_loop and self.uv then require "chalk.net.http" end
end

--- A flusher for a client of this VM. Raises what is wrong with an exporter.
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
    idle = ffi.new("double[3]", config.idle),
    generation = config.generation,
    clock = config.clock or C.chalk_now,
    uv = config.uv, -- nil: there is no loop
    lasting = config.lasting, -- the role is given back after each flush, and taken for the next
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

function Flusher:complain(job, message)
  self.client.own.export_errors:with(job.name):inc()
  message = ("exporter %s: %s"):format(job.name, log.text(message))
  if message ~= job.said then log.write("error", message) end
  job.said = message
end

-- The role

-- Opens the cursors that are missing, and says of the others that they are still wanted.
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

-- A descriptor belongs to the server; where none was made it is closed here.
---@return chalk.Server?, any message, boolean? raised
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

local function serve(self, job, at_start)
  if not job.listen or job.server or not job.exporter.serves then return end
  local server, message, raised = open_server(self, job)
  if raised and at_start then error(message, 0) end
  job.server, job.refusals = server, server and 0 or (job.refusals or 0) + 1
  if job.refusals > REFUSALS then self:complain(job, message) end
  if server and self.on_change then self.on_change() end
end

--- Takes the role if it is free. True while this flusher has it.
---@return boolean
function Flusher:hold()
  if not self.holding and C.chalk_hold(self.segment, self.generation) == 1 then
    self.holding = true
    open_cursors(self)
    self.events:hold(self.lasting)
  end
  return self.holding
end

--- Opens what the exporters listen at; again and again while a port is not to be had.
---@param at_start boolean? whether an error of an exporter is raised, for init to say
function Flusher:listen(at_start)
  for _, job in ipairs(self.jobs) do
    serve(self, job, at_start)
  end
end

--- In a forked child: what is under way is the parent's.
function Flusher:forked()
  self.holding = false
  self.take_view = view_taker(self)
  self.events:forked()
  for _, job in ipairs(self.jobs) do
    job.exporter:forked()
    job.running, job.waiting, job.server, job.cursor = nil, nil, nil, nil
  end
end

--- Without the role: exporters send what they took while they had it. True while some of it is on its way.
---@return boolean
function Flusher:send_rest()
  local under_way = false
  for _, job in ipairs(self.jobs) do
    if job.exporter:send_rest() then under_way = true end
  end
  return under_way
end

--- The VM is closing: cursors and snapshots are freed already, and what was under way does not go on.
function Flusher:forsake()
  for _, job in ipairs(self.jobs) do
    if job.running then job.running.batch:finish() end
    job.running, job.waiting, job.cursor = nil, nil, nil
  end
  if self.holding then open_cursors(self) end
  self.events:forsake()
end

function Flusher:drain(server)
  local left = {}
  for _, other in ipairs(self.draining) do
    if not other.closed then left[#left + 1] = other end
  end
  left[#left + 1] = server
  self.draining = left
  server:drain()
end

--- Whether scrapes are still being answered after the role was given back.
---@return boolean
function Flusher:is_draining()
  for _, server in ipairs(self.draining) do
    if not server.closed then return true end
  end
  return false
end

local function drain_servers(self)
  for _, job in ipairs(self.jobs) do
    if job.server then self:drain(job.server) end
    job.server = nil
  end
end

--- Gives the role back. Scrapes under way are answered all the same, while the loop turns.
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

-- A flush: the view that its exporters share, and what is to happen when they all have returned. An exporter that is
-- still busy with an earlier flush joins when it is ready; if by then a later one has come, that one carries what this
-- one would have, and this one is over when that is.

---@class chalk.Flush
local Flush = {}
Flush.__index = Flush

local function new_flush(v, over) return setmetatable({ view = v, readers = 0, exporters = 1, over = over }, Flush) end

function Flush:read() self.readers = self.readers + 1 end

function Flush:let_go()
  self.readers = self.readers - 1
  if self.readers == 0 then view.free(self.view) end
end

function Flush:leave()
  self.exporters = self.exporters - 1
  if self.exporters == 0 then self.over() end
end

-- Exporting

local start

local function finish(self, job, run, ok, sent, message)
  if job.running ~= run then return end
  job.running = nil
  if run.batch.over then
    self:complain(job, "the flusher's role went to another process or VM during its export")
  elseif not ok then
    self:complain(job, sent)
  elseif sent == true then
    run.batch:commit_all()
    job.said = nil
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

--- Whether an exporter's export is what calls: it began and has not yielded, or it was resumed.
---@return boolean
function Flusher:is_exporting()
  local thread = coroutine.running()
  for _, job in ipairs(self.jobs) do
    if thread and job.running and job.running.thread == thread then return true end
  end
  return self.starting or false
end

--- Whether an export is under way that may still read what a sweep would free.
---@return boolean
function Flusher:busy()
  local now = self.clock()
  for _, job in ipairs(self.jobs) do
    if job.running and now - job.running.since < ABANDONED then return true end
  end
  return false
end

-- Runs an exporter's export, now or after the one under way.
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

--- Flushes once; `done` is called when every exporter has returned. Only while holding.
---@param done fun()?
---@param blocking boolean? nobody turns the loop until this returns
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
  if not self.uv then self:listen() end -- no turn does it
  self.events:pump(true)
  local v, message = view.take(self.segment, self.deltas)
  if not v then
    log.write("error", "flush: " .. log.text(message))
    return over()
  end
  warn_of_overflow(self, v)
  local flush = new_flush(v, over)
  flush:read()
  for _, job in ipairs(self.jobs) do
    flush.exporters = flush.exporters + 1
    join(self, job, flush, blocking)
  end
  flush:let_go()
  flush:leave()
  self.sweep_due = true
  self:sweep_if_due()
end

--- Sweeps once after each flush, when its exporters have returned: most of them wait for something in their export.
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

-- Turning

local info = ffi.new "chalk_info"

--- One turn: keeps the role, and flushes when it is time or somebody asked. A VM that only waits for the role ticks all
--- the same: its slot may have cells of an owner before it.
function Flusher:turn()
  local at_start = not self.turned
  self.turned = true
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

--- Breaks off the scrapes that are still being answered.
function Flusher:close_servers()
  for _, server in ipairs(self.draining) do
    server:close()
  end
end

--- Tells exporters that it is over.
function Flusher:shut_exporters()
  for _, job in ipairs(self.jobs) do
    local ok, message = pcall(job.exporter.shutdown, job.exporter)
    if not ok then self:complain(job, message) end
  end
end

--- The end: exporters are told, the role goes to whoever is next. `close_servers` is the end of what is still served.
function Flusher:close()
  self:shut_exporters()
  if self.lasting then
    self.lasting = false
    self:hold() -- to give it back for good
  end
  self:release()
  drain_servers(self)
end

return M
