-- Prints the nanoseconds of the record paths, each on a line.
--
--     luajit bench/stream/idle.lua with|without     with or without a stream exporter that has no client

package.path = "bench/?.lua;" .. package.path

local harness = require "harness"
local record = require "record"

local client, metrics
if arg[1] == "with" then
  client, metrics = require("stream").start()
else
  client, metrics = record.client()
end
local loops = record.loops(client, metrics)
for _, name in ipairs { "count", "gauge", "histogram" } do
  print(harness.time(loops[name], 0.05))
end
client:shutdown()
