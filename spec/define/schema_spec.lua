--- A metrics.json means what its author wrote: each field reaches the definition, and absent fields have the documented
--- defaults.

local schema = require "chalk.define.schema"

local FIXTURE = "spec/fixtures/metrics.json"

local registry

local function errors_of(source)
  local definitions, errors = registry:add(source)
  assert.is_nil(definitions)
  return errors
end

local function only_error(source)
  local errors = errors_of(source)
  assert.equal(1, #errors, table.concat(errors, "\n"))
  return (errors[1]:gsub("^definitions: ", ""))
end

local function write_file(text)
  local path = os.tmpname()
  local file = assert(io.open(path, "wb"))
  file:write(text)
  file:close()
  finally(function() os.remove(path) end)
  return path
end

local function count(name) return { name = name, type = "count" } end

before_each(function() registry = schema.new() end)

describe("metrics.json", function()
  it("becomes definitions in the order of the document", function()
    local definitions = assert(registry:add(FIXTURE))
    local names = {}
    for i, def in ipairs(definitions) do
      names[i] = def.id_name .. " " .. def.flat .. " " .. def.type
    end
    assert.same({
      "uptime Uptime gauge",
      "http.request_count HttpRequestCount count",
      "http.request_latency HttpRequestLatency histogram",
      "http.auth.login_latency HttpAuthLoginLatency histogram",
    }, names)
  end)

  it("gives each definition all of its fields", function()
    local definitions = assert(registry:add(FIXTURE))
    assert.same({
      id_name = "http.auth.login_latency",
      namespace = { "http", "auth" },
      name = "login_latency",
      flat = "HttpAuthLoginLatency",
      type = "histogram",
      description = "Login latency in seconds",
      across = "last",
      tags = {
        { name = "status", key = "status", kind = "enum", values = { "success", "failure" }, optional = false },
      },
    }, definitions[4])
  end)

  it("takes unit, buckets, max_series, across, optional and export names", function()
    local definitions = assert(registry:add {
      tags = { e = { value_type = "string", export_name = "exported" } },
      metrics = {
        {
          name = "h",
          type = "histogram",
          unit = "seconds",
          buckets = { -0.0, 0.5 },
          max_series = 10,
          tags = { { tag = "e", optional = true } },
        },
        { name = "g", type = "gauge", across = "sum", tags = { { tag = "e", export_name = "renamed" } } },
      },
    })
    local histogram, gauge = definitions[1], definitions[2]
    assert.equal("seconds", histogram.unit)
    assert.same({ 0, 0.5 }, histogram.buckets)
    assert.equal(math.huge, 1 / histogram.buckets[1])
    assert.equal(10, histogram.max_series)
    assert.same({ name = "e", key = "exported", kind = "string", optional = true }, histogram.tags[1])
    assert.equal("sum", gauge.across)
    assert.equal("renamed", gauge.tags[1].key)
  end)

  it("may refer to a tag several times in one metric, under different names", function()
    local definitions = assert(registry:add {
      tags = { e = { value_type = "string", export_name = "exported" } },
      metrics = {
        {
          name = "a",
          type = "count",
          tags = {
            { tag = "e" },
            { tag = "e", export_name = "again", optional = true },
            { tag = "e", export_name = "e" },
          },
        },
      },
    })
    assert.same({
      { name = "e", key = "exported", kind = "string", optional = false },
      { name = "e", key = "again", kind = "string", optional = true },
      { name = "e", key = "e", kind = "string", optional = false },
    }, definitions[1].tags)
    local inline = assert(registry:define("gauge", "g", { tags = { "e", { tag = "e", export_name = "other" } } }))
    assert.equal("other", inline.tags[2].key)
    assert(registry:define("gauge", "h", { tags = { { tag = "e", export_name = "kube/cluster-name.v1" } } }))
    inline = registry:define("gauge", "h", { tags = { { tag = "e", export_name = "kube/cluster-name.v1" } } })
    assert.equal("kube/cluster-name.v1", inline.tags[1].key)
    assert.same(inline, schema.decode(schema.encode(inline)))
  end)

  it("may be empty, and may have null for an absent field", function()
    assert.same({}, (registry:add {}))
    assert.same({}, (registry:add(write_file '{"metrics": [], "namespaces": {"a": {}}, "tags": null}')))
    local marked = write_file '\239\187\191{"metrics": [{"name": "b", "type": "count", "unit": null}]}'
    local definitions = assert(registry:add(marked))
    assert.is_nil(definitions[1].unit)
  end)

  it("does not change with the table that it was read from", function()
    local document = { metrics = { { name = "h", type = "histogram", buckets = { 1, 2 } } } }
    local definitions = assert(registry:add(document))
    document.metrics[1].buckets[1] = 5
    assert.same({ 1, 2 }, definitions[1].buckets)
  end)
end)

describe("the constants of enum tags", function()
  it("are the allowed values", function()
    local _, tags = registry:add(FIXTURE)
    assert.equal("success", tags.status.success)
    local keys = {}
    for key, value in pairs(tags.status) do
      keys[#keys + 1] = key .. "=" .. value
    end
    table.sort(keys)
    assert.same({ "failure=failure", "success=success" }, keys)
  end)

  it("need not be identifiers", function()
    local _, tags = registry:add { tags = { code = { value_type = "enum", values = { "2xx", "not found" } } } }
    assert.equal("not found", tags.code["not found"])
  end)

  it("raise at the reader's line for a value that is not allowed, naming those that are", function()
    local _, tags = registry:add(FIXTURE)
    local ok, message = pcall(function() return tags.status.sucess end)
    assert.is_false(ok)
    assert.matches(
      'schema_spec.lua:%d+: tag "status" has no value "sucess", allowed: "success", "failure"',
      message
    )
    assert.has_error(
      function() return tags.statu end,
      'no enum tag "statu" in these definitions, did you mean "status"?'
    )
  end)
end)

describe("a name", function()
  it(
    "is defined once in a document",
    function()
      assert.equal(
        'metrics[2]: metric "a" is defined twice, first at metrics[1]',
        only_error { metrics = { count "a", count "a" } }
      )
    end
  )

  it("may be defined again with the same definition, which is the same metric", function()
    local first = assert(registry:add(FIXTURE))
    local second = assert(registry:add(FIXTURE))
    assert.equal(4, #second)
    for i, def in ipairs(first) do
      assert.equal(def, second[i])
    end
  end)

  it("is refused with another definition, saying what differs", function()
    local function again(fields)
      fields.name, fields.type = "m", fields.type or "histogram"
      local message = only_error { metrics = { fields } }
      return message:match '^metrics%[1%]: metric "m" is already defined differently: (.*)'
    end
    local tags = { t = { value_type = "string" }, u = { value_type = "string" } }
    local used = { { tag = "t" } }
    local metric = { name = "m", type = "histogram", buckets = { 1, 2 }, description = "d", tags = used }
    assert(registry:add { tags = tags, metrics = { metric } })
    assert.equal('field "type" was "histogram", here it is "count"', again { type = "count" })
    assert.equal('field "buckets" was {1, 2}, here it is none', again {})
    assert.equal('field "unit" was none, here it is "s"', again { unit = "s", buckets = { 1, 2 } })
    assert.equal('field "description" was "d", here it is ""', again { buckets = { 1, 2 } })
    assert.equal('field "tags" was {t}, here it is {}', again { buckets = { 1, 2 }, description = "d" })
    assert.equal(
      'tag "t": field "optional" was false, here it is true',
      again { buckets = { 1, 2 }, description = "d", tags = { { tag = "t", optional = true } } }
    )
    assert.equal(
      'tag "t": field "tag" was "t", here it is "u"',
      again { buckets = { 1, 2 }, description = "d", tags = { { tag = "u", export_name = "t" } } }
    )
  end)

  it("is a metric or a namespace, not both, in all documents together", function()
    local clash = 'metrics[1]: metric "a.b" has the name of a namespace: rename one of them'
    assert.equal(
      'namespaces.a.namespaces.b: namespace "a.b" has the name of a metric: rename one of them',
      only_error { namespaces = { a = { metrics = { count "b" }, namespaces = { b = {} } } } }
    )
    assert(registry:add { namespaces = { a = { namespaces = { b = {} } } } })
    assert.equal("namespaces.a." .. clash, only_error { namespaces = { a = { metrics = { count "b" } } } })
    assert(registry:add { metrics = { count "c" } })
    assert.equal(
      'namespaces.c: namespace "c" has the name of a metric: rename one of them',
      only_error { namespaces = { c = {} } }
    )
    assert.matches("has the name of a metric", select(2, registry:define("count", "x", { namespace = "c" }))[1])
  end)

  it("in camel case belongs to one metric too", function()
    assert.equal(
      'metrics[2]: metric "FooBar" has the flat name "FooBar", like metric "foo_bar": rename one of them',
      only_error { metrics = { count "foo_bar", count "FooBar" } }
    )
    assert.equal(
      'namespaces.Up: namespace "Up" has the flat name of metric "up": rename one of them',
      only_error { metrics = { count "up" }, namespaces = { Up = {} } }
    )
    assert(registry:add { namespaces = { Up = {} } })
    assert.equal(
      'metrics[1]: metric "up" has the flat name "Up", like a namespace: rename one of them',
      only_error { metrics = { count "up" } }
    )
  end)
end)

describe("two metrics that Prometheus would see under one name", function()
  local function refused(first, second)
    registry = schema.new()
    assert(registry:add(first))
    local message = only_error(second)
    registry = schema.new()
    assert(registry:add(second))
    assert.matches("would be exported to Prometheus as", only_error(first))
    return message
  end

  local function of(kind, name, unit) return { metrics = { { name = name, type = kind, unit = unit } } } end

  it("are refused, in either order, in all documents together", function()
    assert.equal(
      'metrics[1]: metric "foo_total" would be exported to Prometheus as "foo", like metric "foo": rename one of them',
      refused(of("count", "foo"), of("count", "foo_total"))
    )
    assert.matches('"foo_count"', refused(of("histogram", "foo"), of("gauge", "foo_count")))
    assert.matches('"foo_total"', refused(of("count", "foo"), of("gauge", "foo_total")))
    assert.matches('"foo_created"', refused(of("count", "foo"), of("gauge", "foo_created")))
    assert.matches('"foo_seconds"', refused(of("gauge", "foo", "seconds"), of("gauge", "foo_seconds")))
  end)

  it("are refused across namespaces", function()
    local nested = { namespaces = { a = { namespaces = { b = { metrics = { count "c" } } } } } }
    local flat = { namespaces = { a = { metrics = { count "b_c" } } } }
    registry = schema.new()
    assert(registry:add(nested))
    assert.matches('like metric "a.b.c"', table.concat(errors_of(flat), "\n"))
  end)

  it("are accepted when their names only look alike", function()
    local metrics = { count "foo", { name = "foo_count", type = "gauge" }, { name = "foo_bucket", type = "count" } }
    assert.is_table(registry:add { metrics = metrics })
  end)
end)

describe("chalk's own names", function()
  local own = {
    tags = { kind = { value_type = "string" } },
    namespaces = { chalk = { metrics = { { name = "errors", type = "count", tags = { { tag = "kind" } } } } } },
  }

  it("are refused to users", function()
    local reserved = 'names that start with "chalk" are reserved for chalk\'s own metrics: choose another name'
    assert.matches(reserved, only_error { namespaces = { chalk = { metrics = { count "x" } } } })
    assert.matches(reserved, only_error { metrics = { count "chalk_x" } })
    assert.matches(reserved, only_error { metrics = { count "chalk" } })
    assert.is_table(registry:add { metrics = { count "chalky" } })
  end)

  it("are open to chalk, whose tags do not clash with the users' tags", function()
    assert(registry:add { tags = { kind = { value_type = "enum", values = { "a" } } } })
    local definitions = assert(registry:own(own))
    assert.is_true(definitions[1].own)
    assert.equal("string", definitions[1].tags[1].kind)
    assert.equal(definitions[1], registry:own(own)[1])
    assert.is_nil(registry:add(own))
  end)
end)

describe("a definition at run time", function()
  it("equals the one from a document", function()
    local from_file = registry:add(FIXTURE)[2]
    local defined = assert(
      registry:define(
        "count",
        "request_count",
        { namespace = "http", tags = { "endpoint", "status" }, description = "Total HTTP requests" }
      )
    )
    assert.equal(from_file, defined)
    assert.equal(
      from_file,
      registry:define("count", "request_count", {
        namespace = { "http" },
        tags = { { tag = "endpoint" }, { tag = "status" } },
        description = "Total HTTP requests",
      })
    )
  end)

  it("needs nothing but a name", function()
    local def = assert(registry:define("gauge", "up"))
    assert.equal("up", def.id_name)
    assert.equal(def, registry:define("gauge", "up", {}))
  end)

  it("may have its own tags, which no other metric has", function()
    assert(registry:add(FIXTURE))
    local def = assert(registry:define("count", "lookups", {
      namespace = "cache.disk",
      tags = { "anything", { tag = "status", values = { "hit", "miss" }, optional = true, export_name = "result" } },
    }))
    assert.equal("cache.disk.lookups", def.id_name)
    assert.same({
      { name = "anything", key = "anything", kind = "string", optional = false },
      { name = "status", key = "result", kind = "enum", values = { "hit", "miss" }, optional = true },
    }, def.tags)
    assert.is_table(registry:add { tags = { anything = { value_type = "enum", values = { "a" } } } })
  end)

  it("is checked like one in a document", function()
    local def, errors = registry:define("histogram", "a b", {
      namespace = "x..y",
      buckets = { 2, 1 },
      tags = { "le", "q r", { tag = "s", values = {} }, 5 },
      colour = 1,
    })
    assert.is_nil(def)
    local bad = ": expected letters, digits and _, not starting with a digit"
    local fields = ", expected namespace, tags, description, unit, buckets, max_series or across"
    assert.same({
      'histogram "a b": unknown field "colour"' .. fields,
      'histogram "a b": namespace: bad namespace name ""' .. bad,
      'histogram "a b": name: bad metric name "a b"' .. bad,
      'histogram "a b": buckets[2]: 1 is not greater than the bound before it, 2',
      'histogram "a b": tags[1]: label name "le" is reserved by Prometheus: choose another export_name',
      'histogram "a b": tags[2]: bad tag name "q r"' .. bad,
      'histogram "a b": tags[3].values: an enum needs at least one value',
      'histogram "a b": tags[4]: expected an object, got a number',
    }, errors)
    assert.same({ "count: expected a name, got nothing" }, select(2, registry:define "count"))
    assert.same({ 'gauge "a": expected an object, got a string' }, select(2, registry:define("gauge", "a", "b")))
    assert.same(
      { 'gauge "a": namespace: expected an array, got a number' },
      select(2, registry:define("gauge", "a", { namespace = 5 }))
    )
  end)

  it("of an operation defines two metrics, both or neither", function()
    local spec = { tags = { "cache" }, buckets = { 1, 2 }, description = "Lookups" }
    local lookups, duration = registry:op("cache_lookup", spec)
    assert.equal("count cache_lookup", lookups.type .. " " .. lookups.id_name)
    assert.is_nil(lookups.buckets)
    assert.equal("histogram cache_lookup_duration_seconds", duration.type .. " " .. duration.id_name)
    assert.equal("seconds", duration.unit)
    assert.same({ 1, 2 }, duration.buckets)
    local again, duration_again = registry:op("cache_lookup", spec)
    assert.equal(lookups, again)
    assert.equal(duration, duration_again)

    assert(registry:define("gauge", "query_duration_seconds"))
    local none, errors = registry:op("query", { tags = { "cache" } })
    assert.is_nil(none)
    assert.equal(1, #errors)
    assert.matches(
      'metric "query_duration_seconds" is already defined differently: field "type" was "gauge"',
      errors[1]
    )
    assert.is_table(registry:define("gauge", "query"))
    assert.same(
      { 'op "x y": unknown field "unit", expected namespace, tags, description, buckets or max_series' },
      { select(2, registry:op("x y", { unit = "s" }))[1] }
    )
  end)
end)

describe("an encoded definition", function()
  local function full()
    return assert(registry:add {
      tags = {
        e = { value_type = "enum", values = { "a", "b:c", "é" }, export_name = "x" },
        s = { value_type = "string" },
      },
      namespaces = {
        n = {
          metrics = {
            {
              name = "h",
              type = "histogram",
              unit = "seconds",
              buckets = { -1, 0, 0.1, 1e300 },
              max_series = 2147483647,
              description = "several\nlines",
              tags = { { tag = "e" }, { tag = "s", optional = true } },
            },
          },
        },
      },
    })[1]
  end

  it("decodes to an equal definition", function()
    local def = full()
    assert.same(def, schema.decode(schema.encode(def)))
    for _, other in ipairs(registry:add(FIXTURE)) do
      assert.same(other, schema.decode(schema.encode(other)))
    end
    local own = registry:own({ namespaces = { chalk = { metrics = { count "series" } } } })[1]
    assert.same(own, schema.decode(schema.encode(own)))
  end)

  it("differs from that of any other definition", function()
    local seen = {}
    local function unlike_others(def)
      local text = schema.encode(def)
      assert.is_nil(seen[text])
      seen[text] = true
    end
    unlike_others(assert(schema.new():define("gauge", "a")))
    unlike_others(assert(schema.new():define("count", "a")))
    unlike_others(assert(schema.new():define("gauge", "a", { across = "sum" })))
    unlike_others(assert(schema.new():define("gauge", "a", { namespace = "b" })))
    unlike_others(assert(schema.new():define("gauge", "a", { tags = { "b", "c" } })))
    unlike_others(assert(schema.new():define("gauge", "a", { tags = { "c", "b" } })))
    unlike_others(assert(schema.new():define("gauge", "a", { tags = { { tag = "b", values = { "x", "y" } } } })))
    unlike_others(assert(schema.new():define("gauge", "a", { tags = { { tag = "b", values = { "xy" } } } })))
  end)

  it("is the only text that decodes, among arbitrary bytes", function()
    local text = schema.encode(full())
    for length = 0, #text - 1 do
      local def, message = schema.decode(text:sub(1, length))
      assert.is_nil(def)
      assert.matches("^not a definition: bad ", message)
    end
    assert.is_nil(schema.decode(text .. "0:"))
    assert.is_nil(schema.decode((text:gsub("2:%-1", "2:-0", 1))))
    math.randomseed(1)
    for _ = 1, 20000 do
      local at = math.random(#text)
      local mutated = text:sub(1, at - 1) .. string.char(math.random(0, 255)) .. text:sub(at + math.random(1, 3))
      local def, message = schema.decode(mutated)
      if def then
        assert.equal(mutated, schema.encode(def))
      else
        assert.matches("^not a definition: bad ", message)
      end
    end
  end)
end)

describe("a definition of a C host, which consists of names only", function()
  it("is read from the text that the core writes", function()
    local def = schema.plain "=gauge\0sum\0http.auth.open\0peer\0side"
    assert.same({ "http.auth.open", "gauge", "sum", "open" }, { def.id_name, def.type, def.across, def.name })
    assert.same({ "http", "auth" }, def.namespace)
    assert.same({ "peer", "side" }, { def.tags[1].key, def.tags[2].key })
    assert.same(def, schema.decode(schema.encode(def)))
    assert.same({}, schema.plain("=count\0last\0a").tags)
  end)

  for _, text in ipairs {
    "",
    "=",
    "=count",
    "=count\0last",
    "=count\0last\0",
    "count\0last\0a",
    "=counts\0last\0a",
    "=count\0first\0a",
    "=count\0sum\0a",
    "=count\0last\0a b",
    "=count\0last\0a\0",
    "=count\0last\0a\0le",
    "=count\0last\0a\0b\0b",
    "=count\0last\0a\0__b",
    "=count\0last\0" .. ("a."):rep(40) .. "a",
    "=count\0last\0a" .. ("\0b"):rep(40),
  } do
    it(("is not %q"):format(text:gsub("%z", " "):sub(1, 40)), function()
      local def, message = schema.plain(text)
      assert.is_nil(def)
      assert.matches("^not a definition: bad ", message)
    end)
  end
end)
