--- The text of the Prometheus exporter. If this file fails, Prometheus's own parsers refuse a scrape in one of the two
--- formats, or read other values than those that were recorded.

package.path = "spec/?.lua;" .. package.path

local json = require "cjson"
local bed_of = require "support.segment_bed"
local prometheus = require "chalk.exporter.prometheus"

local function text_of(lines) return table.concat(lines, "\n") .. "\n" end

-- Runs a program with a text as its standard input. Returns its output, and whether it succeeded.
local function ask(program, text)
  local name = os.tmpname()
  local file = assert(io.open(name, "wb"))
  file:write(text)
  file:close()
  local pipe = assert(io.popen(('%s < %s 2>&1; echo "$?"'):format(program, name)))
  local said = pipe:read "*a"
  pipe:close()
  os.remove(name)
  local output, status = said:match "^(.-)(%d+)\n$"
  return status == "0", output
end

-- Returns the samples that a parser of python3-prometheus-client finds: the value's text by name and sorted labels.
local function parse_back(module, text)
  local program = [[/usr/bin/python3 -c '
import io, json, sys
from prometheus_client.]] .. module .. [[ import text_string_to_metric_families as parse
text = io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8", newline="").read()
print(json.dumps([[s.name, s.labels, repr(float(s.value))] for f in parse(text) for s in f.samples]))']]
  local ok, output = ask(program, text)
  assert(ok, output)
  local found = {}
  for _, sample in ipairs(json.decode(output)) do
    local labels = {}
    for label, value in pairs(sample[2]) do
      labels[#labels + 1] = label .. "=" .. value
    end
    table.sort(labels)
    found[sample[1] .. "{" .. table.concat(labels, ",") .. "}"] = sample[3]
  end
  return found
end

local DOCUMENT = {
  tags = { endpoint = { value_type = "string" }, status = { value_type = "string" } },
  metrics = { { name = "uptime", type = "gauge", unit = "seconds", description = "Since the start." } },
  namespaces = {
    http = {
      metrics = {
        {
          name = "request_count",
          type = "count",
          tags = { { tag = "endpoint" }, { tag = "status", optional = true } },
          description = "Requests answered.",
        },
        {
          name = "latency",
          type = "histogram",
          tags = { { tag = "endpoint" } },
          buckets = { 0.5, 1, 1e6 },
          description = "Seconds to answer.",
        },
      },
    },
  },
}

local COUNT = "http.request_count"

describe("the prometheus exporter", function()
  local bed

  local function open(document)
    bed = bed_of.open(document or DOCUMENT)
    return bed
  end

  local function text(options, format) return prometheus.new(options):text(bed:view(), format) end

  local function metric(definition)
    return { tags = { a = { value_type = "string" }, b = { value_type = "string" } }, metrics = { definition } }
  end

  after_each(function()
    if bed then
      bed:close()
      bed = nil
    end
  end)

  local function fill()
    open()
    bed:set(12.5, "uptime")
    bed:inc(3, COUNT, "/a", "ok")
    bed:inc(9007199254740992, COUNT, "/b", "")
    bed:record(0.5, "http.latency", "/a")
    bed:record(0.75, "http.latency", "/a")
    bed:record(2e6, "http.latency", "/a")
  end

  local LATENCY = table.concat({
    'http_latency_bucket{endpoint="/a",le="0.5"} 1',
    'http_latency_bucket{endpoint="/a",le="1.0"} 2',
    'http_latency_bucket{endpoint="/a",le="1e+06"} 2',
    'http_latency_bucket{endpoint="/a",le="+Inf"} 3',
    'http_latency_sum{endpoint="/a"} 2000001.25',
    'http_latency_count{endpoint="/a"} 3',
  }, "\n")

  it("writes text 0.0.4 as Prometheus reads it", function()
    fill()
    assert.equal(
      text_of {
        "# HELP uptime_seconds Since the start.",
        "# TYPE uptime_seconds gauge",
        "uptime_seconds 12.5",
        "# HELP http_request_count_total Requests answered.",
        "# TYPE http_request_count_total counter",
        'http_request_count_total{endpoint="/a",status="ok"} 3',
        'http_request_count_total{endpoint="/b"} 9007199254740992',
        "# HELP http_latency Seconds to answer.",
        "# TYPE http_latency histogram",
        LATENCY,
      },
      text()
    )
  end)

  it("writes OpenMetrics with the same samples", function()
    fill()
    assert.equal(
      text_of {
        "# TYPE uptime_seconds gauge",
        "# UNIT uptime_seconds seconds",
        "# HELP uptime_seconds Since the start.",
        "uptime_seconds 12.5",
        "# TYPE http_request_count counter",
        "# HELP http_request_count Requests answered.",
        'http_request_count_total{endpoint="/a",status="ok"} 3',
        'http_request_count_total{endpoint="/b"} 9007199254740992',
        "# TYPE http_latency histogram",
        "# HELP http_latency Seconds to answer.",
        LATENCY,
        "# EOF",
      },
      text(nil, "openmetrics")
    )
  end)

  it("leaves out metrics without series, and writes a valid exposition without metrics", function()
    open()
    assert.equal("", text())
    assert.equal("# EOF\n", text(nil, "openmetrics"))
  end)

  it("writes every value so that it reads back", function()
    open(metric { name = "g", type = "gauge", tags = { { tag = "a" } } })
    local values = { nan = 0 / 0, inf = math.huge, minus = -math.huge, tenth = 0.1, tiny = 5e-324, big = 1.7e308 }
    for name, value in pairs(values) do
      bed:set(value, "g", name)
    end
    local found = text()
    assert.truthy(found:find('g{a="nan"} NaN\n', 1, true))
    assert.truthy(found:find('g{a="inf"} +Inf\n', 1, true))
    assert.truthy(found:find('g{a="minus"} -Inf\n', 1, true))
    assert.truthy(found:find('g{a="tenth"} 0.1\n', 1, true))
    for module, format in pairs { parser = "prometheus", ["openmetrics.parser"] = "openmetrics" } do
      local back = parse_back(module, text(nil, format))
      assert.equal("nan", back["g{a=nan}"])
      assert.equal("inf", back["g{a=inf}"])
      assert.equal("-inf", back["g{a=minus}"])
      for _, name in ipairs { "tenth", "tiny", "big" } do
        assert.equal(values[name], tonumber(back["g{a=" .. name .. "}"]))
      end
    end
  end)

  it("writes text that both parsers read alike, whatever bytes tag values and descriptions contain", function()
    local nasty = 'q" b\\ n\n{},= \\n é'
    open(metric { name = "c", type = "count", tags = { { tag = "a" }, { tag = "b" } }, description = nasty })
    bed:inc(7, "c", nasty, 'x"} 1\nforged{y="')
    local options = { global_tags = { env = nasty } }
    local expected = { ["c_total{a=" .. nasty .. ',b=x"} 1\nforged{y=",env=' .. nasty .. "}"] = "7.0" }
    assert.same(expected, parse_back("parser", text(options)))
    assert.same(expected, parse_back("openmetrics.parser", text(options, "openmetrics")))
  end)

  it("escapes a description as each format requires", function()
    open(metric { name = "g", type = "gauge", description = 'a "b" \\ c\nd' })
    bed:set(1, "g")
    assert.truthy(text():find('# HELP g a "b" \\\\ c\\nd\n', 1, true))
    assert.truthy(text(nil, "openmetrics"):find('# HELP g a \\"b\\" \\\\ c\\nd\n', 1, true))
  end)

  it("writes no HELP line for a metric without a description", function()
    open(metric { name = "g", type = "gauge" })
    bed:set(1, "g")
    assert.equal("# TYPE g gauge\ng 1\n", text())
    assert.equal("# TYPE g gauge\ng 1\n# EOF\n", text(nil, "openmetrics"))
  end)

  it("writes text that promtool and both parsers accept, with every type of metric", function()
    fill()
    local ok, said = ask("promtool check metrics", text { namespace = "app", global_tags = { env = "prod" } })
    assert.is_true(ok, said)
    local classic = parse_back("parser", text())
    assert.equal("9007199254740992.0", classic["http_request_count_total{endpoint=/b}"])
    assert.equal("2000001.25", classic["http_latency_sum{endpoint=/a}"])
    assert.same(classic, parse_back("openmetrics.parser", text(nil, "openmetrics")))
  end)

  it("writes global tags on every line, in order, and prefers a metric's own tag of the same name", function()
    fill()
    local found = text { global_tags = { status = "global", env = "prod", ["a.b"] = true, n = 3, none = "" } }
    assert.truthy(found:find('\nuptime_seconds{a_b="true",env="prod",n="3",status="global"} 12.5\n', 1, true))
    assert.truthy(found:find('{a_b="true",env="prod",n="3",endpoint="/a",status="ok"} 3\n', 1, true))
    assert.truthy(found:find('{a_b="true",env="prod",n="3",endpoint="/b"} 9007199254740992\n', 1, true))
    assert.truthy(
      found:find('_bucket{a_b="true",env="prod",n="3",status="global",endpoint="/a",le="0.5"} 1', 1, true)
    )
  end)

  it("puts the namespace before every name, except those of chalk's own metrics", function()
    open(metric { name = "g", type = "gauge" })
    bed:load({ namespaces = { chalk = { metrics = { { name = "series", type = "gauge" } } } } }, true)
    bed:set(1, "g")
    bed:set(2, "chalk.series")
    local found = text { namespace = "app" }
    assert.truthy(found:find("\napp_g 1\n", 1, true))
    assert.truthy(found:find("\nchalk_series 2\n", 1, true))
  end)

  it("shows only the default bounds that the option names, but all bounds that a metric defines", function()
    open {
      metrics = {
        { name = "default", type = "histogram" },
        { name = "own", type = "histogram", buckets = { 2, 3 } },
      },
    }
    bed:record(0.5, "default")
    bed:record(2.5, "own")
    local found = text { buckets = { 1, 10, 99 } }
    assert.truthy(found:find(
      text_of {
        'default_bucket{le="1.0"} 1',
        'default_bucket{le="10.0"} 1',
        'default_bucket{le="+Inf"} 1',
        "default_sum 0.5",
        "default_count 1",
      },
      1,
      true
    ))
    assert.is_nil(found:find('default_bucket{le="0.1"}', 1, true))
    assert.truthy(found:find('own_bucket{le="2.0"} 0\nown_bucket{le="3.0"} 1\n', 1, true))
  end)

  it("leaves out sum and count of a histogram with negative bounds in OpenMetrics", function()
    open(metric { name = "h", type = "histogram", buckets = { -1, 0 } })
    bed:record(-3, "h")
    assert.truthy(text():find("h_sum -3\nh_count 1\n", 1, true))
    assert.equal(
      text_of {
        "# TYPE h histogram",
        'h_bucket{le="-1.0"} 1',
        'h_bucket{le="0.0"} 1',
        'h_bucket{le="+Inf"} 1',
        "# EOF",
      },
      text(nil, "openmetrics")
    )
    parse_back("openmetrics.parser", text(nil, "openmetrics"))
  end)

  describe("with two versions of a metric in use", function()
    local function versions(first, second)
      open(metric(first))
      return function() bed:load(metric(second)) end
    end

    it("exports each series once, under one header, with the sum of its counts", function()
      local reload = versions({ name = "c", type = "count", tags = { { tag = "a" } } }, {
        name = "c",
        type = "count",
        tags = { { tag = "b", optional = true }, { tag = "a" } },
        description = "New.",
      })
      bed:inc(1, "c", "old")
      bed:inc(2, "c", "both")
      reload()
      bed:inc(40, "c", "", "both")
      bed:inc(5, "c", "x", "new")
      assert.equal(
        text_of {
          "# HELP c_total New.",
          "# TYPE c_total counter",
          'c_total{a="old"} 1',
          'c_total{a="both"} 42',
          'c_total{b="x",a="new"} 5',
        },
        text()
      )
    end)

    it("keeps the counts of bounds cumulative by showing only bounds that all versions count", function()
      local reload = versions(
        { name = "h", type = "histogram", buckets = { 1, 2 } },
        { name = "h", type = "histogram", buckets = { 1, 5 } }
      )
      bed:record(0.5, "h")
      bed:record(1.5, "h")
      reload()
      bed:record(4, "h")
      assert.equal(
        text_of {
          "# TYPE h histogram",
          'h_bucket{le="1.0"} 1',
          'h_bucket{le="+Inf"} 3',
          "h_sum 6",
          "h_count 3",
        },
        text()
      )
    end)

    it("combines a gauge as its definition says", function()
      for across, expected in pairs { sum = "5", min = "2", max = "3", last = "3" } do
        local reload = versions(
          { name = "g", type = "gauge", across = across, tags = { { tag = "a" }, { tag = "b" } } },
          { name = "g", type = "gauge", across = across, tags = { { tag = "b" }, { tag = "a" } } }
        )
        bed:set(2, "g", 'x"', "y,a=")
        reload()
        bed:set(3, "g", "y,a=", 'x"')
        assert.truthy(text():find('g{a="x\\"",b="y,a="} ' .. expected .. "\n$"), text())
        bed:close()
      end
      bed = nil
    end)
  end)

  it("shows only the first of two metrics with the same exported name", function()
    open(metric { name = "a_b", type = "count" })
    bed:load { namespaces = { a = { metrics = { { name = "b", type = "count" } } } } }
    bed:load(metric { name = "a_b_total", type = "gauge" })
    bed:inc(1, "a_b")
    bed:inc(2, "a.b")
    bed:set(3, "a_b_total")
    assert.equal("# TYPE a_b_total counter\na_b_total 1\n", text())
  end)

  describe("in chunks", function()
    it("writes whole lines, at most 64 KiB at once, and leaves out nothing", function()
      open()
      for i = 1, 5000 do
        bed:inc(i, COUNT, "/endpoint/" .. i, "ok")
      end
      local exporter, view, chunks = prometheus.new(), bed:view(), {}
      for chunk in exporter:chunks(view, "openmetrics") do
        assert.is_true(#chunk <= 65536)
        assert.equal("\n", chunk:sub(-1))
        chunks[#chunks + 1] = chunk
      end
      assert.is_true(#chunks > 3)
      local found = table.concat(chunks)
      assert.equal(exporter:text(view, "openmetrics"), found)
      for i = 1, 5000 do
        assert.truthy(found:find(('{endpoint="/endpoint/%d",status="ok"} %d\n'):format(i, i), 1, true))
      end
    end)

    it("serves two readers at once from one exporter", function()
      open()
      for i = 1, 3000 do
        bed:inc(i, COUNT, "/endpoint/" .. i, "ok")
      end
      local exporter, view = prometheus.new(), bed:view()
      local first, second, read = exporter:chunks(view), exporter:chunks(view, "openmetrics"), { {}, {} }
      repeat
        local a, b = first(), second()
        read[1][#read[1] + 1], read[2][#read[2] + 1] = a, b
      until not a and not b
      assert.equal(exporter:text(view), table.concat(read[1]))
      assert.equal(exporter:text(view, "openmetrics"), table.concat(read[2]))
    end)

    it("writes even the largest series: 32 tags of 512 escaped bytes, 64 bounds", function()
      local tags, references, values, buckets = {}, {}, {}, {}
      for i = 1, 32 do
        tags["t" .. i] = { value_type = "string" }
        references[i], values[i] = { tag = "t" .. i }, ('"'):rep(512)
      end
      for i = 1, 64 do
        buckets[i] = i
      end
      local definition = { name = "h", type = "histogram", tags = references, buckets = buckets }
      open { tags = tags, metrics = { definition, { name = "after", type = "gauge" } } }
      bed:record(3, "h", unpack(values))
      values[1] = "small"
      bed:record(3, "h", unpack(values))
      bed:set(1, "after")
      local found = text()
      assert.equal(2 * 67 + 3, select(2, found:gsub("\n", "")))
      assert.equal("after 1\n", found:sub(-8))
    end)

    it("writes a description that is larger than a chunk", function()
      open(metric { name = "g", type = "gauge", description = ("\n"):rep(65536) })
      bed:set(1, "g")
      assert.equal("# HELP g " .. ("\\n"):rep(65536) .. "\n# TYPE g gauge\ng 1\n", text())
    end)

    it("goes on if series are dropped between two chunks", function()
      open()
      for i = 1, 3000 do
        bed:inc(i, COUNT, "/endpoint/" .. i, "ok")
      end
      bed:set(1, "uptime")
      local pull = prometheus.new():chunks(bed:view(), "openmetrics")
      local first = pull()
      bed:drop(COUNT)
      local rest = {}
      for chunk in pull do
        rest[#rest + 1] = chunk
      end
      local found = first .. table.concat(rest)
      assert.equal("# EOF\n", found:sub(-6))
      parse_back("openmetrics.parser", found)
    end)
  end)

  it("shows a changed description and changed bounds in the next scrape", function()
    open(metric { name = "g", type = "gauge", description = "Old." })
    local exporter = prometheus.new()
    bed:set(1, "g")
    assert.truthy(exporter:text(bed:view()):find("Old.", 1, true))
    bed:load(metric { name = "g", type = "gauge", description = "New." })
    assert.equal("# HELP g New.\n# TYPE g gauge\ng 1\n", exporter:text(bed:view()))
    local histogram = metric { name = "h", type = "histogram" }
    bed:load(histogram)
    bed:record(3, "h")
    assert.truthy(exporter:text(bed:view()):find('h_bucket{le="1.0"} 0\nh_bucket{le="10.0"} 1\n', 1, true))
    bed:drop "h"
    bed.les = { 2, 4, 8 }
    bed:load(histogram)
    bed:record(3, "h")
    assert.truthy(exporter:text(bed:view()):find('h_bucket{le="2.0"} 0\nh_bucket{le="4.0"} 1\n', 1, true))
  end)

  describe("given options", function()
    it("accepts valid ones", function()
      assert.same({ path = "/metrics" }, prometheus.resolve {})
      local right = { namespace = "my:app_1", path = "/", buckets = { -1, 0.5 }, name = "main" }
      right.global_tags = { env = "prod", shard = 1, canary = false }
      for _, listen in ipairs { "127.0.0.1:9464", "[::1]:0", "localhost:65535", "unix:///run/m.sock" } do
        right.listen = listen
        assert.same(right, prometheus.resolve(right))
      end
    end)

    local function refuses(options, ...)
      local resolved, message = prometheus.resolve(options)
      assert.is_nil(resolved)
      for _, part in ipairs { ... } do
        assert.truthy(message and message:find(part, 1, true), tostring(message))
      end
      assert.has_error(function() prometheus.new(options) end)
    end

    it("names each wrong option and what is allowed", function()
      refuses({ lisen = "x" }, 'unknown field "lisen"', 'did you mean "listen"?')
      refuses({ namespace = "9a" }, "namespace", "not starting with a digit")
      refuses({ namespace = 3 }, "namespace: expected a string")
      refuses({ path = "metrics" }, "path", 'starts with "/"')
      for _, listen in ipairs { "9464", ":9464", "localhost", "localhost:65536", "a b:1", "::1:9464", "unix://" } do
        refuses({ listen = listen }, "listen", '"host:port"')
      end
    end)

    it("refuses bounds that do not increase and global tags that cannot be labels", function()
      refuses({ buckets = {} }, "buckets: expected 1 to 64 bounds")
      refuses({ buckets = { 1, 1 } }, "buckets[2]", "increase")
      refuses({ buckets = { 1, math.huge } }, "buckets[2]", "finite")
      refuses({ buckets = { "1" } }, "buckets[1]: expected a number")
      refuses({ global_tags = { le = "x" } }, "global_tags.le", "reserved")
      refuses({ global_tags = { env = {} } }, "global_tags.env: expected a string, a number or a boolean")
      refuses({ global_tags = { env = "\255" } }, "global_tags.env", "UTF-8")
      refuses({ global_tags = { ["a.b"] = 1, ["a-b"] = 1 } }, "a_b")
    end)
  end)

  it("has nothing to do on a flush", function()
    local exporter = prometheus.new()
    assert.is_false(exporter.deltas)
    assert.is_true(exporter:export())
    assert.equal("/metrics", exporter.path)
  end)
end)
