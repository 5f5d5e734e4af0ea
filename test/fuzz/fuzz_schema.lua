-- Any bytes as a metrics.json: they are refused with messages, or give definitions that survive their encoding. The
-- same bytes as the encoding of a definition: they are refused, or are what encoding it gives.

local schema = require "chalk.define.schema"

local function check_messages(messages)
  assert(#messages > 0, "refused without a message")
  for _, message in ipairs(messages) do
    assert(type(message) == "string" and not message:find "%c", "a message that is no line of text")
  end
end

local function check_definition(def)
  local bytes = schema.encode(def)
  local again = assert(schema.decode(bytes))
  assert(schema.encode(again) == bytes, "an encoding that changes")
  assert(again.id_name == def.id_name and again.flat == def.flat and #again.tags == #def.tags)
end

-- The one file of this VM.
local content, unread

local file = {}

function file.read()
  local piece = unread
  unread = nil
  return piece
end

function file.close() end

io.open = function() -- luacheck: ignore 122
  unread = content
  return file
end

local function check_document()
  local registry = schema.new()
  local definitions, tags = registry:add "metrics.json"
  if not definitions then return check_messages(tags) end
  for _, def in ipairs(definitions) do
    check_definition(def)
  end
  local again = assert(registry:add "metrics.json", "not the same as itself")
  assert(#again == #definitions)
  for i, def in ipairs(again) do
    assert(def == definitions[i], "defined twice")
  end
end

return function(bytes)
  content = bytes
  check_document()
  local def = schema.decode(bytes)
  if def then assert(schema.encode(def) == bytes) end
end
