--- Runs LuaJIT scripts as separate processes, with the module paths of this one.

local files = require "support.files"

local M = {}

local LUAJIT = os.getenv "LUAJIT" or "luajit"
local LIMIT = 60

local function quoted(text) return "'" .. text:gsub("'", "'\\''") .. "'" end

-- Returns the command line of a script. `timeout` ends a script that hangs, so that it does not hang the specs.
local function command_of(script, options, ...)
  local words = { options.shell or "", "env" }
  for _, name in ipairs(options.without or {}) do
    words[#words + 1] = "-u " .. name
  end
  words[#words + 1], words[#words + 2] = "LUA_PATH=" .. quoted(package.path), "LUA_CPATH=" .. quoted(package.cpath)
  for name, value in pairs(options.env or {}) do
    words[#words + 1] = name .. "=" .. quoted(value)
  end
  words[#words + 1] = ("timeout -k 1 %d %s"):format(options.limit or LIMIT, LUAJIT)
  words[#words + 1] = options.flags or ""
  words[#words + 1] = files.make(script)
  for i = 1, select("#", ...) do
    words[#words + 1] = quoted(tostring((select(i, ...))))
  end
  return table.concat(words, " ")
end

local function finish(pipe)
  local output = pipe:read "*a"
  pipe:close()
  local text, code = output:match "^(.-)exit:(%d+)\n$"
  return tonumber(code), text
end

--- Starts a script. `finish` waits for its end and returns what `run` returns.
---@return { finish: fun(): integer?, string }
function M.spawn(script, options, ...)
  local pipe = assert(io.popen(command_of(script, options or {}, ...) .. ' 2>&1 </dev/null; echo "exit:$?"'))
  return { pipe = pipe, finish = function() return finish(pipe) end }
end

--- Runs a script to its end.
---@param script string
---@param options { env: table?, without: string[]?, flags: string?, shell: string?, limit: integer? } `without`:
--- variables that the script does not get; `shell`: a shell command that runs first, such as `ulimit -c 0;`; `limit`:
--- seconds after which it is ended
---@return integer? code
---@return string output standard output and standard error
function M.run(script, options, ...) return M.spawn(script, options, ...).finish() end

--- Starts a script whose first line of output is its process id, and waits for that line.
---@return { pid: integer, finish: fun(): integer?, string }
function M.start(script, options, ...)
  local child = M.spawn(script, options, ...)
  local first = child.pipe:read "*l"
  child.pid = assert(tonumber(first), "expected a process id as the first line, not " .. tostring(first))
  return child
end

return M
