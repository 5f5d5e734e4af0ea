--- Escapes text for YAML and PromQL.
--
-- Quoted strings of both languages know the escapes used here. All characters that YAML treats as line breaks or does
-- not allow in a file are escaped, so a quoted PromQL string may also stand in a YAML block scalar.

local M = {}

local NAMED = { ["\\"] = "\\\\", ['"'] = '\\"', ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t" }

local function control(c) return NAMED[c] or ("\\x%02x"):format(c:byte()) end

--- Returns a text as a quoted string of YAML or PromQL.
---@param text string UTF-8
---@return string
function M.quoted(text)
  text = text:gsub('[%c\\"\127]', control)
  text = text:gsub("\194([\128-\159])", function(c) return ("\\u%04x"):format(c:byte()) end)
  text = text:gsub("\226\128([\168\169])", function(c) return ("\\u%04x"):format(0x2028 + c:byte() - 168) end)
  text = text:gsub("\239\191([\190\191])", function(c) return ("\\u%04x"):format(0xfffe + c:byte() - 190) end)
  return '"' .. text:gsub("\239\187\191", "\\ufeff") .. '"'
end

local function literal(text) return (text:gsub("[%.%+%*%?%(%)|%[%]{}^$\\]", "\\%0")) end

--- Returns the PromQL matcher for a label whose value is one of these texts.
---@param label string
---@param texts string[]
---@return string
function M.matcher(label, texts)
  if #texts == 1 then return label .. "=" .. M.quoted(texts[1]) end
  local out = {}
  for i, text in ipairs(texts) do
    out[i] = literal(text)
  end
  return label .. "=~" .. M.quoted(table.concat(out, "|"))
end

--- Escapes a text for a place in which Prometheus expands templates.
---@param text string
---@return string
function M.template(text) return (text:gsub("{{", '{{ "{{" }}')) end

return M
