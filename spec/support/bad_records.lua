--- Records that must be refused: a function with the bad call, and what the message must contain. The message must name
--- the line of the call. The specs run these cases with and without the JIT compiler.

local M = {}

local NAN = 0 / 0

local function verb(i) return i < 300 and "inc" or "add" end

-- Each case: name, function with the wrong call, texts that the message must have.
local function cases_of(m, series, untagged, op)
  local count, open, latency = m.http.request_count, m.http.open, m.http.request_latency
  return {
    {
      "unknown tag",
      function() local _ = count { endpont = "/", status = "success" } end,
      { "http.request_count", 'did you mean "endpoint"', "endpoint, status" },
    },
    { "missing tag", function() local _ = count { endpoint = "/" } end, { "http.request_count", '"status"' } },
    { "missing value of `with`", function() local _ = count:with "/" end, { "http.request_count", '"status"' } },
    {
      "too many values for `with`",
      function() local _ = count:with("/", "success", "x") end,
      { "http.request_count", "endpoint, status" },
    },
    {
      "value outside the enum",
      function() local _ = count { endpoint = "/", status = "sucess" } end,
      { '"status"', "success, failure", '"sucess"', 'did you mean "success"' },
    },
    {
      "value outside the enum, for `with`",
      function() local _ = count:with("/", "nope") end,
      { "success, failure" },
    },
    { "empty value of an enum", function() local _ = count:with("/", "") end, { "success, failure" } },
    {
      "table as tag value",
      function() local _ = count { endpoint = {}, status = "success" } end,
      { '"endpoint"', "a string, a whole number or a boolean", "table" },
    },
    { "fraction as tag value", function() local _ = open { endpoint = 1.5 } end, { '"endpoint"', "1.5" } },
    { "NaN as tag value", function() local _ = open:with(NAN) end, { '"endpoint"', "NaN" } },
    { "infinity as tag value", function() local _ = open:with(math.huge) end, { '"endpoint"', "inf" } },
    { "function as tag value", function() local _ = open:with(print) end, { '"endpoint"', "function" } },
    {
      "a string instead of a table of tags",
      function() local _ = count "/" end,
      { "http.request_count", "endpoint" },
    },
    {
      "nothing instead of a table of tags",
      function() local _ = count() end,
      { "http.request_count", "endpoint" },
    },
    { "a verb without the tags", function() count:inc() end, { "http.request_count", "endpoint = ..." } },
    { "set without the tags", function() open:set(1) end, { "http.open", "endpoint = ..." } },
    { "time without the tags", function() latency:time(print) end, { "http.request_latency", "endpoint = ..." } },
    {
      "value without the tags",
      function() local _ = count:value() end,
      { "http.request_count", "endpoint = ..." },
    },
    { "negative count", function() series.count:inc(-1) end, { "http.request_count", "whole number", "-1" } },
    { "fraction to a count", function() series.count:inc(0.5) end, { "whole number", "0.5" } },
    { "NaN to a count", function() series.count:inc(NAN) end, { "whole number", "NaN" } },
    { "infinity to a count", function() series.count:inc(math.huge) end, { "whole number", "inf" } },
    { "too much to a count", function() series.count:inc(2 ^ 53 + 2) end, { "2^53" } },
    { "string to a count", function() series.count:inc "1" end, { "whole number", '"1"' } },
    { "fraction to a count's record", function() series.count:record(0.5) end, { "whole number", "0.5" } },
    { "string to a gauge", function() series.gauge:set "1" end, { "http.open", "number", '"1"' } },
    { "nil to a gauge", function() series.gauge:set() end, { "http.open", "number", "nil" } },
    { "string to a gauge's inc", function() series.gauge:inc "1" end, { "number", '"1"' } },
    { "string to a gauge's dec", function() series.gauge:dec "1" end, { "number", '"1"' } },
    { "nil to a gauge's record", function() series.gauge:record() end, { "number", "nil" } },
    { "string to a histogram", function() series.histogram:record "1" end, { "http.request_latency", '"1"' } },
    { "nil to a histogram", function() series.histogram:record() end, { "http.request_latency", "nil" } },
    { "set of a count", function() series.count:set(1) end, { "http.request_count", "count", "inc, record" } },
    { "dec of a count", function() series.count:dec() end, { "count", "inc, record" } },
    { "time of a count", function() series.count:time(print) end, { "count", "inc, record" } },
    { "start of a gauge", function() local _ = series.gauge:start() end, { "gauge", "set, inc, dec, record" } },
    { "inc of a histogram", function() series.histogram:inc() end, { "histogram", "record, time, start" } },
    { "set of a histogram", function() series.histogram:set(1) end, { "histogram", "record, time, start" } },
    {
      "wrong verb without tags",
      function() m.uptime:time(print) end,
      { "uptime", "gauge", "set, inc, dec, record" },
    },
    { "string to a gauge without tags", function() m.uptime:set "x" end, { "uptime", "number", '"x"' } },
    { "nil to a gauge without tags", function() m.uptime:set(nil) end, { "uptime", "number", "nil" } },
    { "fraction to a count without tags", function() untagged:inc(1.5) end, { "plain", "whole number", "1.5" } },
    { "tags for a metric without tags", function() local _ = m.uptime { a = 1 } end, { "uptime", "no tags" } },
    {
      "values of `with` for a metric without tags",
      function() local _ = m.uptime:with "a" end,
      { "uptime", "no tags" },
    },
    { "removal with an unknown tag", function() open:remove { endpont = "/" } end, { 'did you mean "endpoint"' } },
    { "removal without tags", function() open:remove() end, { "http.open", '"endpoint"' } },
    {
      "removal with a string instead of a table of tags",
      function() open:remove "/" end,
      { "http.open", "endpoint" },
    },
    { "string to an operation", function() op.plain:record "x" end, { "pair_duration_seconds", '"x"' } },
    { "unknown tag of an operation", function() local _ = op.tagged { cach = 1 } end, { 'did you mean "cache"' } },
    { "missing tag of an operation", function() local _ = op.tagged:with() end, { '"cache"' } },
    { "an operation without its tags", function() op.tagged:record(1) end, { "cache = ..." } },
    { "a timed operation without its tags", function() op.tagged:time(print) end, { "cache = ..." } },
    { "a started operation without its tags", function() local _ = op.tagged:start() end, { "cache = ..." } },
    {
      "an unknown verb of a histogram",
      function() series.histogram:observe(1) end,
      { "http.request_latency: a histogram has no observe", "record, time, start" },
    },
    {
      "an unknown verb of a count",
      function() series.count:add(1) end,
      { "a count has no add; its verbs are inc" },
    },
    {
      "an unknown verb in a compiled loop",
      function()
        for i = 1, 300 do
          series.count[verb(i)](series.count)
        end
      end,
      { "a count has no add" },
    },
    {
      "an unknown verb without the tags",
      function() count:add(1) end,
      { "http.request_count: a count has no add", "inc, record" },
    },
    {
      "an unknown verb of a metric without tags",
      function() m.uptime:add(1) end,
      { "uptime: a gauge has no add", "set, inc, dec, record" },
    },
    {
      "an unknown verb called with a dot",
      function() series.count.add(1) end,
      { "with a colon: series:add(...)" },
    },
    {
      "an unknown verb of an operation",
      function() op.plain:inc() end,
      { "pair_duration_seconds: a histogram has no inc" },
    },
    {
      "an unknown verb of an operation's series",
      function() op.tagged:with("x"):inc() end,
      { "record, time, start" },
    },
    {
      "an unknown verb of an operation without its tags",
      function() op.tagged:add() end,
      { "lookup_duration_seconds" },
    },
    {
      "a number to time",
      function() series.histogram:time(1) end,
      { "http.request_latency: time takes a function, not 1" },
    },
    { "nothing to time", function() series.histogram:time() end, { "time takes a function, not nil" } },
    { "a number to an operation's time", function() op.plain:time(1) end, { "time takes a function, not 1" } },
    {
      "a negative count in a compiled loop",
      function()
        for i = 1, 300 do
          series.count:inc(i < 300 and 1 or -1)
        end
      end,
      { "whole number" },
    },
    {
      "a string to a gauge in a compiled loop",
      function()
        for i = 1, 300 do
          series.gauge:set(i < 300 and i or "x")
        end
      end,
      { '"x"' },
    },
    {
      "a string to a histogram in a compiled loop",
      function()
        for i = 1, 300 do
          series.histogram:record(i < 300 and i or "x")
        end
      end,
      { '"x"' },
    },
    {
      "a fraction as tag value in a compiled loop",
      function()
        for i = 1, 300 do
          local _ = open { endpoint = i < 300 and "/" or 0.5 }
        end
      end,
      { "0.5" },
    },
    {
      "a fraction as value of `with` in a compiled loop",
      function()
        for i = 1, 300 do
          local _ = open:with(i < 300 and "/" or 0.5)
        end
      end,
      { "0.5" },
    },
  }
end

--- Returns the cases, with metrics of a client that has loaded documents.service().
---@return { name: string, call: fun(), says: string[], line: integer }[]
function M.of(client, metrics)
  local series = {
    count = metrics.http.request_count:with("/k", "success"),
    gauge = metrics.http.open:with "/k",
    histogram = metrics.http.request_latency:with("/k", "success"),
  }
  local op = { plain = client:op "pair", tagged = client:op("lookup", { tags = { { tag = "cache" } } }) }
  local cases = {}
  for i, case in ipairs(cases_of(metrics, series, client:count "plain", op)) do
    local info = debug.getinfo(case[2], "S")
    local line = info.linedefined
    if info.lastlinedefined > line then line = line + 2 end -- a loop of its own lines: the call is below `for`
    cases[i] = { name = case[1], call = case[2], says = case[3], line = line }
  end
  return cases
end

--- Runs a case. Returns what is wrong with its error; nil if the error is right.
---@return string?
function M.problem(case)
  local ok, message = pcall(case.call)
  if ok then return "no error was raised" end
  message = tostring(message)
  if not message:match("bad_records.lua:" .. case.line .. ": ") then return "another line is named: " .. message end
  for _, text in ipairs(case.says) do
    if not message:find(text, 1, true) then return ("%q is not in: %s"):format(text, message) end
  end
  return nil
end

return M
