--- A C host that does as the example at the top of chalk.h says records into Lua's metrics and its own, and exporters
--- show both.

package.path = "spec/?.lua;" .. package.path

local chalk = require "chalk"
local core = require "chalk.core"
local commands = require "support.commands"
local exposition = require "support.exposition"
local files = require "support.files"

local ffi = core.ffi

-- The header, and the lines of its example.
local function example()
  local here = assert(package.searchpath("chalk", package.path)):match "^(.*)/init.lua$"
  for _, path in ipairs { here .. "/chalk.h", here .. "/../../src/chalk.h" } do
    local text = files.read(path)
    local lines = text:match "\n %* A C host records like this:\n(.-)\n %*\n %* Unless said otherwise"
    if lines then return path:match "^(.*)/", (lines:gsub("\n %*", "\n"):gsub("^ %*", "")) end
  end
  error "the header has no example"
end

-- The example as a function of a library that is linked with the one that this VM has.
local function compile(prefix)
  local folder, code = example()
  local file = assert(io.open(prefix .. ".c", "w"))
  file:write(("#include <chalk.h>\n%s\nconst char *host(void) {\n  static char said[256];\n"):format "")
  file:write((code:gsub("char message%[CHALK_MESSAGE%];", "char *message = said;")))
  file:write "\n  return requests < 0 || sessions < 0 || !ok || !session ? said : 0;\n}\n"
  file:close()
  return os.execute(
    ("cc -std=c11 -Wall -Wextra -Werror -fPIC -shared -I'%s' -o %s.so %s.c '%s'"):format(
      folder,
      prefix,
      prefix,
      core.path
    )
  ) == 0
end

describe("the example of chalk.h", function()
  local prefix

  before_each(function() prefix = files.name() end)

  after_each(function()
    os.remove(prefix .. ".c")
    os.remove(prefix .. ".so")
  end)

  it("records beside Lua, and exporters show both", function()
    if not commands.run "cc --version >/dev/null 2>&1" then return pending "there is no C compiler" end
    local metrics = chalk.load {
      tags = { endpoint = { value_type = "string" }, status = { value_type = "string" } },
      namespaces = {
        http = {
          metrics = {
            {
              name = "request_count",
              type = "count",
              description = "Requests",
              tags = { { tag = "endpoint" }, { tag = "status" } },
            },
          },
        },
      },
    }
    metrics.http.request_count:with("/api", "success"):inc(2)
    assert.is_true(compile(prefix))
    ffi.cdef "const char *host(void);"
    local problem = ffi.load(prefix .. ".so").host()
    assert.is_nil(problem ~= nil and ffi.string(problem) or nil)
    metrics.http.request_count:with("/api", "success"):inc(4)
    local text = chalk.text()
    local samples, types = exposition.parse(text)
    assert.equal(7, samples['http_request_count_total{endpoint="/api",status="success"}'])
    assert.equal(1, samples['host_sessions_total{peer="10.0.0.1",side="left"}'])
    assert.equal("counter", types.host_sessions_total)
    assert.is_truthy(text:find("# HELP http_request_count_total Requests\n", 1, true))
  end)
end)
