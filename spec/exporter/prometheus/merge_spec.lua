--- Merging versions of a metric. If this file fails, a scrape during a reload contains a series twice, and Prometheus
--- refuses it, or the values of old and new workers are not combined.

local merge = require "chalk.exporter.prometheus.merge"

describe("lines of two versions of a metric", function()
  local function merged(def, ...)
    return merge.lines({ ... }, def, function(value) return ("%g"):format(value) end)
  end
  local count = { type = "count" }

  it("are added if they belong to one series, in any order of labels", function()
    local before = 'a_total{x="1",y="2"} 3\na_total{x="2",y="2"} 1\n'
    local after = 'a_total{y="2",x="1"} 4\na_total{y="3",x="1"} 5\n'
    assert.equal(
      'a_total{x="1",y="2"} 7\na_total{x="2",y="2"} 1\na_total{y="3",x="1"} 5\n',
      merged(count, before, after)
    )
  end)

  it("stay apart if only the text of a tag's value makes them look alike", function()
    local before, after = 'a{x="\\",y=\\"2",z="3"} 1\n', 'a{x="\\"",y="2",z="3"} 1\n'
    assert.equal(before .. after, merged(count, before, after))
  end)

  it("may have no labels, and any number as their value", function()
    assert.equal("a 3\n", merged(count, "a 1\n", "a 2\n"))
    assert.equal("a inf\n", merged(count, "a +Inf\n", "a 2\n"))
  end)

  it("of a gauge are combined as its definition says", function()
    for across, value in pairs { sum = 5, min = 2, max = 3, last = 2 } do
      assert.equal(("a %d\n"):format(value), merged({ type = "gauge", across = across }, "a 3\n", "a 2\n"))
    end
  end)

  it("keep the buckets, sum and count of a histogram apart", function()
    local before = 'a_bucket{le="1"} 1\na_bucket{le="+Inf"} 2\na_sum 3\na_count 2\n'
    local twice = 'a_bucket{le="1"} 2\na_bucket{le="+Inf"} 4\na_sum 6\na_count 4\n'
    assert.equal(twice, merged({ type = "histogram" }, before, before))
  end)
end)
