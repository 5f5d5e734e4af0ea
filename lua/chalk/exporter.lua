--- The contract between an exporter and the flush loop: the hooks that an exporter's module and its objects may have,
-- and what happens when a hook is absent. Only this file tests whether a hook is present.
--
-- A built-in exporter is a file chalk/exporter/NAME.lua, found by its name. A custom exporter is a module of the
-- application. With the drivers `loop` and `manual` a custom exporter may also be an object without a module. An
-- exporter uses batches, views and chalk.net. It uses neither the flush loop's internals nor another exporter.
--
-- The driver `thread` involves two Lua VMs, the other drivers one:
--
--   the application's VM   runs `resolve`, when the user writes the options of init (in nginx this is the master's VM,
--                          before the workers are forked), and `new` and `text` for chalk.text().
--   the flush loop's VM    runs all other hooks. With the driver `thread` this VM belongs to the flush thread and gets
--                          the options as a copy of plain values. Otherwise it is the application's VM.
--
-- With the drivers `loop` and `manual` every process makes its exporters; with `thread` a process makes them when it
-- gets the flusher's role. Only the process that holds the flusher's role calls `serve` and `export`. Only `export` may
-- yield or wait, because the flush loop stands still while any other hook runs.

local M = {}

--- The module of an exporter, as `require` returns it. Only modules that come with chalk can have `resolve`: the driver
--- `thread` never loads a custom module into the application's VM.
---@class chalk.ExporterModule
---
--- Makes an exporter, in the flush loop's VM, before the loop's first iteration. `options` is a copy of the options. If
--- they have no `global_tags`, the copy has the client's. `new` opens no listening socket. An error, or a result
--- without `export`, is an error of init if init makes the exporters, which then calls `shutdown` on those made before.
--- Where a flush thread makes them later, the error is logged and the thread tries again. chalk.text() makes
--- an exporter too, in the application's VM, and calls only its `text`.
---@field new fun(options: table): chalk.Exporter
---
--- Checks the options that the user wrote and adds defaults and values from the environment. It runs when the user
--- calls chalk.exporter.NAME(options), because other VMs and processes may lack the environment. It returns a new
--- table of plain values; or nil and a message, which init raises at its caller's line. Absent: options are used
--- unchanged. Init itself reads these fields of the result:
---
---     listen      string?    address of a socket that init opens, see `serve`
---     tap         table?     { kinds, events, keep }, as in chalk.Subscription: init switches the event tap on
---     buckets     number[]?  bounds that the exporter shows; histograms without bounds of their own count these
---     counted     number[]?  further bounds that such histograms count
---     name        string?    the exporter's name; the default is the module's name with `address` or `listen`
---@field resolve (fun(options: table): table?, string?)?
---
--- The formats in which objects of this module write `text`. One of them has the name of the file. Absent: none.
---@field formats table<string, true>?

--- An exporter, as `new` returns it. Only `export` is required.
---@class chalk.Exporter
---
--- Sends the contents of a batch. The flush loop calls it once per flush, in a coroutine, while this process holds the
--- flusher's role. It may yield if something resumes the coroutine, except when `batch.blocking` is true: then nothing
--- can. It returns true if it sent everything. An error or any other result, with or without a message, counts in
--- chalk_export_errors_total, and the next batch contains the same differences again.
---@field export fun(self: chalk.Exporter, batch: chalk.Batch): boolean?, string?
---
--- False: the exporter needs no differences. It then has no cursor in the segment, so no dropped series are kept for
--- it. Absent: true. The flush loop reads this field once, after `new`.
---@field deltas boolean?
---
--- Called once after `new`, with the services that the flush loop offers to exporters. An error is an error of init,
--- and this exporter's `shutdown` is not called. Absent: nothing happens.
---@field attach (fun(self: chalk.Exporter, context: chalk.ExporterContext))?
---
--- Serves the clients of a listening socket, for an exporter with the option `listen`. Called when this process takes
--- the flusher's role and has no server yet. The returned server owns `fd` and closes it. If `serve` returns nil and a
--- message, the loop's next iteration tries again, and from the sixth failure in a row on each one counts in
--- chalk_export_errors_total. An error is handled in the same way, except in the first iteration, for which init
--- waits: there it is an error of init. Absent: an HTTP server calls `handler`. If both are absent, the socket is open
--- and nothing accepts.
---@field serve (fun(self: chalk.Exporter, fd: integer, context: chalk.ExporterContext): chalk.Server?, string?)?
---
--- The simple form of `serve`: returns the function that answers GET and HEAD. Called once per server. An error in
--- `handler` counts as an error of `serve`; an error in the returned function becomes a response with status 500. It
--- needs a running loop, so it cannot be used with the driver `manual`. `take_view` returns a view, which the response
--- must free once, at its end (chalk.read.view.free); or nil and a message if too many views are in use.
---@field handler (fun(self: chalk.Exporter, take_view: fun(): chalk.View?, string?): chalk.http.Handler)?
---
--- Sends the events that the exporter has taken from the event tap and has not sent yet. Called in every iteration in
--- which this process does not hold the role, and at the end, until it returns false or the time is over. It must not
--- wait: it starts whatever takes time, and returns whether some of that is still in progress. Absent: false.
---@field send_rest (fun(self: chalk.Exporter): boolean)?
---
--- Called in a forked child before anything else there. Connections, descriptors and exports in progress belong to the
--- parent, so the child drops them without sending anything. Only the drivers `loop` and `manual` call it: the flush
--- thread does not survive a fork, and the child's new thread makes new exporters. Absent: nothing happens.
---@field forked (fun(self: chalk.Exporter))?
---
--- Called once, after the last flush; `send_rest` may be called once more after it. An error counts in
--- chalk_export_errors_total. Absent: nothing happens.
---@field shutdown (fun(self: chalk.Exporter))?
---
--- Returns all metrics of a view as text in one of the module's `formats`, for chalk.text(format).
---@field text (fun(self: chalk.Exporter, view: chalk.View, format: string): string)?

---@alias chalk.http.Handler fun(request: chalk.http.Request): chalk.http.Response

--- The services that `attach` and `serve` receive.
---@class chalk.ExporterContext
---@field client chalk.Client the client of the flush loop's VM
---@field events chalk.Events the event tap, to subscribe to
---@field uv table? luv, if its loop runs; nil: no loop runs, and exporters work only during flushes
---@field name string the exporter's name
---@field log fun(level: "warning"|"error", message: string)
---@field take_view fun(): chalk.View?, string?

--- A server, as `serve` returns it. It owns its descriptor and its handles in the loop and closes them when it ends.
---@class chalk.Server
---@field closed boolean? whether it has ended
---@field drain fun(self: chalk.Server) the role goes: stops accepting, and ends when its responses are complete
---@field close fun(self: chalk.Server) ends at once; may be called again

--- An exporter as the flush loop uses it: every hook can be called.
---@class chalk.HostedExporter
---@field object chalk.Exporter
---@field deltas boolean
---@field serves boolean whether it can serve at all
---@field needs_loop boolean whether it can serve only while a loop runs
local Hosted = {}
Hosted.__index = Hosted

local function nothing() end

local function identity(...) return ... end

-- Implementations of the hooks that an object lacks, by the hook's name.
local DEFAULTS = {
  attach = nothing,
  serve = function(object, fd, context)
    local handler = object:handler(context.take_view)
    return require("chalk.net.http").serve { fd = fd, log = context.log, handler = handler }
  end,
  send_rest = function() return false end,
  forked = nothing,
  shutdown = nothing,
}

for hook, default in pairs(DEFAULTS) do
  Hosted[hook] = function(self, ...) return (self.object[hook] or default)(self.object, ...) end
end

function Hosted:export(batch) return self.object:export(batch) end

--- Wraps an exporter's object so that all hooks can be called. Returns nil and a message if it is not an exporter.
---@param object any
---@return chalk.HostedExporter?, string?
function M.host(object)
  if type(object) ~= "table" or type(object.export) ~= "function" then
    return nil, "an exporter must be a table with a method export"
  end
  local has_handler, has_serve = object.handler and true or false, object.serve and true or false
  return setmetatable({
    object = object,
    deltas = object.deltas ~= false,
    serves = has_handler or has_serve,
    needs_loop = has_handler and not has_serve,
  }, Hosted)
end

--- Loads the module of an exporter. Returns nil and a message if it cannot be loaded or has no function `new`.
---@param name string
---@return chalk.ExporterModule?, string?
function M.module(name)
  local ok, module = pcall(require, name)
  if not ok then
    package.loaded[name] = nil -- `require` leaves a mark there after an error, and would return it next time
    return nil, module
  end
  if type(module) ~= "table" or type(module.new) ~= "function" then
    return nil, ("module %s has no function new"):format(name)
  end
  return module
end

--- Returns a module's options with its defaults; or nil and a message if the options are wrong.
---@param module chalk.ExporterModule
---@param options any
---@return table?, string?
function M.resolve(module, options)
  if type(options) ~= "table" then return nil, "options must be a table" end
  return (module.resolve or identity)(options)
end

--- Makes an exporter of a module. Returns nil and an error value if the module or its `new` fails.
---@param name string the module's name
---@param options table
---@param global_tags table? used if the options have none
---@return chalk.HostedExporter?, any
function M.make(name, options, global_tags)
  local module, problem = M.module(name)
  if not module then return nil, problem end
  local given = {}
  for key, value in pairs(options) do
    given[key] = value
  end
  if given.global_tags == nil then given.global_tags = global_tags end
  local ok, object = pcall(module.new, given)
  if not ok then return nil, object end
  return M.host(object)
end

return M
