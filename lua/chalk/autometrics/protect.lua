-- Notices how a wrapped call ends without changing the error that it may raise.
--
-- The wrapper calls the function by xpcall. When the function fails, xpcall has unwound the stack, and the wrapper
-- raises the same value again from there. A traceback made afterwards would therefore lack the frames below the
-- wrapper. So the message handler here, which runs at the error with the whole stack in place, finds out who will catch
-- the error and acts for the catcher:
--
--     pcall            The catcher sees no traceback: nothing to do.
--     xpcall           The handler of that xpcall is run at once, and is replaced in its frame by a function that
--                      returns its result, because LuaJIT will call the handler again for the error that the wrapper
--                      raises.
--     nobody, in the main thread or a luv callback
--                      The host prints the message, so the traceback is appended to the message.
--     nobody, in a coroutine of nginx
--                      nginx logs the end of the coroutine, so the traceback is logged too.
--
-- The handler of another xpcall is found on the stack: LuaJIT keeps it in the first slot of xpcall's frame, and reads
-- it from there when it calls it. `trial` checks that this is so. If it is not, the other handler is left alone: it is
-- called for the error that the wrapper raises, and sees only the outer part of the stack.
--
-- Why this is safe: debug.getlocal and debug.setlocal check where a frame ends, so they reach no other memory, and the
-- collector knows the values on the stack. LuaJIT leaves compiled code before it calls a handler, so all frames are on
-- the stack. A handler is replaced only in the frame of an xpcall whose call has failed already: nothing between the
-- error and that frame catches the error, so the replacement is called for this error only and goes with the frame.

local callers = require "chalk.autometrics.callers"
local threads = require "chalk.autometrics.running"

local ngx = rawget(_G, "ngx")
local getinfo, getlocal, setlocal, traceback = debug.getinfo, debug.getlocal, debug.setlocal, debug.traceback
local rawequal, type = rawequal, type
local pcall, xpcall = pcall, xpcall
local current = callers.chain

local M = {}

local MOST_LEVELS = 200 -- searched on the stack; the cost of one grows with its depth, because LuaJIT counts frames

-- The number of wrappers that the error being raised will still pass before another catcher. Their handlers have
-- nothing to do, because the handler of the innermost wrapper has already acted for the catcher.
local passing = 0

local handler

-- Returns a chain's notes: what the handler found out about each call that is failing. They are kept by chain and depth
-- because the catcher's handler may itself call wrapped functions that fail, and resume coroutines in which others do.
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

-- C functions that call Lua and do not catch its errors.
local TRANSPARENT = {
  [require] = true,
  [dofile] = true,
  [table.sort] = true,
  [string.gsub] = true,
}

-- Finds who will catch an error that is raised now. Returns "xpcall" and its level, "host" (the program that runs the
-- main thread, or luv), "thread" (who resumed the coroutine) or "other"; and the number of wrappers before the catcher.
local function catcher(from)
  local ours = 0
  for level = from, from + MOST_LEVELS do
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

-- The message handler of every wrapper. It can run twice for one call: LuaJIT ends the handling of an error when a
-- handler fails, but calls the handler again if an error was caught in between (aborting a trace counts as one). The
-- catcher's handler is then called again too, as it would be without the wrapper.
function handler(err)
  local chain = current()
  local notes, depth = notes_of(chain), chain.depth
  local again = notes[depth]
  if again then return again.theirs and again.theirs(err) or err end
  local note = { err = err }
  notes[depth] = note
  if passing > 0 then
    passing = passing - 1
    note.left = passing
    return err
  end
  local who, level, ours = catcher(3) -- from the caller of this function, which raised
  note.left = math.max(ours - 1, 0)
  if who == "xpcall" and works then
    local _, theirs = getlocal(level - 1, 1)
    if type(theirs) == "function" then
      note.theirs = theirs
      setlocal(level - 1, 1, function() return note.result end)
      return theirs(err)
    end
  elseif (who == "host" or who == "thread") and type(err) == "string" then
    note.trace = { who = who, text = traceback(err, 2) }
  end
  return err
end

M.handler = handler

--- Takes the note on a failed call from its chain. The wrapper calls this when xpcall has returned false, records the
--- failure, and then calls `raise` with the note.
---@param result any what xpcall returned after false
---@param chain chalk.autometrics.Chain
---@param depth integer of the call
---@return table note its `err` is the error
function M.failed(result, chain, depth)
  local notes = notes_of(chain)
  local note = notes[depth]
  if not note then return { err = result, left = 0 } end -- LuaJIT called no handler
  notes[depth] = nil
  note.result = result
  return note
end

--- Raises the error of a failed call again.
---@param note table from `failed`
function M.raise(note)
  local err, trace = note.err, note.trace
  if trace and trace.who == "host" then
    err = trace.text
  elseif trace and ngx and ngx.log then
    ngx.log(ngx.ERR, "uncaught error: ", trace.text)
  end
  passing = note.left
  return error(err, 0)
end

-- Whether another xpcall's handler is found on the stack, is called once, and its result reaches that xpcall.
local function trial()
  local seen
  local function theirs(err)
    seen = (seen or "") .. err
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
