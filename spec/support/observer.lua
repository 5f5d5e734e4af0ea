--- Runs metrics-observer, the terminal client of the Rust crate metrics-exporter-tcp for event streams, in its own
--- tmux, and reads back what its screen shows.
---
---     local program = observer.install()
---     local seen = observer.start(program, "127.0.0.1:5000")
---     wait.till(function() return seen:metrics()[observer.key("requests", { endpoint = "/a" })] end)
---     seen:stop()

local ffi = require "ffi"
local files = require "support.files"
local wait = require "support.wait"

pcall(ffi.cdef, "int kill(int pid, int signal);")

local M = {}

local COLUMNS, ROWS = 300, 100
local LIMIT = 300 -- seconds after which it is ended, if a spec does not end it
local KILL = 9

---@class spec.Observer
---@field private socket string of its tmux
---@field private errors_file string
---@field private pids integer[] of tmux and of the observer
local Observer = {}
Observer.__index = Observer

local function quoted(text) return "'" .. text:gsub("'", "'\\''") .. "'" end

-- Removes the sanitizer's runtime that is preloaded into LuaJIT, and the tmux in which the specs may run.
local CLEAN = "env -u LD_PRELOAD -u TMUX LC_ALL=C.UTF-8 "

local function output_of(command)
  local pipe = assert(io.popen(command .. " 2>&1; echo exit:$?"))
  local output, code = pipe:read("*a"):match "^(.-)exit:(%d+)\n$"
  pipe:close()
  return output, code == "0"
end

--- Installs the program by tools/observer.
---@return string? path nil if it cannot be installed, or tmux is missing
---@return string? reason
function M.install()
  local tmux = output_of("command -v tmux"):match "%S"
  if not tmux and os.getenv "CI" == "true" then error("tmux is not installed: tools/setup installs it", 0) end
  if not tmux then return nil, "tmux is not installed" end
  local output = output_of "env -u LD_PRELOAD tools/observer"
  local last = output:match "([^\n]*)\n*$"
  if last:find "^/" then return last end
  return nil, "metrics-observer is not installed: " .. last
end

local function tmux(self, ...)
  local words = { CLEAN .. "tmux -u -f", quoted(self.config), "-S", quoted(self.socket) }
  for i = 1, select("#", ...) do
    words[#words + 1] = quoted((select(i, ...)))
  end
  return output_of(table.concat(words, " "))
end

--- Starts the program. If it cannot connect to the address, it tries again every three seconds.
---@param program string
---@param address string HOST:PORT
---@param size { columns: integer, rows: integer }? of its screen, default 300 by 100. Longer lines are cut off, and if
--- there are more series than rows, only the first are shown
---@return spec.Observer
function M.start(program, address, size)
  local self = setmetatable({ socket = files.name(), errors_file = files.make() }, Observer)
  self.config = files.make "set -g status off\n"
  local command = ('exec timeout --foreground -k 1 %d "$0" "$1" 2>"$2"'):format(LIMIT)
  local columns, rows = tostring(size and size.columns or COLUMNS), tostring(size and size.rows or ROWS)
  local output, ok = tmux(
    self,
    "new-session",
    "-d",
    "-x",
    columns,
    "-y",
    rows,
    "sh",
    "-c",
    command,
    program,
    address,
    self.errors_file
  )
  assert(ok, output)
  local pids = tmux(self, "display-message", "-p", "#{pid} #{pane_pid}")
  self.pids = { pids:match "^(%d+) (%d+)" }
  assert(#self.pids == 2, pids)
  return self
end

--- Returns the text on the screen; "" if the program has ended.
---@return string
function Observer:screen()
  local text, ok = tmux(self, "capture-pane", "-p")
  return ok and text or ""
end

--- Returns what the program has written to standard error: frames that it could not read, or why it has ended.
---@return string
function Observer:errors() return files.read(self.errors_file) end

--- Returns whether the screen says that it is connected. It still says so if the reading thread has failed: see
--- errors().
---@return boolean
function Observer:connected() return self:screen():find("state: connected", 1, true) ~= nil end

-- Factors of the units that the screen uses for times and sizes. Any other unit is that of the metric.
local SCALES = {
  ns = 1e-9,
  ["µs"] = 1e-6,
  ms = 1e-3,
  s = 1,
  B = 1,
  KiB = 2 ^ 10,
  MiB = 2 ^ 20,
  GiB = 2 ^ 30,
  TiB = 2 ^ 40,
  PiB = 2 ^ 50,
}

local function number(text)
  local digits, unit = text:match "^(%-?[%d.]+)%s*(.*)$"
  if not digits then return tonumber(text) end
  return tonumber(digits) * (SCALES[unit] or 1)
end

local HISTOGRAM = "^(.*%S)%s+min: (.+) p50: (.+) p99: (.+) p999: (.+) max: (.+)$"

-- Returns the name and labels as shown, and the values.
local function read_line(text)
  local key, min, p50, p99, p999, max = text:match(HISTOGRAM)
  if key then
    return key,
      {
        type = "histogram",
        min = number(min),
        p50 = number(p50),
        p99 = number(p99),
        p999 = number(p999),
        max = number(max),
      }
  end
  for type, word in pairs { counter = "total", gauge = "current" } do
    local shown, value = text:match("^(.*%S)%s+" .. word .. ": (%S.*)$")
    if shown then return shown, { type = type, value = number(value) } end
  end
end

--- Returns the series on a screen, by their M.key: { type = "counter"|"gauge", value } or { type = "histogram", min,
--- p50, p99, p999, max }. Times are converted to seconds and sizes to bytes. The screen shows times with up to three
--- decimals, sizes and other units with two (counts with such a unit with none), and numbers without unit with all
--- digits.
---@param screen string
---@return table<string, table>
function M.parse(screen)
  local found = {}
  for line in (screen:match "observed metrics(.*)$" or ""):gmatch "[^\n]+" do
    local text = line:match "^%s*│(.-)%s*│%s*$" or ""
    local key, values = read_line((text:gsub("^>> ", ""):gsub("^   ", ""))) -- one line may be selected
    if key then found[key] = values end
  end
  return found
end

--- Returns the series that are on the screen now.
---@return table<string, table>
function Observer:metrics() return M.parse(self:screen()) end

--- Returns a series's name and labels as the screen shows them.
---@param name string
---@param labels table<string, string>?
---@return string
function M.key(name, labels)
  local list = {}
  for label, value in pairs(labels or {}) do
    list[#list + 1] = label .. " = " .. value
  end
  table.sort(list)
  return list[1] and ("%s [%s]"):format(name, table.concat(list, ", ")) or name
end

local function alive(pid) return ffi.C.kill(pid, 0) == 0 end

--- Ends the program and its tmux.
function Observer:stop()
  tmux(self, "kill-server")
  for _, text in ipairs(self.pids) do
    local pid = tonumber(text)
    if not pcall(wait.till, function() return not alive(pid) end, 5) then ffi.C.kill(pid, KILL) end
  end
end

return M
