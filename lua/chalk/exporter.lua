--- The contract between an exporter and the flush loop: what a module offers, what its objects offer, and what holds
-- where a hook is absent. This file is the only one that tests whether a hook is there.
--
-- An exporter that comes with chalk is a file chalk/exporter/NAME.lua, found by its name. A custom exporter is a module
-- of the application; with the drivers `loop` and `manual` it may also be an object without a module. An exporter knows
-- batches, views and chalk.net, but neither the flush loop nor another exporter.
--
-- Two Lua VMs are involved with the driver `thread`, and one with the others:
--
--   the application's VM   runs `resolve`, in init. In nginx this is the master, before it forks.
--   the flush loop's VM    runs everything else. With the driver `thread` it belongs to the flush thread, and options
--                          come to it as a copy of plain values; otherwise it is the application's VM.
--
-- Every process that may flush makes its exporters, but only the process that holds the flusher's role calls `serve`
-- and `export`. No hook but `export` may yield or wait: the loop stands still until it returns.

local M = {}

--- What `require` gives for an exporter. Only modules that come with chalk are asked `resolve`; a custom module is
--- never loaded into the application's VM by the driver `thread`.
---@class chalk.ExporterModule
---
--- Makes an exporter, in the flush loop's VM, before the loop turns for the first time. It is given a copy of the
--- options, with the client's `global_tags` unless there are some, and opens no socket for listening. An error, or a
--- result without `export`, is an error of init; `shutdown` is called on exporters that were made before. chalk.text()
--- too makes an exporter, in the application's VM, on which it calls nothing but `text`.
---@field new fun(options: table): chalk.Exporter
---
--- Checks the options that the user wrote and completes them with defaults and with what the environment says. It runs
--- when the user calls chalk.exporter.NAME(options), since other VMs and processes may lack the environment. It
--- returns a new table of plain values, or nil and what is wrong, which init raises at its caller's line. Absent:
--- options are taken as they are. Init itself reads these of the result:
---
---     listen      string?    address of a socket that init opens, see `serve`
---     tap         table?     { kinds, events, keep }, as in chalk.Subscription: the event tap is on from init on
---     buckets     number[]?  bounds that the exporter shows, which histograms without bounds of their own then count
---     counted     number[]?  further bounds that they count
---     name        string?    the exporter's name; without one it is the module with `address` or `listen`
---@field resolve (fun(options: table): table?, string?)?
---
--- The formats in which its objects write `text`, of which one has the name of the file. Absent: none.
---@field formats table<string, true>?

--- An object of `new`, as a module's author writes it. Only `export` is required.
---@class chalk.Exporter
---
--- Sends what a batch holds: once a flush, in a coroutine, and while this process holds the flusher's role. It may
--- yield if something resumes it, unless `batch.blocking` says that nothing can. It returns true when everything is
--- sent. An error, or any other result with or without a message, counts in chalk_export_errors_total, and the same
--- differences come with the next flush.
---@field export fun(self: chalk.Exporter, batch: chalk.Batch): boolean?, string?
---
--- False: the exporter needs no differences. It then has no cursor in the segment, and no dropped series are kept for
--- it. Absent: true. Read once, after `new`.
---@field deltas boolean?
---
--- Called once after `new`, with what the exporter may use of the flush loop. An error is an error of init, and the
--- exporter gets no `shutdown`. Absent: nothing.
---@field attach (fun(self: chalk.Exporter, context: chalk.ExporterContext))?
---
--- Serves the clients of a listening socket, for an exporter with the option `listen`: called when this process comes
--- to hold the role, and again when it comes back to it. `fd` belongs to the server that it returns. Nil and a message
--- mean that the next turn tries again; from the sixth time on each failure counts in chalk_export_errors_total. So
--- does an error, but in the first turn, which init waits for, it is an error of init. Absent: an HTTP server that
--- calls `handler`, where there is one. Without either the socket is open and nobody accepts.
---@field serve (fun(self: chalk.Exporter, fd: integer, context: chalk.ExporterContext): chalk.Server?, string?)?
---
--- The simple form of `serve`. It returns the function that answers GET and HEAD. Called once a server; an error in it
--- is one of `serve`, an error in the function it returns is a response with the status 500. Needs a loop, so not for
--- the driver `manual`. `take_view` returns a view, which the response frees once at its end (chalk.read.view.free),
--- or nil and a message when too many are being read.
---@field handler (fun(self: chalk.Exporter, take_view: fun(): chalk.View?, string?): chalk.http.Handler)?
---
--- Sends what the exporter has taken from the event tap and not sent yet: in each turn without the role, and at the
--- end until it returns false or time is over. It starts what takes time and returns whether some of it is under way.
--- Absent: false.
---@field send_rest (fun(self: chalk.Exporter): boolean)?
---
--- Called in a forked child, before anything else there: connections, descriptors and what is under way belong to the
--- parent, and the child lets go of them without a word to the other end. Only with `loop` and `manual`; the flush
--- thread does not survive a fork, and the child's own makes new exporters. Absent: nothing.
---@field forked (fun(self: chalk.Exporter))?
---
--- The end, after the last flush; called once. What it raises counts in chalk_export_errors_total. Absent: nothing.
---@field shutdown (fun(self: chalk.Exporter))?
---
--- All metrics of a view as text in one of the module's `formats`, for chalk.text(format).
---@field text (fun(self: chalk.Exporter, view: chalk.View, format: string): string)?

---@alias chalk.http.Handler fun(request: chalk.http.Request): chalk.http.Response

--- What `attach` and `serve` are given.
---@class chalk.ExporterContext
---@field client chalk.Client the client of the flush loop's VM
---@field events chalk.Events the event tap, to subscribe to
---@field uv table? luv, whose loop turns; nil: nothing turns, and each flush is all there is
---@field name string the exporter's
---@field log fun(level: "warning"|"error", message: string)
---@field take_view fun(): chalk.View?, string?

--- What `serve` returns. Its descriptor, and whatever turns it, end with it.
---@class chalk.Server
---@field closed boolean? whether it has ended
---@field drain fun(self: chalk.Server) the role goes: accepts nobody else, and ends when what is under way is answered
---@field close fun(self: chalk.Server) ends at once; may be repeated

--- An exporter as the flush loop has it: every hook can be called.
---@class chalk.HostedExporter
---@field object chalk.Exporter
---@field deltas boolean
---@field serves boolean whether it can serve at all
---@field needs_loop boolean whether it can do so only where a loop turns
local Hosted = {}
Hosted.__index = Hosted

local function nothing() end

local function identity(...) return ... end

-- What holds where an object lacks a hook, by the hook's name.
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

--- An object of a custom or built-in exporter with all hooks; or nil and why it is none.
---@param object any
---@return chalk.HostedExporter?, string?
function M.host(object)
  if type(object) ~= "table" or type(object.export) ~= "function" then
    return nil, "an exporter has a method export"
  end
  local has_handler, has_serve = object.handler and true or false, object.serve and true or false
  return setmetatable({
    object = object,
    deltas = object.deltas ~= false,
    serves = has_handler or has_serve,
    needs_loop = has_handler and not has_serve,
  }, Hosted)
end

--- The module of an exporter; or nil and what is wrong with it.
---@param name string
---@return chalk.ExporterModule?, string?
function M.module(name)
  local ok, module = pcall(require, name)
  if not ok then
    package.loaded[name] = nil -- the mark of a module that is being loaded: the next try would meet it
    return nil, module
  end
  if type(module) ~= "table" or type(module.new) ~= "function" then
    return nil, ("module %s has no function new"):format(name)
  end
  return module
end

--- The options of a module with its defaults; or nil and what is wrong with them.
---@param module chalk.ExporterModule
---@param options any
---@return table?, string?
function M.resolve(module, options)
  if type(options) ~= "table" then return nil, "options are a table" end
  return (module.resolve or identity)(options)
end

--- Makes the exporter of a module; or nil and what is wrong.
---@param name string the module's
---@param options table
---@param global_tags table? for options without their own
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
