--- Modules of exporters that are none, by name: `install` makes them known to require.

local M = {}

local sources = {
  not_a_table = "return 7",
  without_new = "return {}",
  raises_at_load = "error('no such library', 0)",
  returns_nil = "return { new = function() end }",
  without_export = "return { new = function() return {} end }",
  raises_in_new = "return { new = function() error('the disk is not there', 0) end }",
}

--- Writes the modules to a directory and puts it on package.path; returns a function that undoes it.
function M.install()
  local directory, path = os.tmpname(), package.path
  os.remove(directory)
  assert(require("support.commands").run("mkdir " .. directory))
  for name, source in pairs(sources) do
    local file = assert(io.open(("%s/broken_%s.lua"):format(directory, name), "w"))
    file:write(source)
    file:close()
  end
  package.path = directory .. "/?.lua;" .. path
  return function()
    package.path = path
    os.execute("rm -r " .. directory)
  end
end

return M
