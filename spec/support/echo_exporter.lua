--- A custom exporter for tests that writes some of its options to a file.

local M = {}

function M.new(options)
  local exporter = {}
  function exporter.export()
    local file = assert(io.open(options.path, "wb"))
    file:write("env=", options.global_tags.env, " list[2].deep=", options.list[2].deep)
    file:close()
    return true
  end
  return exporter
end

return M
