-- `make bench-peers`: measures the same work done by chalk and by other libraries. Each library has its own program,
-- and rounds interleave the programs. Prints a table, and writes it to build/bench-peers.json and build/bench-peers.md.
--
--     luajit bench/peers/run.lua [--rounds N] [--seconds S] [--only PATTERN] [--into PAGE]
--
-- --only runs the works whose name matches. --into writes the table into a page such as docs/performance.md.

local here = arg[0]:match "^(.*/)" or "./"
package.path = ("%s?.lua;%s../?.lua;%s"):format(here, here, package.path)

local cjson = require "cjson"
local commands = require "commands"
local peers = require "peers"
local report = require "report"
local works = require "works"

local LOGS = "build/peers"
local luajit = os.getenv "LUAJIT" or "luajit"
local CHALK = { name = "chalk", program = luajit .. " bench/peers/luajit/program.lua" }

local function option(name, default)
  for i = 1, #arg - 1 do
    if arg[i] == "--" .. name then return arg[i + 1] end
  end
  return default
end

local rounds, seconds = tonumber(option("rounds", "7")), tonumber(option("seconds", "0.1"))
local only = option("only", "")

local first_line = commands.first_line

local function succeeds(command) return commands.run(("(%s) >/dev/null 2>&1"):format(command)) end

-- Building. A peer that cannot be built is left out, and the report names it with the reason.

local function install(peer)
  if succeeds(peer.has_package) then return true end
  if not succeeds "command -v apt-get && [ $(id -u) = 0 ]" then return false end
  print("installing " .. peer.package)
  os.execute(
    ("DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends %s >%s/apt.log 2>&1"):format(
      peer.package,
      LOGS
    )
  )
  return succeeds(peer.has_package)
end

-- Returns the compiler's first error, or else the log's last line.
local function reason_in(log)
  local last
  for line in io.lines(log) do
    if line:match "^error" or line:match ": error" then return line end
    if line:match "%S" then last = line end
  end
  return last or "the build printed no message"
end

--- Builds a peer. Returns the reason if that is not possible.
local function build(peer)
  if not succeeds("command -v " .. peer.tool) then return peer.tool .. " is not installed" end
  if peer.package and not install(peer) then return "the package " .. peer.package .. " is not installed" end
  local log = ("%s/%s.log"):format(LOGS, peer.program:match "[^/]+$")
  print(("building %s"):format(peer.name))
  if not commands.run(("(%s) >%s 2>&1"):format(peer.build, log)) then return reason_in(log):gsub("%.$", "") end
  if peer.version_command then peer.version = first_line(peer.version_command) or peer.version end
end

local function build_all()
  os.execute("mkdir -p " .. LOGS)
  local taking_part, left_out = { CHALK }, {}
  for _, peer in ipairs(peers) do
    local reason = build(peer)
    if reason then
      print(("left out: %s: %s"):format(peer.name, reason))
      left_out[#left_out + 1] = { name = peer.name, reason = reason }
    else
      taking_part[#taking_part + 1] = peer
    end
  end
  return taking_part, left_out
end

-- Measuring

local figures = {} -- by work and peer: a list of the ways to do the work, each with its samples

local function samples_of(work, peer, way)
  local key = work.id .. "\t" .. peer.name
  figures[key] = figures[key] or {}
  for _, entry in ipairs(figures[key]) do
    if entry.way == way then return entry end
  end
  local entry = { way = way, samples = {} }
  table.insert(figures[key], entry)
  return entry
end

-- Runs a program and takes its figures. A program that fails ends the run, because the report would lack its figures
-- without a reason.
local function measure(work, peer, round, argument)
  local program = work.accuracy and peer.accuracy or peer.program
  local pipe = assert(io.popen(("%s %s %s; echo status $?"):format(program, work.id, argument)))
  for line in pipe:lines() do
    local status = line:match "^status (%d+)$"
    if status then
      if status ~= "0" then error(("%s: %s ended with exit code %s"):format(peer.name, work.id, status), 0) end
    else
      local way, figure, note = line:match "^([^\t]+)\t([^\t]+)\t?(.*)$"
      local entry = samples_of(work, peer, way)
      entry.samples[round] = tonumber(figure)
      entry.note = note ~= "" and note or nil
    end
  end
  pipe:close()
end

-- Each round begins with another program, so that none always runs first.
local function run_rounds(taking_part)
  for round = 1, rounds do
    io.write(("round %d of %d:"):format(round, rounds))
    for _, work in ipairs(works) do
      if not work.accuracy and work.id:match(only) then
        io.write(" ", work.id)
        io.flush()
        for i = 0, #taking_part - 1 do
          measure(work, taking_part[(i + round) % #taking_part + 1], round, seconds)
        end
      end
    end
    print()
  end
end

local function run_accuracy(taking_part)
  for _, work in ipairs(works) do
    if work.accuracy and work.id:match(only) then
      measure(work, CHALK, 1, 0)
      local bytes = tonumber(figures[work.id .. "\tchalk"][1].note:match "%d+")
      for i = 2, #taking_part do
        measure(work, taking_part[i], 1, bytes)
      end
    end
  end
end

-- Computing the report

local function sorted(list)
  local copy = { unpack(list) }
  table.sort(copy)
  return copy
end

local function median(list) return sorted(list)[math.floor(#list / 2) + 1] end

local function reference_samples(work)
  for _, entry in ipairs(figures[work.id .. "\tchalk"] or {}) do
    if not work.reference or entry.way == work.reference then return entry.samples end
  end
end

-- Returns the median of the ratios of each round, because whatever slows a round down slows both programs down.
local function ratio_of(samples, reference)
  local ratios = {}
  for round = 1, #samples do
    ratios[round] = samples[round] / reference[round]
  end
  return median(ratios)
end

local function row_of(work, peer, entry)
  local order = sorted(entry.samples)
  local row = {
    work = work.id,
    title = work.title,
    unit = work.unit,
    peer = peer.name,
    language = peer.language,
    way = entry.way,
    note = entry.note,
    median = median(order),
    low = order[1],
    high = order[#order],
    samples = entry.samples,
    goal = work.goal,
  }
  local reference = not work.no_ratio and reference_samples(work)
  if reference and entry.samples ~= reference then row.ratio = ratio_of(entry.samples, reference) end
  row.short = row.ratio and work.goal and peer ~= CHALK and row.ratio < work.goal or nil
  return row
end

local function rows_of(taking_part)
  local rows = {}
  for _, work in ipairs(works) do
    for _, peer in ipairs(taking_part) do
      for _, entry in ipairs(figures[work.id .. "\t" .. peer.name] or {}) do
        rows[#rows + 1] = row_of(work, peer, entry)
      end
    end
  end
  return rows
end

local function header(taking_part, left_out)
  local list = {}
  for _, peer in ipairs(taking_part) do
    if peer ~= CHALK then
      list[#list + 1] = { name = peer.name, version = peer.version, language = peer.language }
    end
  end
  return {
    processor = first_line "sed -n 's/^model name[^:]*: //p' /proc/cpuinfo" or "unknown processor",
    cores = tonumber(first_line "nproc"),
    kernel = first_line "uname -r | cut -d. -f1,2",
    date = os.date "!%Y-%m-%d",
    luajit = (first_line(luajit .. " -v") or "LuaJIT"):match "^[^%-]+%-?%S*",
    rustc = first_line "rustc --version" or "no rustc",
    go = first_line "go version" or "no go",
    cxx = first_line "c++ --version" or "no c++",
    rounds = rounds,
    seconds = seconds,
    peers = list,
    left_out = left_out,
  }
end

local function write(path, text)
  local file = assert(io.open(path, "w"))
  file:write(text)
  file:close()
end

local taking_part, left_out = build_all()
run_rounds(taking_part)
run_accuracy(taking_part)
local results = { header = header(taking_part, left_out), rows = rows_of(taking_part) }
local markdown = report.markdown(results)
write("build/bench-peers.json", cjson.encode(results) .. "\n")
write("build/bench-peers.md", markdown)
if option "into" then report.put_into(option "into", markdown) end
print("\n" .. markdown)
local short = report.short(results.rows)
if #short > 0 then print("goals that were missed:\n  " .. table.concat(short, "\n  ")) end
