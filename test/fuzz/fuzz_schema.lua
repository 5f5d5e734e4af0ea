-- The input is read as a metrics.json: it is refused with messages, or gives definitions that are the same after
-- encoding and decoding. The same bytes are read as an encoded definition: they are refused, or are equal to the
-- encoding of the definition that they give.

local schema = require "chalk.define.schema"

local function check_messages(messages)
  assert(#messages > 0, "refused without a message")
  for _, message in ipairs(messages) do
    assert(type(message) == "string" and not message:find "%c", "a message that is not a line of text")
  end
end

local function check_definition(def)
  local bytes = schema.encode(def)
  local again = assert(schema.decode(bytes))
  assert(schema.encode(again) == bytes, "the encoding changed")
  assert(again.id_name == def.id_name and again.flat == def.flat and #again.tags == #def.tags)
end

-- The content of every file that this VM opens, and what of it is not read yet.
local content, unread

local file = {}

function file.read()
  local text = unread
  unread = nil
  return text
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
  local again = assert(registry:add "metrics.json", "the same document was refused")
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
