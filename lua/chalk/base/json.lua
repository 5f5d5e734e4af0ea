--- Decodes the JSON documents that people write, with lua-cjson, and gives the line and column of an error.
--
-- cjson accepts text that other JSON parsers refuse or read differently: NaN, hexadecimal numbers, bytes that are not
-- UTF-8, text after a NUL byte, and an object that has a key twice. All of these are errors here, so a document that
-- chalk accepts means the same to other programs.

local cjson = require("cjson").new()
cjson.decode_invalid_numbers(false)

local M = {}

--- What a JSON null decodes to.
M.null = cjson.null

local TOKENS = {
  T_OBJ_BEGIN = '"{"',
  T_OBJ_END = '"}"',
  T_ARR_BEGIN = '"["',
  T_ARR_END = '"]"',
  T_STRING = "a string",
  T_NUMBER = "a number",
  T_BOOLEAN = "true or false",
  T_NULL = "null",
  T_COLON = '":"',
  T_COMMA = '","',
  T_END = "the end of the text",
}

-- The well-formed UTF-8 sequences of two to four bytes (Unicode 15, table 3-7).
local SEQUENCES = {
  "^[\194-\223][\128-\191]()",
  "^\224[\160-\191][\128-\191]()",
  "^[\225-\236\238\239][\128-\191][\128-\191]()",
  "^\237[\128-\159][\128-\191]()",
  "^\240[\144-\191][\128-\191][\128-\191]()",
  "^[\241-\243][\128-\191][\128-\191][\128-\191]()",
  "^\244[\128-\143][\128-\191][\128-\191]()",
}

local function after_sequence(text, at)
  for _, pattern in ipairs(SEQUENCES) do
    local after = text:match(pattern, at)
    if after then return after end
  end
end

--- Finds the first byte of a text that is not part of well-formed UTF-8.
---@param text string
---@return integer? position nil when the whole text is UTF-8
function M.invalid_utf8(text)
  local at = text:find "[\128-\255]"
  while at do
    local after = after_sequence(text, at)
    if not after then return at end
    at = text:find("[\128-\255]", after)
  end
end

-- A column counts characters, as editors do, so continuation bytes are not counted.
local function line_and_column(text, position)
  local before = text:sub(1, position - 1)
  local _, newlines = before:gsub("\n", "")
  local last = before:match "[^\n]*$"
  local _, continuations = last:gsub("[\128-\191]", "")
  return newlines + 1, #last - continuations + 1
end

local function failed(text, position, message) return nil, message, line_and_column(text, position) end

local function readable(message)
  message = message:gsub("T_[A-Z_]+", TOKENS):gsub("found invalid", "found an invalid")
  return message:sub(1, 1):lower() .. message:sub(2)
end

-- The position after the string literal that begins at `at`. The text is valid JSON, so the literal ends.
local function after_string(text, at)
  repeat
    at = text:find('["\\]', at + 1)
    local escape = text:byte(at) == 92
    if escape then at = at + 1 end
  until not escape
  return at + 1
end

-- Finds the first key that its object already has. Returns the key as written, quotes included, and its position. The
-- text is valid JSON, so every string before a colon is a key.
local function repeated_key(text)
  local outer, keys = {}, {}
  local at = text:find '["{}]'
  while at do
    local byte, after = text:byte(at), at + 1
    if byte == 34 then
      after = after_string(text, at)
      if text:find("^%s*:", after) then
        local written = text:sub(at, after - 1)
        local key = cjson.decode("[" .. written .. "]")[1]
        if keys[key] then return written, at end
        keys[key] = true
      end
    elseif byte == 123 then
      outer[#outer + 1], keys = keys, {}
    else
      keys = table.remove(outer)
    end
    at = text:find('["{}]', after)
  end
end

--- Decodes a JSON text.
---@param text string a leading byte order mark is skipped
---@return any value nil when the text is not JSON
---@return string? message
---@return integer? line counts from 1
---@return integer? column counts characters from 1
function M.decode(text)
  text = text:gsub("^\239\187\191", "")
  local bad = text:find("\0", 1, true)
  if bad then return failed(text, bad, "NUL byte: JSON is UTF-8 text") end
  bad = M.invalid_utf8(text)
  if bad then return failed(text, bad, "not valid UTF-8") end
  local ok, value = pcall(cjson.decode, text)
  if ok then
    local key, at = repeated_key(text)
    if key then return failed(text, at, ("the object has the key %s twice"):format(key)) end
    return value
  end
  local message, position = tostring(value):match "^(.-) at character (%d+)$"
  return failed(text, tonumber(position) or 1, readable(message or tostring(value)))
end

return M
