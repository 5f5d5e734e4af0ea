-- The settings that all instrumented functions share. Each comes from the options of init, else from the environment,
-- else from the git checkout.

local git = require "chalk.autometrics.git"
local json = require "chalk.base.json"
local option = require "chalk.define.options"

local M = {}

local PROMETHEUS = "http://localhost:9090"

-- The default bounds of the specification, in seconds.
local BUCKETS = { 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10 }

---@class chalk.autometrics.Options
---@field service_name string?
---@field version string?
---@field commit string? empty: the label is absent, and nothing is looked for; so for the next three
---@field branch string?
---@field repository_url string?
---@field repository_provider string?
---@field prometheus_url string?
---@field buckets number[]? bounds of durations, in seconds
---@field is_named boolean? set by `resolve`: the service's name does not depend on which of its programs runs

local ENVIRONMENT = {
  service_name = { "AUTOMETRICS_SERVICE_NAME", "OTEL_SERVICE_NAME" },
  version = { "AUTOMETRICS_VERSION" },
  commit = { "AUTOMETRICS_COMMIT" },
  branch = { "AUTOMETRICS_BRANCH" },
  repository_url = { "AUTOMETRICS_REPOSITORY_URL" },
  repository_provider = { "AUTOMETRICS_REPOSITORY_PROVIDER" },
  prometheus_url = { "PROMETHEUS_URL" },
}

-- Settings that are read from the checkout if they are not given. An empty text turns this off: the label is absent.
local FOUND_OUT = { commit = true, branch = true, repository_url = true, repository_provider = true }

local LONGEST = 512

--- Returns whether v can be a label's value unchanged, and the words for what it must be.
---@return boolean, string words
function M.is_label(v)
  local fits = type(v) == "string" and #v <= LONGEST and not v:find("\0", 1, true) and not json.invalid_utf8(v)
  return fits, ("UTF-8 text of at most %d bytes"):format(LONGEST)
end

local function is_url(v)
  return type(v) == "string" and v:find "^https?://[^/%s]" ~= nil and not v:find "[%s%c]", "an http or https URL"
end

local CHECKS = { buckets = option.is_buckets }
for name in pairs(ENVIRONMENT) do
  CHECKS[name] = name == "prometheus_url" and is_url or M.is_label
end

local function from_environment(name)
  for _, variable in ipairs(ENVIRONMENT[name]) do
    local value = os.getenv(variable)
    if value and (value ~= "" or FOUND_OUT[name]) then return value, variable end
  end
end

local ngx = rawget(_G, "ngx")

-- Returns the program that was started and its folder; nil in a host that runs no Lua program.
local function program()
  local script = type(arg) == "table" and type(arg[0]) == "string" and arg[0] or nil
  return script, script and (script:match "^(.*)/[^/]*$" or ".")
end

local function checkout()
  local _, folder = program()
  local prefix = ngx and ngx.config and ngx.config.prefix()
  return folder and git.describe(folder) or prefix and git.describe(prefix) or git.describe "." or {}
end

local function fitting(name) return name and name ~= "" and M.is_label(name) and name or nil end

local function name_of_repository(url)
  return url and fitting(url:gsub("/+$", ""):gsub("%.git$", ""):match "[^/:]+$")
end

local function name_of_program()
  local script = program()
  return script and fitting((script:match("[^/]*$"):gsub("%.lua$", ""))) or ngx and "nginx" or "luajit"
end

local function without_v(version) return version and (version:gsub("^v(%d)", "%1")) end

-- Returns a setting from the environment, nil if it is not there, or nil and a message if it is not valid.
local function inherited(name)
  local value, variable = from_environment(name)
  if value == nil then return nil end
  local ok, words = CHECKS[name](value)
  if ok then return value end
  return nil, ("%s must be %s"):format(variable, words)
end

-- Fills in what the options, or else the environment, give. Returns a message if a value is not valid.
local function fill(settings, options)
  for name in pairs(ENVIRONMENT) do
    local value, problem = options[name], nil
    if value == nil then
      value, problem = inherited(name)
    end
    if problem then return problem end
    settings[name] = (value ~= "" or FOUND_OUT[name]) and value or nil
  end
end

-- Fills in the rest from the checkout, which is read only if something is missing.
local function find_out(settings)
  local hidden = settings.repository_url == ""
  local complete = settings.commit
    and settings.branch
    and settings.repository_url
    and (hidden or settings.service_name)
  local found = complete and {} or checkout()
  settings.commit = settings.commit or found.commit
  settings.branch = settings.branch or found.branch
  settings.service_name = settings.service_name or not hidden and name_of_repository(found.repository_url) or nil
  settings.repository_url = settings.repository_url and git.public(settings.repository_url) or found.repository_url
  local url = settings.repository_url
  settings.repository_provider = settings.repository_provider or url and git.provider(url)
  for name in pairs(FOUND_OUT) do
    if settings[name] == "" then settings[name] = nil end
  end
end

--- Resolves the settings.
---@param options chalk.autometrics.Options
---@return chalk.autometrics.Options? settings nil if an option or variable is not valid
---@return string? problem
function M.resolve(options)
  if type(options) ~= "table" then return nil, "options must be a table" end
  local problems = option.problems(options, CHECKS)
  if problems[1] then return nil, table.concat(problems, "; ") end
  local settings = {}
  local problem = fill(settings, options)
  if problem then return nil, problem end
  find_out(settings)
  settings.version = without_v(settings.version)
  settings.is_named = settings.service_name ~= nil
  settings.service_name = settings.service_name or name_of_program()
  settings.prometheus_url = settings.prometheus_url or PROMETHEUS
  settings.buckets = options.buckets or BUCKETS
  return settings
end

return M
