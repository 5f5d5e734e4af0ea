--- A custom exporter for tests that appends each batch to a file: a line for each series, and then `--`.
--
-- Options:
--
--     path          the file
--     yields        milliseconds that export waits for a luv timer
--     hangs         "yield": export yields and is never resumed; "block": it never returns
--     loop          "stop": export stops the loop; "close": the first export closes all handles of the loop
--     fails_while   exports fail while a file of this name exists
--     how           how they fail: "raise" raises an error, otherwise export returns nil

local ffi = require "ffi"

ffi.cdef "int setenv(const char *name, const char *value, int overwrite);"

local Exporter = {}
Exporter.__index = Exporter

local function append(path, text)
  local file = assert(io.open(path, "a"))
  file:write(text)
  file:close()
end

local function exists(path)
  local file = path and io.open(path)
  if file then file:close() end
  return file ~= nil and file ~= false
end

local function line_of(m)
  local tags = {}
  for i, tag in ipairs(m.tags) do
    tags[i] = tag[1] .. "=" .. tag[2]
  end
  local namespace = table.concat(m.namespace, ".") .. (#m.namespace > 0 and "." or "")
  local head = ("%s%s{%s}"):format(namespace, m.name, table.concat(tags, ","))
  if m.type == "count" then return ("%s total=%d delta=%d"):format(head, m.total, m.delta) end
  if m.type == "gauge" then return ("%s value=%.17g"):format(head, m.value) end
  return ("%s count=%d delta=%d"):format(head, m.sketch:count(), m.delta_sketch:count())
end

local function wait_for_timer(milliseconds)
  local uv, thread = require "luv", coroutine.running()
  local timer = uv.new_timer()
  timer:start(milliseconds, 0, function()
    timer:close()
    assert(coroutine.resume(thread))
  end)
  coroutine.yield()
end

local function disturb(what)
  local uv = require "luv"
  if what == "stop" then uv.stop() end
  if what ~= "close" or os.getenv "CLOSED_ONCE" then return end
  ffi.C.setenv("CLOSED_ONCE", "1", 1) -- other VMs of this process see it
  uv.walk(function(handle)
    if not handle:is_closing() then handle:close() end
  end)
end

local function new(options)
  if options.refuses then error("no such place", 0) end
  return setmetatable({ options = options }, Exporter)
end

function Exporter:export(batch)
  local o = self.options
  if exists(o.fails_while) then
    if o.how == "raise" then error("the target is away", 0) end
    return nil, "the target is away"
  end
  local lines = {}
  for m in batch:each() do
    if not m.own then lines[#lines + 1] = line_of(m) .. "\n" end
  end
  if o.yields then wait_for_timer(o.yields) end
  append(o.path, table.concat(lines) .. "--\n")
  disturb(o.loop)
  if o.hangs == "yield" then coroutine.yield() end
  while o.hangs == "block" do
    o.turns = (o.turns or 0) + 1
  end
  return true
end

function Exporter:shutdown() append(self.options.path, "shutdown\n") end

return { new = new }
