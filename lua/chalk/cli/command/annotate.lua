-- chalk annotate writes links to live charts into the comments above wrapped functions.

local annotate = require "chalk.cli.annotate"
local failure = require "chalk.cli.failure"
local files = require "chalk.cli.files"
local modules = require "chalk.cli.modules"

local M = {
  name = "annotate",
  summary = "write links to live charts above wrapped functions",
  operands = "--require MODULE [OPTION]... [PATH]...",
  text = "Loads the modules and writes, above each wrapped function whose file is one of the PATHs or below one\n"
    .. "(default: the current directory), a block of links to its charts. Existing blocks are replaced.\n"
    .. "Modules are also looked for in the directories among the PATHs.",
  options = {
    { "require", short = "r", value = "MODULE", many = true, text = "a module to load; may be repeated" },
    { "include", short = "I", value = "DIR", many = true, text = "look for modules in DIR first" },
    { "check", text = "write nothing; the exit code is 1 if a file would change" },
    { "remove", text = "remove all blocks; needs no modules" },
  },
}

local function is_below(path, roots)
  for _, root in ipairs(roots) do
    if path == root or path:sub(1, #root + 1) == root .. "/" or root == "/" then return true end
  end
  return false
end

local function real_paths(paths)
  local roots = {}
  for i, path in ipairs(paths) do
    roots[i] = files.real(path) or failure.fail("cannot read %s: no such file or directory", path)
  end
  return roots
end

-- Returns a path relative to the current directory if it is below that.
local function shown(path)
  local here = files.real "."
  return path:sub(1, #here + 1) == here .. "/" and path:sub(#here + 2) or path
end

-- Returns the links of a function, without a chart that would be empty.
local function links_of(auto, f)
  local links = auto.links(f.f)
  if not f.concurrent then links.concurrency = nil end
  return links
end

-- Returns the wrapped functions by the real path of their file, and how many there are in all and below the roots. A
-- loaded file without wrapped functions has an empty list, so that old blocks are removed from it.
local function by_file(auto, roots)
  local found = {}
  for path in pairs(modules.loaded_files()) do
    if is_below(path, roots) then found[path] = {} end
  end
  local all = auto.functions()
  local below = 0
  for _, f in ipairs(all) do
    local path = f.source and files.real(f.source)
    if path and is_below(path, roots) then
      found[path] = found[path] or {}
      below = below + 1
      table.insert(found[path], { name = f.name, module = f.module, line = f.line, links = links_of(auto, f) })
    end
  end
  return found, #all, below
end

local function functions_of(values, paths, roots)
  local folders = { unpack(values.include or {}) }
  for _, path in ipairs(paths) do
    if files.kind(path) == "directory" then folders[#folders + 1] = path end
  end
  local found, all, below = by_file(modules.load(values.require, folders), roots)
  if all == 0 then failure.fail("%s wraps no function", table.concat(values.require, ", ")) end
  if below == 0 then failure.fail("none of the %d wrapped functions is in %s", all, table.concat(paths, ", ")) end
  return found
end

local function none_of(paths)
  local found = {}
  for _, path in ipairs(files.lua_files(paths)) do
    found[files.real(path)] = {}
  end
  return found
end

-- Returns the files whose text changes, sorted by path.
local function changes(found)
  local changed = {}
  for path, functions in pairs(found) do
    local old = files.read(path)
    local new, line, message = annotate.annotate(old, functions)
    if not new then failure.fail("%s:%d: %s", shown(path), line, message) end
    if new ~= old then changed[#changed + 1] = { path = shown(path), text = new } end
  end
  table.sort(changed, function(a, b) return a.path < b.path end)
  return changed
end

local function complain(changed)
  local lines = {}
  for i, file in ipairs(changed) do
    lines[i] = file.path .. ": the links are out of date"
  end
  failure.fail(table.concat(lines, "\nchalk: "))
end

---@param values table
---@param paths string[]
---@param out chalk.cli.Out
function M.run(values, paths, out)
  if not values.require and not values.remove then failure.usage "annotate: --require MODULE is needed" end
  if #paths == 0 then paths = { "." } end
  local roots = real_paths(paths)
  local changed = changes(values.remove and none_of(paths) or functions_of(values, paths, roots))
  if #changed == 0 then return end
  if values.check then complain(changed) end
  files.write(changed)
  for _, file in ipairs(changed) do
    out.write(file.path .. "\n")
  end
end

return M
