-- Counts the instructions of the C record paths with callgrind, a figure that a busy machine does not change, and
-- compares the counts with those in instructions.json.
--
--     luajit bench/instructions.lua            prints the counts beside the stored ones
--     luajit bench/instructions.lua --renew    stores the current counts, after an intended change
--
-- Another compiler, or another release of the same one, generates other code, so a larger difference is allowed then.

package.path = (debug.getinfo(1, "S").source:match "^@(.*/)" or "./") .. "?.lua;" .. package.path

local cjson = require "cjson"
local commands = require "commands"

local M = {}

local HERE = debug.getinfo(1, "S").source:match "^@(.*/)" or "./"
local KEPT = HERE .. "instructions.json"
local BUILD = os.getenv "BUILD" or "build"
local CC = "%s -std=c11 -D_GNU_SOURCE= -O2 -Wall -Wextra -Isrc %sinstructions.c -o %s -L%s -lchalk -lm %s"
local SAME, OTHER = 0.03, 0.25
local N = 10000
local PATHS = {
  "chalk_add, count",
  "chalk_set, gauge",
  "chalk_add, gauge",
  "chalk_set, gauge by sum",
  "chalk_add, gauge by sum",
  "chalk_record, 11 bounds",
  "chalk_sketch_add",
  "chalk_bind, found",
  "chalk_bind, new",
}

local function capture(command)
  local pipe = assert(io.popen(command .. " 2>&1"))
  local text = pipe:read "*a"
  pipe:close()
  return text
end

local function cache_entry(name)
  for line in io.lines(BUILD .. "/CMakeCache.txt") do
    local value = line:match("^" .. name .. ":[^=]*=(.*)")
    if value then return value end
  end
  return ""
end

local function compiler_of(path) return capture(path .. " --version"):match "^[^\n]+" end

local function compile(compiler)
  local program = BUILD .. "/instructions"
  local rpath = ("-Wl,-rpath,$(realpath %s)"):format(BUILD)
  local text = capture(CC:format(compiler, HERE, program, BUILD, rpath))
  if text ~= "" then error(text, 0) end
  return program
end

-- Returns the instructions of one call, with those of the loop, which are the same for all paths.
local function count(program, path)
  local text = capture(
    ("valgrind --tool=callgrind --callgrind-out-file=/dev/null --toggle-collect=path %s '%s' %d"):format(
      program,
      path,
      N
    )
  )
  local total = text:match "Collected : (%d+)"
  if not total then error(("callgrind gave no count of %s:\n%s"):format(path, text), 0) end
  return tonumber(total) / N
end

local function kept()
  local file = assert(io.open(KEPT))
  local text = file:read "*a"
  file:close()
  return cjson.decode(text)
end

--- Counts the instructions of all paths, or returns nil and the reason why that is not possible.
---@return { compiler: string, paths: { path: string, instructions: number }[] }?, string?
function M.measure()
  if not commands.run "command -v valgrind >/dev/null" then return nil, "valgrind is not installed" end
  if cache_entry "CHALK_SANITIZE" ~= "" then return nil, "this build has sanitizers" end
  local compiler = cache_entry "CMAKE_C_COMPILER"
  local program, counts = compile(compiler), {}
  for i, path in ipairs(PATHS) do
    counts[i] = { path = path, instructions = count(program, path) }
  end
  return { compiler = compiler_of(compiler), paths = counts }
end

--- Prints the counts beside the stored ones.
---@return string[] failures the paths that take more instructions than allowed
function M.check()
  local now, reason = M.measure()
  if not now then
    print(("instructions: not counted, %s"):format(reason))
    return {}
  end
  local before, failures = kept(), {}
  local allowed = now.compiler == before.compiler and SAME or OTHER
  print(("\ninstructions, at most %g %% more than stored (%s)"):format(allowed * 100, before.compiler))
  for _, row in ipairs(now.paths) do
    local most = (before.paths[row.path] or 0) * (1 + allowed)
    local ok = row.instructions <= most
    if not ok then failures[#failures + 1] = row.path .. ": too many instructions" end
    local limit, verdict = ("at most %.1f"):format(most), ok and "ok" or "OVER"
    print(("%-56s %10.1f %-12s %-16s %s"):format(row.path, row.instructions, "", limit, verdict))
  end
  return failures
end

local function renew()
  local now, reason = M.measure()
  if not now then error(reason, 0) end
  local lines = {}
  for i, row in ipairs(now.paths) do
    lines[i] = ("    %q: %.1f"):format(row.path, row.instructions)
    print(lines[i])
  end
  local file = assert(io.open(KEPT, "w"))
  file:write('{\n  "compiler": ', ("%q"):format(now.compiler), ',\n  "paths": {\n')
  file:write(table.concat(lines, ",\n"), "\n  }\n}\n")
  file:close()
end

if arg and arg[0] and arg[0]:match "instructions%.lua$" then
  if arg[1] == "--renew" then
    renew()
  elseif #M.check() > 0 then
    os.exit(1)
  end
end

return M
