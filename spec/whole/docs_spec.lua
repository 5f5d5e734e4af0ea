--- A user who copies code from the documentation has code that runs, and one who follows a link finds the page.
--
-- The Lua blocks of a page form one program, in order. A block whose first line is a comment with the name of a file,
-- such as `-- lines.lua`, is that file instead. The page's first JSON block is its metrics.json.

local chalk = require "chalk"
local beds = require "support.statsd_bed"
local cjson = require "cjson"
local examples = require "support.examples"
local uv = require "luv"
local web = require "demo.web"

local PAGES = { "README.md" }
for name in uv.fs_scandir_next, uv.fs_scandir "docs" do
  if name:find "%.md$" then PAGES[#PAGES + 1] = "docs/" .. name end
end
table.sort(PAGES)

local function read(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read "*a"
  file:close()
  return text
end

local function write(path, text)
  for parent in path:gmatch "()/" do
    uv.fs_mkdir(path:sub(1, parent - 1), 493) -- 0755
  end
  local file = assert(io.open(path, "wb"))
  file:write(text)
  file:close()
end

local function blocks(page, language)
  local found = {}
  for name, block in ("\n" .. read(page)):gmatch "\n```(%a*)\n(.-\n)```" do
    if name == language then found[#found + 1] = block end
  end
  return found
end

local function file_of(block) return block:match "^%-%- ([%w_/]+%.lua)\n" end

-- Returns the program of a page: its Lua blocks that are not files. The address in the pages is replaced by a free one.
local function program(page)
  local code = {}
  for _, block in ipairs(blocks(page, "lua")) do
    if not file_of(block) then code[#code + 1] = block end
  end
  return (table.concat(code):gsub("127%.0%.0%.1:9464", "127.0.0.1:" .. web.free_port()))
end

local function absolute(path)
  return (path:gsub("[^;]+", function(item) return item:find "^/" and item or uv.cwd() .. "/" .. item end))
end

-- Runs a program in a folder, with the modules of this checkout.
local function run(folder, name, args)
  local words = {
    "-e",
    ("package.path, package.cpath = %q, %q"):format(
      folder .. "/?.lua;" .. absolute(package.path),
      absolute(package.cpath)
    ),
  }
  words[#words + 1] = "-e"
  words[#words + 1] = ("require('luv').chdir(%q)"):format(folder)
  words[#words + 1] = folder .. "/" .. name
  for _, arg in ipairs(args or {}) do
    words[#words + 1] = arg
  end
  local process = examples.child.spawn(uv.exepath(), words)
  local code = process:finish(30)
  if not code then process:stop() end
  return code, process.output
end

describe("the documentation", function()
  local folder

  before_each(function() folder = assert(uv.fs_mkdtemp "/tmp/chalk-docs-XXXXXX") end)

  after_each(function() os.execute("rm -r " .. folder) end)

  for _, page in ipairs(PAGES) do
    it("of " .. page .. " has examples that run", function()
      for _, block in ipairs(blocks(page, "lua")) do
        assert(loadstring(block, "=" .. page))
        if file_of(block) then write(folder .. "/" .. file_of(block), block) end
      end
      local document = blocks(page, "json")[1]
      if document then write(folder .. "/metrics.json", document) end
      write(folder .. "/page.lua", program(page))
      local code, output = run(folder, "page.lua")
      assert.equal(0, code, output)
    end)

    it("of " .. page .. " has definitions that load", function()
      for _, block in ipairs(blocks(page, "json")) do
        assert.truthy(chalk.new():load(cjson.decode(block)))
      end
    end)

    it("of " .. page .. " has links to pages and headings that exist", function()
      local here = page:match "^.*/" or ""
      for target in read(page):gmatch "%]%(([^)]+)%)" do
        local path, anchor = target:match "^([^#]*)#?(.*)$"
        if not target:find "^https?:" then
          local text = read(path == "" and page or here .. path)
          local headings = text:lower():gsub("[^%w\n #-]", ""):gsub(" ", "-")
          assert.truthy(anchor == "" or headings:find("#-" .. anchor .. "\n", 1, true), page .. ": " .. target)
        end
      end
    end)
  end

  it("of docs/memory.md gives the right number of chalk's own metrics", function()
    local n = #require("chalk.client.own").source.namespaces.chalk.metrics
    assert.matches(("chalk's own %d among them"):format(n), read "docs/memory.md", 1, true)
  end)

  it("of docs/statsd.md shows the lines that its example sends", function()
    local bed = beds.new { namespace = "myapp" }
    local client = bed:start()
    local spec = { namespace = "http", tags = { "path" } }
    client:count("requests", spec)({ path = "/" }):inc()
    client:histogram("latency", spec)({ path = "/" }):record(0.042)
    bed:flush()
    local sent = bed:text()
    bed:close()
    local shown = {}
    for line in blocks("docs/statsd.md", "")[1]:gmatch "[^\n]+" do
      shown[#shown + 1] = "^" .. line:gsub("[^%w.]", "%%%0"):gsub("%.%.%.", "%%d*"):gsub("%.", "%%.") .. "$"
    end
    table.sort(shown)
    assert.equal(#shown, #sent)
    for i, pattern in ipairs(shown) do
      assert.matches(pattern, sent[i])
    end
  end)

  it("has the same tour as examples/tour.lua, with the same output", function()
    local tour
    for _, block in ipairs(blocks("README.md", "lua")) do
      if file_of(block) == "tour.lua" then tour = block end
    end
    assert(tour, "README.md has no block tour.lua")
    local lines = read("examples/tour.lua"):gmatch "([^\n]*)\n"
    for line in tour:gsub("^[^\n]*\n", ""):gmatch "([^\n]*)\n" do
      local found
      repeat
        found = lines()
      until found == line or found == nil
      assert.equal(line, found, "a line of the tour is not in examples/tour.lua, or not in that order")
    end
    write(folder .. "/tour.lua", tour)
    local code, output = run(folder, "tour.lua", { "127.0.0.1:" .. web.free_port() })
    assert.equal(0, code, output)
    local _, whole = examples.run("tour.lua", { "127.0.0.1:" .. web.free_port() })
    local function comparable(text) return (text:gsub("(tour%.lua):%d+", "%1"):gsub("p50.-\n", "\n")) end
    assert.equal(comparable(output), comparable(whole):sub(1, #comparable(output)))
    for line in blocks("README.md", "text")[1]:gmatch "[^\n]+" do
      assert.truthy(whole:find(line .. "\n", 1, true), line)
    end
  end)

  -- Returns the names of tests as busted shows them, one on each line: those of spec/NAME_spec.lua and of spec/NAME/.
  local function names_of_tests(room)
    local names, files = {}, { "spec/" .. room .. "_spec.lua" }
    for name in uv.fs_scandir_next, uv.fs_scandir("spec/" .. room) do
      files[#files + 1] = "spec/" .. room .. "/" .. name
    end
    for _, name in ipairs(files) do
      local above
      for what, title in read(name):gmatch '\n *(%a+)%(%s*"(.-)",%s*function' do
        if what == "describe" then above = title end
        names[#names + 1] = above .. " " .. title
      end
    end
    return table.concat(names, "\n")
  end

  it("of docs/autometrics.md names an existing test for each requirement of Autometrics", function()
    local tests, rows = names_of_tests "autometrics", 0
    for row in read("docs/autometrics.md"):gmatch "\n| [MS][UH]O?[SU]L?[TD] | [^\n]+" do
      rows = rows + 1
      local cell = row:match "|([^|]*)|$"
      for title in cell:gmatch "%*([^*]+)%*" do
        for words in (title .. "…"):gmatch "(.-)…,?" do
          assert.truthy(tests:find(words:match "^%s*(.-)%s*$", 1, true), title)
        end
      end
      assert.truthy(cell:find("*", 1, true) or cell:find "^ the same" or row:find("](#", 1, true), row)
    end
    assert.is_true(rows >= 45, rows .. " rows")
  end)
end)
