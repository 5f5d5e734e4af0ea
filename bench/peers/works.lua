-- The works in the order of the report. `reference` is the way of chalk that ratios compare with. `goal` is how many
-- times as much as chalk a peer should take.

local RECORD, TEXT = 3, 2

return {
  { id = "empty", title = "the loop alone, with its reads", unit = "ns", no_ratio = true },
  { id = "count_kept", title = "count, kept series", unit = "ns", reference = "series", goal = RECORD },
  { id = "gauge_kept", title = "gauge, kept series", unit = "ns", reference = "series", goal = RECORD },
  {
    id = "count_80",
    title = "count, looked up among 80",
    unit = "ns",
    reference = "metric:with(...)",
    goal = RECORD,
  },
  { id = "histogram_kept", title = "histogram, kept series", unit = "ns", reference = "series", goal = RECORD },
  {
    id = "histogram_80",
    title = "histogram, looked up among 80",
    unit = "ns",
    reference = "metric:with(...)",
    goal = RECORD,
  },
  {
    id = "threads_count_80",
    title = "count, two at once on the same 80",
    unit = "ns",
    reference = "two processes",
    goal = RECORD,
  },
  {
    id = "threads_histogram_80",
    title = "histogram, two at once on the same 80",
    unit = "ns",
    reference = "two processes",
    goal = RECORD,
  },
  {
    id = "new_count",
    title = "first record of a new series, 10,000 of them",
    unit = "ns",
    reference = "metric:with(...)",
    goal = RECORD,
  },
  { id = "text_1000", title = "text of 1,000 mixed series", unit = "ms", reference = "text()", goal = TEXT },
  { id = "text_100000", title = "text of 100,000 mixed series", unit = "ms", reference = "text()", goal = TEXT },
  {
    id = "memory_count",
    title = "memory of a count, of 100,000",
    unit = "bytes",
    reference = "resident, with the VM's part",
  },
  {
    id = "memory_histogram_1",
    title = "memory of a histogram with one value",
    unit = "bytes",
    reference = "resident, with the VM's part",
  },
  {
    id = "memory_histogram_1000",
    title = "memory of a histogram with 1,000 values",
    unit = "bytes",
    reference = "resident, with the VM's part",
  },
  -- Accuracy is measured once, because it is the same on every machine. chalk is measured first, and its bytes are the
  -- limit for the others.
  { id = "accuracy_lognormal", title = "worst quantile, lognormal, sigma 0.5", unit = "%", accuracy = true },
  { id = "accuracy_exponential", title = "worst quantile, exponential", unit = "%", accuracy = true },
  { id = "accuracy_bimodal", title = "worst quantile, bimodal, 1 ms and 10 s", unit = "%", accuracy = true },
}
