--- Sweeps drop idle series and free their memory, whatever the exporters are doing. If this file fails, memory grows
--- until the segment is full.

package.path = "spec/?.lua;" .. package.path

local chalk = require "chalk"
local files = require "support.files"
local wait = require "support.wait"

describe("a sweep", function()
  local client

  after_each(function()
    client:shutdown()
    files.clean()
  end)

  it("runs even if every export yields", function()
    client = chalk.new {
      flush_interval = 0.05,
      idle_timeout = 0.1,
      exporters = { chalk.exporter.custom("support.file_exporter", { path = files.name(), yields = 10 }) },
    }
    local jobs = client:count("jobs", { tags = { { tag = "a" } } })
    jobs:with("idle"):inc()
    wait.till(function() return client:info().series == 0 end, 20, "an idle series to leave")
    jobs:with("removed"):inc()
    jobs:remove { a = "removed" }
    wait.till(function() return client:info().quarantined == 0 end, 20, "dropped series to be reusable")
  end)
end)
