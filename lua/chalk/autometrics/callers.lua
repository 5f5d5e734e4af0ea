-- Who calls whom: the instrumented functions that run in a coroutine, innermost last. Each coroutine has its own chain,
-- so that what runs while another one waits is not taken for its callee.
--
-- A call that is begun may never end: its coroutine is thrown away while it waits, as nginx does with `ngx.exit`, or a
-- program with a task that it gave up. Then nobody knows how the call went. It counts as ok, as the specification has
-- it, with no duration.
--
--     in a program   when the coroutine is collected
--     in nginx       when the chain is looked at by `sweep`, or by the next request: nginx uses coroutines again
--
-- So in nginx the innermost function is believed to run only if it is on the stack. Each wrapper has an environment of
-- its own, which getfenv finds there without making garbage.

local threads = require "chalk.autometrics.running"

local ngx = rawget(_G, "ngx")
local getfenv_of, setfenv_of = debug.getfenv, debug.setfenv
local running, getfenv, getinfo, pcall = threads.running, getfenv, debug.getinfo, pcall

local M = {}

---@class chalk.autometrics.Chain
---@field depth integer the entries 1 to depth are calls, see wrapper
---@field notes table<integer, table>? on calls that are failing, by depth, see protect

-- By coroutine.
local chains = setmetatable({ [threads.MAIN] = { depth = 0 } }, { __mode = "k" })

local function abandon(chain, depth)
  for i = chain.depth, depth + 1, -1 do
    local call = chain[i]
    chain[i] = nil
    call.record:abandoned(call)
  end
  chain.depth = depth
end

-- The finalizer's object is of the chain, which goes with its coroutine; all share a metatable. Its environment is the
-- chain.
local guard = newproxy(true)
getmetatable(guard).__gc = function(one)
  local chain = getfenv_of(one)
  if chain.depth then abandon(chain, 0) end
end

local function new_chain(co)
  local chain = { depth = 0 }
  chain.guard = setfenv_of(newproxy(guard), chain)
  chains[co] = chain
  return chain
end

local function current()
  local co = running()
  return chains[co] or new_chain(co)
end

--- The chain of the coroutine that runs, as it stands, for who is called inside of the innermost function.
---@return chalk.autometrics.Chain
M.chain = current

-- The functions between here and the wrapper, and the wrapper that asks.
local SELF = 5

local function find(environment)
  local level = SELF + 1
  while getfenv(level) ~= environment do
    level = level + 1
  end
end

local function is_on_stack(call) return (pcall(find, call.record.environment)) end

local function current_in_nginx()
  local chain = current()
  while chain.depth > 0 and not is_on_stack(chain[chain.depth]) do
    abandon(chain, chain.depth - 1)
  end
  return chain
end

--- The chain of the coroutine that runs, for a wrapper.
---@return chalk.autometrics.Chain
M.current = ngx and ngx.get_phase and current_in_nginx or current

--- Ends the calls of coroutines that nginx has ended.
function M.sweep()
  for co, chain in pairs(chains) do
    if chain.depth > 0 and type(co) == "thread" and not getinfo(co, 0, "f") then abandon(chain, 0) end
  end
end

return M
