-- The tree of metrics that chalk.load returns: namespaces are plain tables that know what they do not have.

local lists = require "chalk.base.lists"
local suggest = require "chalk.base.suggest"

local M = {}

---@param path string what the node is called in messages
function M.new(path)
  return setmetatable({}, {
    __index = function(node, name)
      local hint = type(name) == "string" and suggest(name, lists.names(node))
      error(("no metric or namespace %q%s%s"):format(tostring(name), path, hint and ", " .. hint or ""), 2)
    end,
  })
end

--- Puts a metric where its namespace says, and under its flat name at the root.
---@param root table
---@param definition table
---@param metric table
function M.put(root, definition, metric)
  local node, path = root, ""
  for _, segment in ipairs(definition.namespace) do
    path = path == "" and segment or path .. "." .. segment
    local next = rawget(node, segment)
    if not next then
      next = M.new(" in " .. path)
      rawset(node, segment, next)
    end
    node = next
  end
  rawset(node, definition.name, metric)
  rawset(root, definition.flat, metric)
end

return M
