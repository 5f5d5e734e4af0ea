--- Exporter modules that are broken, each in the way that its name says. `install` lets `require` find them.

local M = {}

local sources = {
  not_a_table = "return 7",
  without_new = "return {}",
  raises_at_load = "error('no such library', 0)",
  returns_nil = "return { new = function() end }",
  without_export = "return { new = function() return {} end }",
  raises_at_load_once = "local loaded = package.loaded"
    .. " if not loaded.broken_before then loaded.broken_before = true error('not mounted yet', 0) end"
    .. " return require('support.file_exporter')",
  raises_object = "error(setmetatable({}, { __tostring = function() error('no text') end }))",
  raises_in_handler = "return { new = function() return {"
    .. " export = function() return true end, handler = function() error('no handler', 0) end } end }",
  waits_in_new = "return { new = function(o) require('support.wait').till(function() return io.open(o.path) end, 60)"
    .. " error('it went on', 0) end }",
  raises_in_new = "return { new = function() error('the disk is not there', 0) end }",
}

--- Writes the modules to a directory and adds it to package.path. Returns a function that undoes both.
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
