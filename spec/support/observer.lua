--- metrics-observer, the terminal client of the event stream that the crate metrics-exporter-tcp has: it runs in a tmux
--- of its own, and what its screen shows is read back.
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
local LIMIT = 300 -- seconds after which it ends by itself, should a spec not end it
local KILL = 9

---@class spec.Observer
---@field private socket string of its tmux
---@field private errors_file string
---@field private pids integer[] of tmux and of the observer
local Observer = {}
Observer.__index = Observer

local function quoted(text) return "'" .. text:gsub("'", "'\\''") .. "'" end

-- A sanitizer's runtime that is preloaded into LuaJIT is no matter of theirs, nor is a tmux around us.
local CLEAN = "env -u LD_PRELOAD -u TMUX LC_ALL=C.UTF-8 "

local function output_of(command)
  local pipe = assert(io.popen(command .. " 2>&1; echo exit:$?"))
  local output, code = pipe:read("*a"):match "^(.-)exit:(%d+)\n$"
  pipe:close()
  return output, code == "0"
end

--- The program, installed by tools/observer.
---@return string? path nil when it cannot be had, or tmux is missing
---@return string? reason
function M.install()
  local tmux = output_of("command -v tmux"):match "%S"
  if not tmux and os.getenv "CI" == "true" then error("there is no tmux: tools/setup installs it", 0) end
  if not tmux then return nil, "there is no tmux" end
  local said = output_of "env -u LD_PRELOAD tools/observer"
  local last = said:match "([^\n]*)\n*$"
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

--- Starts it. When nobody listens at the address, it tries again every three seconds.
---@param program string
---@param address string HOST:PORT
---@param size { columns: integer, rows: integer }? of its screen, 300 by 100: a line that is too long is cut off, and
--- of more series than fit the first are shown
---@return spec.Observer
function M.start(program, address, size)
  local self = setmetatable({ socket = files.name(), errors_file = files.make() }, Observer)
  self.config = files.make "set -g status off\n"
  local command = ('exec timeout --foreground -k 1 %d "$0" "$1" 2>"$2"'):format(LIMIT)
  local columns, rows = tostring(size and size.columns or COLUMNS), tostring(size and size.rows or ROWS)
  local said, ok = tmux(
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
  assert(ok, said)
  local pids = tmux(self, "display-message", "-p", "#{pid} #{pane_pid}")
  self.pids = { pids:match "^(%d+) (%d+)" }
  assert(#self.pids == 2, pids)
  return self
end

--- What the screen shows, line by line; "" when it has ended.
---@return string
function Observer:screen()
  local text, ok = tmux(self, "capture-pane", "-p")
  return ok and text or ""
end

--- What it has written to standard error: frames that it could not read, or why it has ended.
---@return string
function Observer:errors() return files.read(self.errors_file) end

--- Whether it shows that it is connected. It goes on showing so when its reading thread has failed: look at errors().
---@return boolean
function Observer:connected() return self:screen():find("state: connected", 1, true) ~= nil end

-- Times are shown in the unit that suits, and so are sizes; any other unit is that of the metric.
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

-- Name and labels as shown, and the values.
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

--- The series that a screen shows, by what M.key gives: { type = "counter"|"gauge", value } or { type = "histogram",
--- min, p50, p99, p999, max }. In seconds and bytes, whatever unit is shown. Times come with up to three decimals of
--- the unit shown, sizes and other units with two (a count of such a unit with none), numbers without unit with all of
--- their digits.
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

--- The series shown now.
---@return table<string, table>
function Observer:metrics() return M.parse(self:screen()) end

--- How a series is shown.
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

--- Ends it and its tmux.
function Observer:stop()
  tmux(self, "kill-server")
  for _, text in ipairs(self.pids) do
    local pid = tonumber(text)
    if not pcall(wait.till, function() return not alive(pid) end, 5) then ffi.C.kill(pid, KILL) end
  end
end

return M
