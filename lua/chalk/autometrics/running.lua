-- Which coroutine runs, for code that LuaJIT compiles: it does not compile coroutine.running, and leaves the code
-- around a call of it half compiled.
--
-- The VM keeps the state that runs in a word of its own, which the FFI can read like any other. Where that word is
-- differs from build to build, so it is looked for: it holds the address of a coroutine, as tostring shows it, inside
-- of that coroutine, and that of another one inside of that. If not exactly one word does, and does so in a trial too,
-- there is coroutine.running.
--
-- Why this is safe:
--
--     what is read    lies within the VM's own state, which is longer than WORDS words in every build with an FFI and
--                     lives as long as any Lua code of the VM, finalizers at its end included; nothing is written
--     is it current   compiled code and the collector go by this word too: the VM sets it wherever a coroutine begins,
--                     ends, yields or raises, and after each C function. No compiled code goes on in another coroutine,
--                     so a read that LuaJIT moves out of a loop is as good
--     an address      stands for one coroutine while that lives, and `known` is weak: LuaJIT takes dead coroutines out
--                     of weak tables before it frees any of them, so another one at the same address is looked up anew
--     a wrong answer  would be a wrong caller's name, no more: once the word is found, nothing it holds is followed

local ffi = require "ffi"

local running, resume, create, yield = coroutine.running, coroutine.resume, coroutine.create, coroutine.yield

local M = {}

local WORDS = 128 -- of the VM's state, which is longer

local wide = ffi.abi "gc64"
local Words = wide and "uint64_t *" or "uint32_t *"
-- In a coroutine, in words: the one that leads to the VM's state.
local SHARED = 2

local function address_of(co)
  local digits = tostring(co):match "^thread: 0x(%x+)$"
  return digits and tonumber(digits, 16)
end

local function words_at(address) return ffi.cast(Words, ffi.cast("uintptr_t", address)) end

-- Calls f in a new coroutine, which is held on to.
local function inside(f)
  local co = create(f)
  local _, result = assert(resume(co, co))
  return result, co
end

-- The places of the VM's words that hold this coroutine's address.
local function places(co)
  local address = address_of(co)
  local shared, found = words_at(tonumber(words_at(address)[SHARED])), {}
  for i = 0, WORDS - 1 do
    if tonumber(shared[i]) == address then found[i] = true end
  end
  found.shared = tonumber(words_at(address)[SHARED])
  return found
end

-- Through a yield, an error, and coroutines in coroutines.
local function trial(word)
  local function holds(co) return tonumber(word[0]) == address_of(co) end
  local outer = create(function(co)
    local before = holds(co)
    local inner = create(function(self)
      local mine = holds(self)
      yield(mine)
      error(holds(self), 0)
    end)
    local _, first = resume(inner, inner)
    local between = holds(co)
    local _, second = resume(inner)
    local raised = holds(co)
    pcall(error)
    return before and first == true and between and second == true and raised and holds(co)
  end)
  local ok, fine = resume(outer, outer)
  return ok and fine == true
end

-- While LuaJIT records a trace, another word follows the coroutine that is recorded.
jit.off(trial, true)

local function find()
  local first, a = inside(places)
  local second, b = inside(places)
  if not (a and b and first.shared == second.shared) then return nil end
  local found
  for i = 0, WORDS - 1 do
    local word = words_at(first.shared) + i
    if first[i] and second[i] and trial(word) then
      if found then return nil end
      found = word
    end
  end
  return found
end

local function prepare()
  if not address_of(create(find)) then return nil end
  local ok, word = pcall(find)
  return ok and word or nil
end

local word = prepare()

-- What stands for the main thread, which has no object, or with LUA52COMPAT one that coroutine.running marks.
M.MAIN = {}

local function now()
  local co, is_main = running()
  return co and not is_main and co or M.MAIN
end

-- By address, those that were seen and live.
local known = setmetatable({}, { __mode = "v" })

-- What is remembered has been seen to be so.
local function look_up(address)
  local co = now()
  if co == M.MAIN or address_of(co) == address then known[address] = co end
  return co
end

local function from_word()
  local address = tonumber(word[0])
  return known[address] or look_up(address)
end

--- The coroutine that runs, or MAIN.
---@return thread|table
M.running = word and from_word or now

--- Whether the main thread runs.
---@return boolean
function M.is_main() return now() == M.MAIN end

M.is_fast = word ~= nil

return M
