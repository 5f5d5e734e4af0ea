-- Writes the figures as a Markdown table.

local M = {}

local function figure(value, unit)
  if unit == "bytes" then return ("%.0f B"):format(value) end
  if unit == "%" then return ("%.3f %%"):format(value) end
  return (value < 10 and "%.2f %s" or value < 100 and "%.1f %s" or "%.0f %s"):format(value, unit)
end

local function ratio(row)
  if not row.ratio then return "" end
  local text = (row.ratio < 10 and "%.2f" or "%.0f"):format(row.ratio)
  return row.short and ("**%s**"):format(text) or text
end

local function program(row) return row.language and ("%s (%s)"):format(row.peer, row.language) or "**chalk**" end

local function lines_of(row) return row.note and ("%s; %s"):format(row.way, row.note) or row.way end

local function heading(header)
  local out = {
    ("%s, %d cores, Linux %s; %s."):format(header.processor, header.cores, header.kernel, header.date),
    ("%d rounds, %g s a measure. %s."):format(header.rounds, header.seconds, header.luajit),
    ("%s; %s; %s."):format(header.rustc, header.go, header.cxx),
  }
  local versions = {}
  for _, peer in ipairs(header.peers) do
    versions[#versions + 1] = peer.name .. " " .. peer.version
  end
  out[#out + 1] = table.concat(versions, "; ") .. "."
  for _, peer in ipairs(header.left_out) do
    out[#out + 1] = ("Left out: %s: %s."):format(peer.name, peer.reason)
  end
  return out
end

---@param results { header: table, rows: table[] }
---@return string
function M.markdown(results)
  local out = heading(results.header)
  for i = #out, 1, -1 do
    table.insert(out, i + 1, "")
  end
  out[#out + 1] = "| work | program | how | median | least and most | times chalk's |"
  out[#out + 1] = "| --- | --- | --- | ---: | ---: | ---: |"
  local last
  for _, row in ipairs(results.rows) do
    local low, high = figure(row.low, row.unit), figure(row.high, row.unit)
    local spread = row.low == row.high and "" or low .. ", " .. high
    out[#out + 1] = ("| %s | %s | %s | %s | %s | %s |"):format(
      row.title ~= last and row.title or "",
      program(row),
      lines_of(row),
      figure(row.median, row.unit),
      spread,
      ratio(row)
    )
    last = row.title
  end
  return table.concat(out, "\n") .. "\n"
end

local BEGIN, END = "<!-- bench-peers: begin -->\n", "<!-- bench-peers: end -->"

--- Writes the table into a page, between the two marks in it.
---@param path string
---@param markdown string
function M.put_into(path, markdown)
  local file = assert(io.open(path))
  local text = file:read "*a"
  file:close()
  local _, from = text:find(BEGIN, 1, true)
  local to = text:find(END, 1, true)
  assert(from and to, path .. ": the marks of the table, BEGIN and END, are missing")
  file = assert(io.open(path, "w"))
  file:write(text:sub(1, from), "\n", markdown, "\n", text:sub(to))
  file:close()
end

--- Returns the goals that chalk misses: works for which a peer takes less than the goal times chalk's figure.
---@param rows table[]
---@return string[]
function M.short(rows)
  local out = {}
  for _, row in ipairs(rows) do
    if row.short then
      out[#out + 1] = ("%s: %s, %s: %.2f times chalk's, not %d"):format(
        row.title,
        row.peer,
        row.way,
        row.ratio,
        row.goal
      )
    end
  end
  return out
end

return M
