-- The wrapper of an instrumented function. A *record* describes one instrumented function. A *call* holds the two
-- counters, `ok` and `error`, of one function called by one caller; it is created when the caller is first seen.
--
-- Arguments and results pass through as `...`, which keeps their number, nils included, and makes no table. LuaJIT
-- compiles a vararg function into the code that calls it. It does not start a trace in one, which would be aborted at
-- xpcall.

local callers = require "chalk.autometrics.callers"
local core = require "chalk.core"
local log = require "chalk.base.log"
local protect = require "chalk.autometrics.protect"

local now = core.now
local current, failed, raise, handler = callers.current, protect.failed, protect.raise, protect.handler
local pcall, xpcall, select = pcall, xpcall, select

local M = {}

---@class chalk.autometrics.Call
---@field record chalk.autometrics.Record the function that is called
---@field ok chalk.Series
---@field error chalk.Series

---@class chalk.autometrics.Record
---@field name string
---@field module string
---@field bare function
---@field wrapped function
---@field source string?
---@field line integer?
---@field objective chalk.autometrics.Objective?
---@field ok_if function?
---@field error_if function?
---@field by_caller table<any, chalk.autometrics.Call>
---@field duration chalk.Series
---@field concurrent chalk.Series?
---@field environment table of the wrapper, by which callers.lua finds it on the stack
local Record = {}
Record.__index = Record

M.NOBODY = {} -- stands for an unknown caller

---@return chalk.autometrics.Record
function M.record(fields) return setmetatable(fields, Record) end

--- Ends a call whose coroutine was thrown away. Its result is unknown and counts as ok, as the specification demands.
---@param call chalk.autometrics.Call
function Record:abandoned(call)
  call.ok:inc()
  if self.concurrent then self.concurrent:dec() end
end

-- Calls ok_if or error_if. A predicate that raises counts as false, with one warning for each function: instrumentation
-- must not break the function.
local function asked(record, which, ...)
  local predicate = record[which]
  if not predicate then return false end
  local ok, answer = pcall(predicate, ...)
  if ok then return answer end
  if not record.warned then
    record.warned = true
    log.write("warning", ("%s of %s.%s failed: %s"):format(which, record.module, record.name, tostring(answer)))
  end
  return false
end

-- Whether a call that raised nothing has failed, by its results.
local function is_error(record, ...)
  local first, second = ...
  local failure = (first == nil or first == false) and second ~= nil
  if record.plain then return failure end
  if failure then return not asked(record, "ok_if", ...) or not not asked(record, "error_if", ...) end
  return not not asked(record, "error_if", ...)
end

-- Ends a call that raised an error. The predicates get nil and the error, as if the function had returned them.
local function finish_failed(record, call, chain, depth, result)
  local note = failed(result, chain, depth)
  local fine = not record.plain
    and asked(record, "ok_if", nil, note.err)
    and not asked(record, "error_if", nil, note.err)
  if fine then
    call.ok:inc()
  else
    call.error:inc()
  end
  return raise(note)
end

-- LuaJIT does not compile the return of a vararg function to pcall or xpcall. That return occurs when a wrapped
-- function ends in a call of another wrapped one. So functions with fixed parameters return the usual numbers of
-- results.
local function none() end
local function one(a) return a end
local function two(a, b) return a, b end
local function three(a, b, c) return a, b, c end

local function give(...)
  local n = select("#", ...)
  if n == 1 then return one(...) end
  if n == 0 then return none() end
  if n == 2 then return two(...) end
  if n == 3 then return three(...) end
  return ...
end

local function finish(record, call, chain, depth, started, ok, ...)
  local took = now() - started
  chain.depth = depth
  chain[depth + 1] = nil
  record.duration:record(took)
  if record.concurrent then record.concurrent:dec() end
  if not ok then return finish_failed(record, call, chain, depth + 1, (...)) end
  if is_error(record, ...) then
    call.error:inc()
  else
    call.ok:inc()
  end
  return give(...)
end

-- Returns what xpcall calls: the function itself, or, if it is a vararg function, one that returns for it by `give`.
local function called(f)
  local info = debug.getinfo(f, "uS")
  if info.what == "C" or not info.isvararg then return f end
  return function(...) return give(f(...)) end
end

--- Wraps the record's function.
---@param record chalk.autometrics.Record
---@param client chalk.Client
---@param new_call fun(record: chalk.autometrics.Record, caller: chalk.autometrics.Record?): chalk.autometrics.Call
---@return function
function M.wrap(record, client, new_call)
  local f, nobody = called(record.bare), M.NOBODY
  record.plain = not (record.ok_if or record.error_if)
  local function wrapped(...)
    if not client.enabled then return record.bare(...) end
    local chain = current()
    local depth = chain.depth
    local caller = depth > 0 and chain[depth].record or nobody
    local call = record.by_caller[caller] or new_call(record, caller)
    if record.concurrent then record.concurrent:inc() end
    chain[depth + 1] = call
    chain.depth = depth + 1
    return finish(record, call, chain, depth, now(), xpcall(f, handler, ...))
  end
  record.environment = {} -- empty, because the wrapper uses no globals
  return setfenv(wrapped, record.environment)
end

return M
