-- The tree of metrics that chalk.load returns. A namespace is a plain table in which reading an unknown name raises an
-- error at the reader's line.

local lists = require "chalk.base.lists"
local suggest = require "chalk.base.suggest"

local M = {}

--- Makes a node.
---@param where string the end of its messages: "" for the root, " in http.auth" for a namespace
function M.new(where)
  return setmetatable({}, {
    __index = function(node, name)
      local hint = type(name) == "string" and suggest(name, lists.names(node))
      error(("no metric or namespace %q%s%s"):format(tostring(name), where, hint and ", " .. hint or ""), 2)
    end,
  })
end

--- Puts a metric into the node of its namespace, and into the root under its flat name.
---@param root table
---@param definition table
---@param metric table
function M.put(root, definition, metric)
  local node, path = root, ""
  for _, name in ipairs(definition.namespace) do
    path = path == "" and name or path .. "." .. name
    local inner = rawget(node, name)
    if not inner then
      inner = M.new(" in " .. path)
      rawset(node, name, inner)
    end
    node = inner
  end
  rawset(node, definition.name, metric)
  rawset(root, definition.flat, metric)
end

return M
