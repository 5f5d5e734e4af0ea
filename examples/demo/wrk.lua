-- Prints the result of a wrk run as one line of JSON, for `wrk -s`. wrk has latencies and durations in microseconds.

-- luacheck: globals done
function done(summary, latency)
  local errors = summary.errors
  io.write(
    ('{"requests":%d,"failed":%d,"errors":%d,"seconds":%.6f,"p50":%.6f}\n'):format(
      summary.requests,
      errors.status,
      errors.connect + errors.read + errors.write + errors.timeout,
      summary.duration / 1e6,
      latency:percentile(50) / 1e6
    )
  )
end
