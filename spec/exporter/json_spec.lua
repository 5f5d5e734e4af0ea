--- The exporter that docs/development.md shows as the model for a new built-in exporter. If this file fails, somebody
--- who copies the page's code into chalk/exporter/json.lua gets an exporter that does not work with every driver, or
--- whose output a JSON parser (cjson) cannot read.

local chalk = require "chalk"
local cjson = require "cjson"
local files = require "support.files"
local request = require "support.request"
local uv = require "luv"
require "support.examples" -- finds modules of examples/
local web = require "demo.web"

local FILE = "chalk/exporter/json.lua"

-- Returns the code block of the page that begins with the file's name.
local function source()
  local file = assert(io.open "docs/development.md")
  local text = file:read "*a"
  file:close()
  return (text:match("\n```lua\n(%-%- " .. FILE:gsub("%p", "%%%0") .. "\n.-\n)```"))
end

local function by_name(text)
  local found = {}
  for line in text:gmatch "[^\n]+" do
    local one = cjson.decode(line)
    found[one.name] = one
  end
  return found
end

describe("the exporter of docs/development.md", function()
  local folder, path, client, output

  setup(function()
    folder, path = assert(uv.fs_mkdtemp "/tmp/chalk-exporter-XXXXXX"), package.path
    assert(uv.fs_mkdir(folder .. "/chalk", 448))
    assert(uv.fs_mkdir(folder .. "/chalk/exporter", 448))
    local file = assert(io.open(folder .. "/" .. FILE, "w"))
    file:write(source())
    file:close()
    package.path = folder .. "/?.lua;" .. path
  end)

  teardown(function()
    package.path = path
    os.execute("rm -r " .. folder)
  end)

  before_each(function()
    client, output = chalk.new(), files.name()
  end)

  after_each(function()
    client:shutdown()
    files.clean()
  end)

  local function record()
    client:count("jobs", { namespace = "mail", tags = { "queue" } }):with('a"\n\255'):inc(3)
    client:gauge("level"):set(1 / 0)
    client:histogram("seconds"):record(2)
  end

  for _, driver in ipairs { "thread", "loop", "manual" } do
    it("writes the values recorded since the last flush, with the driver " .. driver, function()
      local exporter = chalk.exporter.json { path = output, global_tags = { env = "\255" } }
      client:init { driver = driver, exporters = { exporter } }
      record()
      assert.is_true(client:flush())
      local first = by_name(files.read(output))
      assert.same({ env = "?", queue = 'a"\n\239\191\189' }, first["mail.jobs"].tags)
      assert.same({ 3, cjson.null, 1 }, { first["mail.jobs"].value, first.level.value, first.seconds.value })
      record()
      assert.is_true(client:flush())
      assert.equal(3, by_name(files.read(output))["mail.jobs"].value)
      assert.is_true(client:shutdown())
      assert.equal(0, by_name(files.read(output))["mail.jobs"].value)
    end)

    it("is refused if an option is wrong, with the driver " .. driver, function()
      for words, options in pairs {
        ['unknown option pth, did you mean "path"?'] = { pth = output },
        ["path must be a string"] = { path = 1 },
        ["listen: bad address"] = { path = output, listen = "unix://" },
        ["No such file or directory"] = { path = "/nowhere/metrics.jsonl" },
      } do
        local ok, message = client:try_init { driver = driver, exporters = { chalk.exporter.json(options) } }
        assert.is_nil(ok)
        assert.matches(words, message, 1, true)
      end
    end)
  end

  for _, driver in ipairs { "thread", "loop" } do
    it("answers requests at its address with the totals, with the driver " .. driver, function()
      local port = web.free_port()
      local exporter = chalk.exporter.json { path = output, listen = "127.0.0.1:" .. port }
      client:init { driver = driver, exporters = { exporter } }
      for _ = 1, 2 do
        record()
        assert.is_true(client:flush())
      end
      local response = request.get(port)
      assert.equal(200, response.status)
      local seen = by_name(response.body)
      assert.same({ 6, 2 }, { seen["mail.jobs"].value, seen.seconds.value })
    end)
  end
end)
