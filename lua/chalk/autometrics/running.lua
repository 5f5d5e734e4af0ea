-- Finds the running coroutine in a way that LuaJIT can compile. LuaJIT does not compile coroutine.running, and a call
-- of it ends the trace that contains it.
--
-- The VM keeps the address of the running coroutine in one word of its global state, and the FFI can read that word.
-- Its offset differs between builds of LuaJIT, so the word is searched for: inside a coroutine it holds the address
-- that tostring shows for that coroutine, and inside another coroutine the address of that one. If not exactly one word
-- does so, and also passes a trial, coroutine.running is used.
--
-- Why this is safe:
--
--     reading         The words lie within the VM's global state, which is longer than WORDS words in every build with
--                     an FFI, and which lives as long as any Lua code of the VM, finalizers at its end included.
--                     Nothing is written.
--     being current   The VM's compiled code and collector rely on this word: the VM sets it whenever a coroutine
--                     begins, ends, yields or raises, and after each C function. A trace does not continue in another
--                     coroutine, so a read that LuaJIT hoists out of a loop gives the same value.
--     addresses       An address stands for one coroutine while the coroutine lives. `known` is weak, and LuaJIT clears
--                     dead coroutines from weak tables before it frees any of them, so a new coroutine at the same
--                     address is looked up again.
--     a wrong answer  It would give a wrong caller's name and nothing worse: once the word is found, the address that
--                     it holds is never followed.

local ffi = require "ffi"

local running, resume, create, yield = coroutine.running, coroutine.resume, coroutine.create, coroutine.yield

local M = {}

local WORDS = 128 -- searched; the global state is longer

local wide = ffi.abi "gc64"
local Words = wide and "uint64_t *" or "uint32_t *"
-- The index, in words, of a coroutine's pointer to the global state.
local SHARED = 2

local function address_of(co)
  local digits = tostring(co):match "^thread: 0x(%x+)$"
  return digits and tonumber(digits, 16)
end

local function words_at(address) return ffi.cast(Words, ffi.cast("uintptr_t", address)) end

-- Calls f in a new coroutine. Returns f's result, and the coroutine so that the caller can keep it alive.
local function inside(f)
  local co = create(f)
  local _, result = assert(resume(co, co))
  return result, co
end

-- Returns the set of indexes at which the global state holds this coroutine's address, and the state's own address.
local function indexes(co)
  local address = address_of(co)
  local shared, found = words_at(tonumber(words_at(address)[SHARED])), {}
  for i = 0, WORDS - 1 do
    if tonumber(shared[i]) == address then found[i] = true end
  end
  found.shared = tonumber(words_at(address)[SHARED])
  return found
end

-- Whether a word follows the running coroutine through a yield, an error, and coroutines inside coroutines.
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

-- While LuaJIT records a trace, a second word holds the recorded coroutine. The trial is not compiled, so that only one
-- word passes.
jit.off(trial, true)

local function find()
  local first, a = inside(indexes)
  local second, b = inside(indexes)
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

-- Stands for the main thread, because coroutine.running returns nil there, or with LUA52COMPAT an object and true.
M.MAIN = {}

local function now()
  local co, is_main = running()
  return co and not is_main and co or M.MAIN
end

-- Living coroutines by address. An entry is made only when coroutine.running has confirmed it.
local known = setmetatable({}, { __mode = "v" })

local function look_up(address)
  local co = now()
  if co == M.MAIN or address_of(co) == address then known[address] = co end
  return co
end

local function from_word()
  local address = tonumber(word[0])
  return known[address] or look_up(address)
end

--- Returns the running coroutine, or MAIN.
---@return thread|table
M.running = word and from_word or now

--- Returns whether the main thread runs.
---@return boolean
function M.is_main() return now() == M.MAIN end

M.is_fast = word ~= nil

return M
