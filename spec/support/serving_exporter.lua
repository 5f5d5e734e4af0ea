--- A custom exporter for tests that answers HTTP requests with their path. Option `fails_while`: as long as a file of
--- this name exists, `handler` raises.

local Exporter = {}
Exporter.__index = Exporter

function Exporter.new(options) return setmetatable({ deltas = false, options = options }, Exporter) end

function Exporter:export() return true end

function Exporter:handler()
  local file = self.options.fails_while and io.open(self.options.fails_while)
  if file then
    file:close()
    error("no handler yet", 0)
  end
  return function(request) return { body = "you asked for " .. request.path } end
end

return Exporter
