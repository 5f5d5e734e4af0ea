--- A user who mistypes a definition is told each error, its location and what would be right, and a document with an
--- error is not loaded in part.

local cjson = require "cjson"
local json = require "chalk.base.json"
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

-- The only error about a metric, in a document that also defines a string tag "t" and an enum tag "e".
local function metric_error(metric)
  metric.name = metric.name or "m"
  metric.type = metric.type or "count"
  local tags = { t = { value_type = "string" }, e = { value_type = "enum", values = { "a" } } }
  return only_error { tags = tags, metrics = { metric } }
end

local function tag_error(tag, name) return only_error { tags = { [name or "t"] = tag } } end

local function write_file(text)
  local path = os.tmpname()
  local file = assert(io.open(path, "wb"))
  file:write(text)
  file:close()
  finally(function() os.remove(path) end)
  return path
end

local function file_error(text)
  local path = write_file(text)
  local errors = errors_of(path)
  assert.equal(1, #errors, table.concat(errors, "\n"))
  assert.equal(path, errors[1]:sub(1, #path))
  return errors[1]:sub(#path + 1)
end

local function count(name) return { name = name, type = "count" } end

before_each(function() registry = schema.new() end)

describe("a file that is not a JSON document", function()
  it("is an error with line and column", function()
    assert.equal(":3:8: expected value but found an invalid token", file_error '{\n  "tags": {},\n  "a": tru\n}')
    assert.equal(":1:6: expected value but found an invalid token", file_error '["é",x]')
    assert.equal(":2:1: expected comma or object end but found the end of the text", file_error '{"tags": {}\n')
    assert.equal(":1:1: expected value but found the end of the text", file_error "")
    assert.matches("^:1:%d+: ", file_error(("["):rep(5000)))
  end)

  it("is refused where cjson would accept it", function()
    assert.equal(":1:15: not valid UTF-8", file_error '{"tags": {}, "\255": 1}')
    assert.equal(":1:3: NUL byte: JSON is UTF-8 text", file_error "{}\0 and more")
    assert.equal(":1:1: NUL byte: JSON is UTF-8 text", file_error "\0{\0}")
    assert.matches("invalid token", file_error '{"metrics": [{"max_series": nan}]}')
  end)

  it("includes an object that has a key twice, of which cjson would take the last", function()
    assert.equal(':3:3: the object has the key "metrics" twice', file_error '{\n"metrics": [],\n  "metrics": []}')
    assert.equal(':1:13: the object has the key "\\u0061" twice', file_error '{"a": "a:", "\\u0061": {"a": 1}}')
    assert.equal(
      ':1:55: the object has the key "name" twice',
      file_error [[{"x": ["\\", "]\"name\": {"], "metrics": [{"name": 1, "name": 2}]}]]
    )
  end)

  it("does not include several objects that have one key, or a string with the text of a key", function()
    local path = write_file '{"tags": {"tags": {"values": ["tags", "tags:", "values"]}}, "metrics": [{}, {}]}'
    for _, message in ipairs(errors_of(path)) do
      assert.is_nil(message:find("twice", 1, true), message)
    end
  end)

  it("is an error when the document is not an object", function()
    assert.equal(": expected an object, got an array", file_error "[1]")
    assert.equal(": expected an object, got null", file_error "null")
    assert.equal(": expected an object, got a boolean", file_error "false")
    assert.equal(": expected an object, got a number", file_error "1")
  end)

  it("may be missing, a directory or endless", function()
    assert.same({ "/nonexistent: cannot be read: No such file or directory" }, errors_of "/nonexistent")
    assert.same({ "/tmp: cannot be read: Is a directory" }, errors_of "/tmp")
    assert.same({ "/dev/zero: cannot be read: larger than 16 MiB" }, errors_of "/dev/zero")
  end)
end)

describe("errors in a document", function()
  it("have the path, and suggest the name that was probably meant", function()
    local document = json.decode(io.open(FIXTURE):read "*a")
    document.namespaces.http.metrics[2].tags[1].tag = "endpont"
    local path = write_file(cjson.encode(document))
    assert.same({
      path .. ': namespaces.http.metrics[2].tags[1]: unknown tag "endpont", did you mean "endpoint"?',
    }, errors_of(path))
  end)

  it("are reported all at once, and nothing is loaded", function()
    local errors = errors_of {
      tags = { right = { value_type = "string" }, wrong = { value_type = "strng" } },
      metrics = { count "good", count "bad name", { name = "x", type = "meter" } },
      namespaces = { ["a-b"] = { metrics = { count "y", {} } } },
      colour = 1,
    }
    local bad = ": expected letters, digits and _, not starting with a digit"
    assert.same({
      'definitions: unknown field "colour", expected tags, metrics or namespaces',
      'definitions: tags.wrong.value_type: unknown value_type "strng", did you mean "string"?',
      'definitions: metrics[2].name: bad metric name "bad name"' .. bad,
      'definitions: metrics[3].type: unknown type "meter", expected count, gauge or histogram',
      'definitions: namespaces["a-b"]: bad namespace name "a-b"' .. bad,
      'definitions: namespaces["a-b"].metrics[2]: missing field "name", expected a string',
      'definitions: namespaces["a-b"].metrics[2]: missing field "type", expected a string',
    }, errors)
    -- If anything of the document had stayed, these definitions would differ from it.
    assert.is_table(registry:add { tags = { right = { value_type = "enum", values = { "a" } } } })
    assert.is_table(registry:add { metrics = { { name = "good", type = "gauge" } } })
  end)

  it("name unknown fields everywhere", function()
    assert.equal('metrics[1]: unknown field "tgas", did you mean "tags"?', metric_error { tgas = {} })
    assert.equal(
      'tags.t: unknown field "value", did you mean "values"?',
      tag_error { value_type = "string", value = {} }
    )
    assert.equal(
      'metrics[1].tags[1]: unknown field "name", expected tag, export_name or optional',
      metric_error { tags = { { tag = "t", name = "x" } } }
    )
    assert.equal(
      'namespaces.a: unknown field "tags", expected metrics or namespaces',
      only_error { namespaces = { a = { tags = {} } } }
    )
  end)

  it("say which type a field should have", function()
    assert.equal("metrics: expected an array, got an object", only_error { metrics = { a = 1 } })
    assert.equal("namespaces: expected an object, got an array", only_error { namespaces = { {} } })
    assert.equal("tags: expected an object, got a string", only_error { tags = "status" })
    assert.equal("tags.t: expected an object, got a string", tag_error "string")
    assert.equal("metrics[1]: expected an object, got null", only_error { metrics = { cjson.null } })
    assert.equal("metrics[1].unit: expected a string, got a number", metric_error { unit = 1 })
    assert.equal("metrics[1].description: expected a string, got a boolean", metric_error { description = true })
    assert.equal("metrics[1].max_series: expected a number, got a string", metric_error { max_series = "1" })
    assert.equal(
      "metrics[1].buckets: expected an array, got a number",
      metric_error { type = "histogram", buckets = 1 }
    )
    assert.equal("metrics[1].tags[1]: expected an object, got a string", metric_error { tags = { "t" } })
    assert.equal(
      "metrics[1].tags[1].optional: expected true or false, got a number",
      metric_error { tags = { { tag = "t", optional = 1 } } }
    )
  end)

  it("cover values that only a Lua table can have", function()
    assert.equal(
      "metrics: expected an array, got an array with holes",
      only_error { metrics = { [1] = count "a", [3] = {} } }
    )
    assert.equal(
      "metrics: expected an array, got a table with both names and indexes",
      only_error { metrics = { {}, a = 1 } }
    )
    assert.matches("neither names nor indexes", only_error { [true] = 1 })
    assert.equal("metrics[1].unit: expected a string, got a function", metric_error { unit = print })
    assert.equal("expected an object, got a number", only_error(5))
    assert.equal("expected an object, got nothing", only_error(nil))
    local trap = setmetatable({}, { __index = error, __pairs = error, __len = error })
    assert.same({}, (registry:add(trap)))
  end)

  it("cover tables that contain or share themselves, in finite time", function()
    local cyclic = { metrics = {} }
    cyclic.namespaces = { a = cyclic, b = cyclic }
    assert.same({
      "definitions: namespaces.a: the table contains itself",
      "definitions: namespaces.b: the table contains itself",
    }, errors_of(cyclic))

    local shared = {}
    for _ = 1, 32 do
      shared = { namespaces = { a = shared, b = shared } }
    end
    assert.matches("more than 20000 namespaces and metrics", table.concat(errors_of(shared), "\n"))

    local deep = {}
    for _ = 1, 33 do
      deep = { namespaces = { a = deep } }
    end
    assert.matches("namespaces are nested more than 32 levels deep", only_error(deep))
  end)

  it("stay one line each, whatever bytes the names contain", function()
    local message = only_error { ['a\n\0"\255' .. ("x"):rep(100)] = 1 }
    assert.is_nil(message:find "[%c\255]")
    assert.is_true(#message < 200)
  end)
end)

describe("a tag definition", function()
  it("needs a known value_type", function()
    assert.equal('tags.t: missing field "value_type", expected a string', tag_error {})
    assert.equal(
      'tags.t.value_type: unknown value_type "int", expected enum or string',
      tag_error { value_type = "int" }
    )
  end)

  it("needs values when it is an enum, and only then", function()
    assert.equal(
      'tags.t: missing field "values", expected an array of the strings that the enum allows',
      tag_error { value_type = "enum" }
    )
    assert.equal("tags.t.values: an enum needs at least one value", tag_error { value_type = "enum", values = {} })
    assert.equal(
      'tags.t.values[2]: value "a" is listed twice',
      tag_error { value_type = "enum", values = { "a", "a" } }
    )
    assert.equal(
      "tags.t.values[1]: expected a string, got a number",
      tag_error { value_type = "enum", values = { 1 } }
    )
    assert.equal("tags.t.values: expected an array, got a string", tag_error { value_type = "enum", values = "a" })
    assert.equal(
      'tags.t.values: only an enum has values: leave the field out, or set value_type to "enum"',
      tag_error { value_type = "string", values = { "a" } }
    )
  end)

  it("has no values that could not be exported or would look like an absent tag", function()
    assert.matches("^tags.t.values%[1%]: the empty value", tag_error { value_type = "enum", values = { "" } })
    assert.equal(
      "tags.t.values[1]: not valid UTF-8 at byte 1",
      tag_error { value_type = "enum", values = { "\255" } }
    )
  end)

  it("has a good name and export name", function()
    assert.matches("bad tag name", tag_error({ value_type = "string" }, "a-b"))
    assert.matches("longer than 128 bytes", tag_error({ value_type = "string" }, ("a"):rep(129)))
    assert.matches(
      '^tags.t.export_name: bad export name "a b": expected letters, digits, _ %- . and /, not starting with a digit',
      tag_error { value_type = "string", export_name = "a b" }
    )
    assert.matches(
      '^tags.t.export_name: bad export name "1st"',
      tag_error { value_type = "string", export_name = "1st" }
    )
    for _, name in ipairs { "le", "quantile", "__name__" } do
      local message = ('label name "%s" is reserved by Prometheus: choose another export_name'):format(name)
      assert.equal("tags." .. name .. ": " .. message, tag_error({ value_type = "string" }, name))
      assert.equal("tags.t.export_name: " .. message, tag_error { value_type = "string", export_name = name })
    end
    assert.is_table(registry:add { tags = { le = { value_type = "string", export_name = "bound" } } })
  end)

  it("means the same in every document, and can be used by later documents", function()
    assert(registry:add { tags = { status = { value_type = "enum", values = { "a", "b" } } } })
    assert(registry:add { tags = { status = { value_type = "enum", values = { "a", "b" } } } })
    assert(registry:add { metrics = { { name = "m", type = "count", tags = { { tag = "status" } } } } })
    assert.equal(
      'tags.status: tag "status" is already defined differently: field "values" was {a, b}, here it is {a}',
      tag_error({ value_type = "enum", values = { "a" } }, "status")
    )
  end)

  it("that has an error is not called unknown in the metrics that use it", function()
    local metric = { name = "m", type = "count", tags = { { tag = "t" } } }
    assert.matches("^tags.t: missing", only_error { tags = { t = { value_type = "enum" } }, metrics = { metric } })
  end)
end)

describe("a metric", function()
  it("has a good name, a known type, and sound text", function()
    assert.matches("bad metric name", metric_error { name = "a.b" })
    assert.matches("bad metric name", metric_error { name = "" })
    assert.matches("longer than 128 bytes", metric_error { name = ("a"):rep(129) })
    assert.equal(
      'metrics[1].type: unknown type "counter", did you mean "count"?',
      metric_error { type = "counter" }
    )
    assert.equal(
      "metrics[1].description: 65537 bytes, at most 65536 are allowed",
      metric_error { description = (" "):rep(65537) }
    )
    assert.equal("metrics[1].description: not valid UTF-8 at byte 4", metric_error { description = "caf\233" })
    assert.matches('^metrics%[1%].unit: bad unit "m/s"', metric_error { unit = "m/s" })
    assert.matches("^metrics%[1%].unit: bad unit", metric_error { unit = "" })
  end)

  it("uses each label name once", function()
    assert.equal(
      'metrics[1].tags[2]: tag "t" is listed twice under the name "t": give one of them another export_name',
      metric_error { tags = { { tag = "t" }, { tag = "t", optional = true } } }
    )
    assert.equal(
      'metrics[1].tags[3]: tag "t" is listed twice under the name "u": give one of them another export_name',
      metric_error { tags = { { tag = "t", export_name = "u" }, { tag = "t" }, { tag = "t", export_name = "u" } } }
    )
    assert.equal(
      'metrics[1].tags[2]: tag "e" is exported as "t", like tag "t": give one of them another export_name',
      metric_error { tags = { { tag = "t" }, { tag = "e", export_name = "t" } } }
    )
    local words = 'tag "e" is exported to Prometheus as "a_b", like tag "t": give one of them another export_name'
    assert.equal(
      "metrics[1].tags[2]: " .. words,
      metric_error { tags = { { tag = "t", export_name = "a/b" }, { tag = "e", export_name = "a.b" } } }
    )
    assert.equal(
      'metrics[1].tags[1].export_name: label name "__a" is reserved by Prometheus: choose another export_name',
      metric_error { tags = { { tag = "t", export_name = "_.a" } } }
    )
    assert.equal(
      'metrics[1].tags[1].export_name: label name "le" is reserved by Prometheus: choose another export_name',
      metric_error { tags = { { tag = "t", export_name = "le" } } }
    )
    assert.equal('metrics[1].tags[1]: missing field "tag", expected a string', metric_error { tags = { {} } })
    local many = {}
    for i = 1, 33 do
      many[i] = { tag = "t" }
    end
    assert.equal("metrics[1].tags: 33 tags, at most 32 are allowed", metric_error { tags = many })
  end)

  it("has buckets that are finite and increasing, on a histogram", function()
    local function bucket_error(buckets) return metric_error { type = "histogram", buckets = buckets } end
    assert.equal("metrics[1].buckets[2]: 1 is not greater than the bound before it, 1", bucket_error { 1, 1 })
    assert.equal("metrics[1].buckets[2]: 0.5 is not greater than the bound before it, 1", bucket_error { 1, 0.5 })
    assert.equal("metrics[1].buckets[1]: expected a finite number, got inf", bucket_error { math.huge })
    assert.equal("metrics[1].buckets[1]: expected a finite number, got NaN", bucket_error { 0 / 0 })
    assert.equal("metrics[1].buckets[1]: expected a number, got a string", bucket_error { "1" })
    assert.matches("^metrics%[1%].buckets: no bounds", bucket_error {})
    assert.equal("metrics[1].buckets: only a histogram has buckets, not a count", metric_error { buckets = { 1 } })
    local many = {}
    for i = 1, 65 do
      many[i] = i
    end
    assert.equal("metrics[1].buckets: 65 bounds, at most 64 are allowed", bucket_error(many))
  end)

  it("has a whole max_series, and across on a gauge only", function()
    for _, limit in ipairs { 0, -1, 1.5, math.huge, 0 / 0 } do
      assert.matches(
        "^metrics%[1%].max_series: expected a whole number from 1",
        metric_error { max_series = limit }
      )
    end
    assert.equal(
      'metrics[1].across: unknown across "summ", did you mean "sum"?',
      metric_error { type = "gauge", across = "summ" }
    )
    assert.equal("metrics[1].across: only a gauge has across, not a count", metric_error { across = "sum" })
  end)
end)
