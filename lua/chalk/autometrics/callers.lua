-- Chains of callers. A chain lists the instrumented calls that are in progress in one coroutine, innermost last, and so
-- names the caller of the next one. Each coroutine has its own chain: a function that runs while another coroutine
-- waits is not called by the functions that wait.
--
-- A call may begin and never end, because its coroutine is thrown away while it waits. nginx does so on `ngx.exit`, a
-- program when it gives up a task. The result of an abandoned call is unknown. It counts as ok, as the specification
-- demands, and has no duration. A call is found to be abandoned
--
--     in a program   when its coroutine is collected
--     in nginx       when `sweep`, or the next request in the same coroutine, looks at the chain: nginx reuses
--                    coroutines
--
-- In nginx a chain can therefore hold calls of an earlier request, and its innermost function counts as running only if
-- its wrapper is on the stack. Each wrapper has its own environment, which getfenv finds there without making garbage.

local threads = require "chalk.autometrics.running"

local ngx = rawget(_G, "ngx")
local getfenv_of, setfenv_of = debug.getfenv, debug.setfenv
local running, getfenv, getinfo, pcall = threads.running, getfenv, debug.getinfo, pcall

local M = {}

---@class chalk.autometrics.Chain
---@field depth integer the elements 1 to depth are the calls in progress (chalk.autometrics.Call)
---@field notes table<integer, table>? what protect.lua knows of failing calls, by depth

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

-- A chain is collected with its coroutine, and so is the proxy that it holds, whose finalizer abandons the calls. All
-- proxies share one metatable; each finds its chain as its environment.
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

--- Returns the running coroutine's chain without a check that its calls are still in progress. This is enough inside an
--- instrumented function, which is itself the innermost call.
---@return chalk.autometrics.Chain
M.chain = current

-- Levels of the stack from `find` to the wrapper that asks, which is not to be found.
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

--- Returns the running coroutine's chain to a wrapper, at a fixed depth of the stack (SELF). In nginx, calls that an
--- earlier request left behind are abandoned first.
---@return chalk.autometrics.Chain
M.current = ngx and ngx.get_phase and current_in_nginx or current

--- Abandons the calls of coroutines that nginx has ended: a coroutine without a stack runs nothing.
function M.sweep()
  for co, chain in pairs(chains) do
    if chain.depth > 0 and type(co) == "thread" and not getinfo(co, 0, "f") then abandon(chain, 0) end
  end
end

return M
