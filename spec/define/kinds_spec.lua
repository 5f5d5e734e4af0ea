--- The table of kinds describes what metrics really do. Every format relies on it, so a wrong entry would give users
--- wrong numbers or names everywhere.

local chalk = require "chalk"
local kinds = require "chalk.define.kinds"

local FIELDS = { total = { "total", "delta" }, value = { "value" }, sketch = { "sketch", "delta_sketch", "les" } }

describe("a kind of metrics:", function()
  local client, seen

  before_each(function()
    seen = {}
    local exporter = {
      export = function(_, batch)
        for m in batch:each() do
          if not m.own then
            for holds, fields in pairs(FIELDS) do
              for _, field in ipairs(fields) do
                if m[field] ~= nil then seen[holds] = (seen[holds] or 0) + 1 end
              end
            end
          end
        end
        return true
      end,
    }
    client = chalk.new { driver = "manual", exporters = { exporter } }
  end)

  after_each(function() client:shutdown() end)

  it("every kind is listed and has its own name", function()
    local described = 0
    for name, kind in pairs(kinds.of) do
      described = described + 1
      assert.equal(name, kind.name)
    end
    assert.equal(described, #kinds.names)
  end)

  for _, name in ipairs(kinds.names) do
    local kind = kinds.of[name]

    it(name .. " has the verbs in the table and no others", function()
      local series = client[name](client, "m", { tags = { "a" } }):with "x"
      local has = {}
      for _, verb in ipairs(kind.verbs) do
        has[verb] = true
      end
      for _, verb in ipairs(kinds.verbs) do
        local _, message = pcall(series[verb], series, verb == "time" and function() end or 1)
        local refused = tostring(message):find("has no " .. verb, 1, true) ~= nil
        assert.equal(not has[verb], refused, verb)
      end
    end)

    it(name .. " is exported under the names in the table", function()
      client[name](client, "m", { tags = { "a" } }):with("x"):record(1)
      local text = client:text()
      assert.truthy(
        text:find(("# TYPE m%s %s\n"):format(kind.prometheus.suffix, kind.prometheus.type), 1, true),
        text
      )
      for _, sample in ipairs(kind.prometheus.samples) do
        assert.truthy(text:find("\nm" .. sample .. "{", 1, true), text)
      end
    end)

    it(name .. " gives exporters the fields that belong to what it holds", function()
      client[name](client, "m"):record(1)
      assert(client:flush())
      assert.same({ [kind.holds] = #FIELDS[kind.holds] }, seen)
    end)

    it(name .. " takes `across` and `buckets` if the table says so", function()
      local combines = pcall(client[name], client, "a", { across = "sum" })
      local bounded = pcall(client[name], client, "b", { buckets = { 1, 2 } })
      assert.equal(kind.combines, combines)
      assert.equal(kind.has_bounds, bounded)
    end)
  end
end)
