-- Calls whose end has to be noticed, errors included, without taking anything from the error.
--
-- A call is noticed by xpcall, after which the stack of the error is gone and the error is raised anew from there: the
-- same value, but whoever makes a traceback of it would see only the outer half. So the message handler here, which
-- runs where the error is and with all of its stack, looks who is going to catch it:
--
--     pcall           sees no traceback: nothing to do
--     xpcall          its handler is run at once, in place of ours, and what it returns is put where it would be called
--                     again
--     nobody, in the main thread or a luv callback: the host prints the message: the traceback is added to it
--     nobody, in a coroutine of nginx: nginx writes its end to the log: so is the traceback
--
-- A handler is found in the stack: LuaJIT keeps it in the first slot of xpcall's frame, and reads it from there when it
-- is needed. `works` has tried that it is so; were it not, their handler would be called later, without the stack.
--
-- Why this is safe: debug.getlocal and setlocal look where a frame ends, so no other memory is reached, and a value on
-- the stack is known to the collector. Handlers run only where all frames are on the stack: LuaJIT leaves compiled code
-- before it calls one. What is put in place of a handler is for a call that has failed already and returns in no other
-- way than by the error, which nothing between here and there catches; with its frame it is gone.

local callers = require "chalk.autometrics.callers"
local threads = require "chalk.autometrics.running"

local ngx = rawget(_G, "ngx")
local getinfo, getlocal, setlocal, traceback = debug.getinfo, debug.getlocal, debug.setlocal, debug.traceback
local rawequal, type = rawequal, type
local pcall, xpcall = pcall, xpcall
local current = callers.chain

local M = {}

local MOST = 200 -- levels looked at; a level is found by counting

-- The xpcalls of ours that the error being raised will pass before anybody else's; each has nothing left to do.
local passing = 0

local handler

-- What the handler found, for the call that is about to fail: in its chain, by its depth, since their handler may call
-- functions and resume coroutines that fail as well.
local function notes_of(chain)
  local notes = chain.notes
  if not notes then
    notes = {}
    chain.notes = notes
  end
  return notes
end

local function is_luv(f)
  local luv = package.loaded.luv
  return luv ~= nil and f == luv.run
end

-- Those of C that let an error through.
local TRANSPARENT = {
  [require] = true,
  [dofile] = true,
  [table.sort] = true,
  [string.gsub] = true,
}

-- Who catches an error raised now: "xpcall" and its level, "host", "thread" or "other"; and how many of ours before.
local function catcher(from)
  local ours = 0
  for level = from, from + MOST do
    local info = getinfo(level, "Sf")
    if not info then return threads.is_main() and "host" or "thread", nil, ours end
    if info.func == xpcall then
      local _, found = getlocal(level, 1)
      if not rawequal(found, handler) then return "xpcall", level, ours end
      ours = ours + 1
    elseif info.func == pcall then
      return "other", nil, ours
    elseif info.what == "C" and level > from and not TRANSPARENT[info.func] then
      if is_luv(info.func) or not getinfo(level + 1, "f") then return "host", nil, ours end
      return "other", nil, ours
    end
  end
  return "other", nil, 0
end

local works = true

-- An error in a handler ends handling, unless something was caught meanwhile, be it a trace that LuaJIT gives up: then
-- the handler is called for that error too, as theirs would have been.
function handler(e)
  local chain = current()
  local notes, depth = notes_of(chain), chain.depth
  local again = notes[depth]
  if again then return again.theirs and again.theirs(e) or e end
  local note = { e = e }
  notes[depth] = note
  if passing > 0 then
    passing = passing - 1
    note.left = passing
    return e
  end
  local who, level, ours = catcher(3) -- of this function's caller: what raised
  note.left = math.max(ours - 1, 0)
  if who == "xpcall" and works then
    local _, theirs = getlocal(level - 1, 1)
    if type(theirs) == "function" then
      note.theirs = theirs
      setlocal(level - 1, 1, function() return note.result end)
      return theirs(e)
    end
  elseif (who == "host" or who == "thread") and type(e) == "string" then
    note.trace = { who = who, text = traceback(e, 2) }
  end
  return e
end

M.handler = handler

--- What a call failed with, after xpcall has returned false and `result`: to be given to `raise` when all is noted.
---@param result any
---@param chain chalk.autometrics.Chain
---@param depth integer of the call
---@return table note its `e` is the error
function M.failed(result, chain, depth)
  local notes = notes_of(chain)
  local note = notes[depth]
  if not note then return { e = result, left = 0 } end -- LuaJIT called no handler
  notes[depth] = nil
  note.result = result
  return note
end

--- Lets the error go on.
---@param note table
function M.raise(note)
  local e, trace = note.e, note.trace
  if trace and trace.who == "host" then
    e = trace.text
  elseif trace and ngx and ngx.log then
    ngx.log(ngx.ERR, "an error that nothing catches: ", trace.text)
  end
  passing = note.left
  return error(e, 0)
end

local function trial()
  local seen
  local function theirs(e)
    seen = (seen or "") .. e
    return "handled"
  end
  local ok, result = xpcall(function()
    local _, problem = xpcall(function() error("once", 0) end, handler)
    M.raise(M.failed(problem, current(), current().depth))
  end, theirs)
  return ok == false and result == "handled" and seen == "once"
end

works = trial()

return M
