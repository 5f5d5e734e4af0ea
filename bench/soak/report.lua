-- The report of a run of the soak test: its text in Markdown, and the list of what went wrong.

local ledgers = require "soak.ledger"

local M = {}

local MIB = 1048576

---@class soak.Report
local Report = {}
Report.__index = Report

function Report:line(format, ...) self.lines[#self.lines + 1] = format:format(...) end

function Report:table(...)
  local heads = { ... }
  self:line ""
  self:line("| %s |", table.concat(heads, " | "))
  self:line("|%s", (" --- |"):rep(#heads))
end

function Report:row(...)
  local cells = {}
  for i = 1, select("#", ...) do
    cells[i] = tostring((select(i, ...)))
  end
  self:line("| %s |", table.concat(cells, " | "))
end

--- Adds a problem to the report unless `holds` is true.
function Report:expect(holds, format, ...)
  local text = format:format(...)
  if not holds then self.problems[#self.problems + 1] = text end
end

--- Writes 1234567 as "1,234,567".
local function whole(n)
  local text = ("%.0f"):format(n)
  repeat
    local n_changed
    text, n_changed = text:gsub("^(-?%d+)(%d%d%d)", "%1,%2")
  until n_changed == 0
  return text
end
M.whole = whole

local function at(times, part) return times[math.max(1, math.ceil(#times * part))] or 0 end

--- The table of events.
function Report:events(run)
  local ledger, times = run.ledger, run.scraper.times
  table.sort(times)
  self:table("event", "figure")
  self:row("workers forked", whole(ledger:get "forks"))
  self:row("workers killed by SIGKILL at random times", whole(ledger:get "kills"))
  self:row("of these, in the middle of a record", whole(ledger:get "in_flight"))
  self:row(
    "workers that ended normally: by `_exit`, by `os.exit`, or with the VM closed",
    whole(ledger:get "ended")
  )
  self:row("workers stopped for 0.3 s by SIGSTOP", whole(ledger:get "stops"))
  self:row("parents killed; the parent is the process that flushes", run.masters_killed)
  self:row("children killed after they had taken over flushing", run.holders_killed)
  self:row("longest time until another process answered a scrape", ("%.2f s"):format(run.longest_gap))
  self:row("series removed one by one; calls of `clear`", ledger:get "removes" .. "; " .. ledger:get "clears")
  self:row(
    "changes of the epoch: one for each stripe of the series table from which series are dropped",
    whole(run.info.epoch)
  )
  self:row("scrapes answered, each parsed and compared with the ledger", whole(#times))
  self:row(
    "time of a scrape: median, 95th percentile, maximum",
    ("%.1f, %.1f, %.1f ms"):format(at(times, 0.5) * 1e3, at(times, 0.95) * 1e3, at(times, 1) * 1e3)
  )
  self:row("batches pushed", whole(run.receiver.batches))
  self:row("slots in use: at the end, maximum", run.info.writers .. ", " .. run.most_writers)
end

local function sum_of(ledger, names)
  local done, intended = 0, 0
  for _, name in ipairs(names) do
    local d, i = ledger:bounds(name)
    done, intended = done + d, intended + i
  end
  return done, intended
end

local TOTALS = {
  { name = "jobs", entries = ledgers.KINDS, note = "a count, never dropped" },
  { name = "latency", entries = { "sketch" }, note = "a histogram, never dropped" },
  { name = "churn", entries = { "churn" }, note = "a count whose series are removed, cleared and left idle" },
  { name = "wild", entries = { "wild" }, note = "a count with unlimited tag values, of which 50 become series" },
}

--- The table that compares what was recorded with what the push exporter sent.
function Report:totals(run)
  local receiver = run.receiver
  self:table("metric", "recorded", "in flight at kills", "pushed", "of these pushed twice", "difference")
  for _, one in ipairs(TOTALS) do
    local name = one.name
    local done, intended = sum_of(run.ledger, one.entries)
    local least, most = receiver:repeated(name)
    local pushed, range = receiver.sums[name], whole(least) .. (most > least and " to " .. whole(most) or "")
    self:row(
      ("`%s`, %s"):format(name, one.note),
      whole(done),
      whole(intended - done),
      whole(pushed),
      range,
      whole(pushed - done - least)
    )
    local holds = pushed >= done + least and pushed <= intended + most
    self:expect(
      holds,
      "%s: recorded %.0f to %.0f, pushed %.0f, of these twice %s",
      name,
      done,
      intended,
      pushed,
      range
    )
  end
end

-- The name of the samples, text, unit, the name of the unit, and by which factor and amount the end may exceed the
-- start.
local FLAT = {
  { "segment", "segment memory", MIB, "MiB", 1.02, 0.5 },
  { "controller", "private memory of the process that scrapes", MIB, "MiB", 1.1, 2 },
  { "master", "private memory of the parent, which flushes and serves", MIB, "MiB", 1.1, 2 },
  { "controller_descriptors", "file descriptors of the process that scrapes", 1, "", 1, 0 },
  { "master_descriptors", "file descriptors of the parent", 1, "", 1, 3 },
  { "writers", "slots in use", 1, "", 1, 8 },
  { "series", "series", 1, "", 1, 200 },
  { "quarantined", "dropped series that are still in quarantine", 1, "", 1, 200 },
}

--- The table of what must not grow. In a short run VMs and allocators still grow, so only the segment's figures are
--- judged then.
---@param is_short boolean
function Report:flat(samples, is_short)
  self:table("must not grow", "after warm-up", "in the last quarter")
  for _, one in ipairs(FLAT) do
    local name, text, unit, word, factor, more = unpack(one)
    local early, late = samples:ends(name)
    if early then
      local shown = unit == 1 and "%.0f%s" or "%.2f %s"
      self:row(text, shown:format(early / unit, word), shown:format(late / unit, word))
      local judged = not is_short or (name ~= "controller" and name ~= "master")
      early, late = early / unit, late / unit
      self:expect(not judged or late <= early * factor + more, "%s grows from %g to %g", text, early, late)
    end
  end
end

--- Ends the report with all problems, including those that processes wrote to the log. True if there are none.
function Report:verdict(log)
  local seen = {}
  for line in log:gmatch "[^\n]+" do
    local problem = line:match "^FAIL (.*)" or line:match "^(chalk: error: .*)" or line:match "^(luajit: .*)"
    if problem and not problem:find("the target is away", 1, true) and not seen[problem] then
      seen[problem] = true
      self.problems[#self.problems + 1] = problem
    end
  end
  self:line ""
  if #self.problems == 0 then
    self:line "Nothing failed."
  else
    self:line("**%d failed:**", #self.problems)
    self:line ""
  end
  for i = 1, math.min(#self.problems, 30) do
    self:line("- %s", self.problems[i]:sub(1, 400))
  end
  return #self.problems == 0
end

function Report:text() return table.concat(self.lines, "\n") .. "\n" end

---@return soak.Report
function M.new() return setmetatable({ lines = {}, problems = {} }, Report) end

return M
