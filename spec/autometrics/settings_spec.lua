--- A user sees the service's name, version and repository in build_info, from the options, the environment, or the git
--- checkout.

local children = require "support.children"
local commands = require "support.commands"
local exposition = require "support.exposition"
local files = require "support.files"

-- Variables that are taken out of the environment of the specs.
local VARIABLES = {
  "AUTOMETRICS_SERVICE_NAME",
  "OTEL_SERVICE_NAME",
  "AUTOMETRICS_VERSION",
  "AUTOMETRICS_COMMIT",
  "AUTOMETRICS_BRANCH",
  "AUTOMETRICS_REPOSITORY_URL",
  "AUTOMETRICS_REPOSITORY_PROVIDER",
  "PROMETHEUS_URL",
}

-- Returns the labels of build_info after a call of init, the link of a function, and the whole exposition.
local function build(init, environment, shell)
  local code, output = children.run(
    ([[
    local auto = require("chalk.autometrics")
    %s
    local f = auto.wrap(function() end, { name = "f", module = "m" })
    print(auto.links(f).request_rate)
    io.write(require("chalk").text())]]):format(init or ""),
    { env = environment, without = VARIABLES, shell = shell }
  )
  assert.equal(0, code, output)
  local link, text = output:match "^([^\n]*)\n(.*)$"
  local found
  for key, value in pairs((exposition.parse(text))) do
    if key:find "^build_info" then
      assert.is_nil(found, "twice")
      assert.equal(1, value)
      found = {}
      for label, text_of in key:gmatch '([%w_]+)="([^"]*)"' do
        found[label] = text_of
      end
    end
  end
  return found, link, text
end

local function git(folder, command)
  local ok = commands.run(
    ("cd '%s' && git -c user.name=a -c user.email=a@b.example %s >/dev/null 2>&1"):format(folder, command)
  )
  assert(ok, "git " .. command)
end

local function hash(folder)
  local pipe = io.popen(("cd '%s' && git rev-parse HEAD"):format(folder))
  local text = pipe:read "*l"
  pipe:close()
  return text
end

describe("settings", function()
  local folder

  before_each(function()
    folder = files.name()
    assert(commands.run("mkdir " .. folder))
  end)

  after_each(function()
    os.execute("rm -rf " .. folder)
    files.clean()
  end)

  local function here() return "cd " .. folder .. " &&" end

  it("are those of init, else those of the environment", function()
    local environment = {
      AUTOMETRICS_SERVICE_NAME = "env",
      AUTOMETRICS_VERSION = "v2.0.0",
      AUTOMETRICS_COMMIT = "abc",
      AUTOMETRICS_BRANCH = "trunk",
      AUTOMETRICS_REPOSITORY_URL = "https://git.example/a/b",
      AUTOMETRICS_REPOSITORY_PROVIDER = "own",
      PROMETHEUS_URL = "http://prom.example:9090/sub/",
    }
    local found, link = build(nil, environment, here())
    assert.same({
      service_name = "env",
      version = "2.0.0",
      commit = "abc",
      branch = "trunk",
      repository_url = "https://git.example/a/b",
      repository_provider = "own",
      autometrics_version = "1.0.0",
    }, found)
    assert.is_truthy(link:find("http://prom.example:9090/sub/graph?g0.expr=", 1, true), link)
    found, link = build(
      [[auto.init { service_name = "shop", version = "1.4.0", commit = "c", branch = "b",
      repository_url = "https://user:p@ss@github.com/a/b", repository_provider = "p",
      prometheus_url = "https://prom.example/" }]],
      environment,
      here()
    )
    assert.same({
      service_name = "shop",
      version = "1.4.0",
      commit = "c",
      branch = "b",
      repository_url = "https://github.com/a/b",
      repository_provider = "p",
      autometrics_version = "1.0.0",
    }, found)
    assert.is_truthy(link:find("https://prom.example/graph?g0.expr=", 1, true), link)
  end)

  it("take AUTOMETRICS_SERVICE_NAME before OTEL_SERVICE_NAME, and ignore empty ones", function()
    assert.equal("otel", build(nil, { OTEL_SERVICE_NAME = "otel" }, here()).service_name)
    assert.equal(
      "auto",
      build(nil, { OTEL_SERVICE_NAME = "otel", AUTOMETRICS_SERVICE_NAME = "auto" }, here()).service_name
    )
    local found, link = build("auto.init { version = '' }", { AUTOMETRICS_VERSION = "" }, here())
    assert.is_nil(found.version)
    assert.is_truthy(link:find "^http://localhost:9090/graph")
  end)

  it("do not block if a FIFO, device or folder is in the place of one of git's files", function()
    local environment = { AUTOMETRICS_SERVICE_NAME = "shop" }
    local alone = { service_name = "shop", autometrics_version = "1.0.0" }
    git(folder, "init -q -b main .")
    for _, what in ipairs { "mkfifo", "mkdir", "ln -s /dev/zero", "ln -s /dev/tty", "ln -s /dev/full" } do
      assert(commands.run(("cd %s && rm -rf .git/HEAD && %s .git/HEAD"):format(folder, what)))
      local found = build(nil, environment, here() .. " timeout 20")
      assert.same({ what, "shop" }, { what, found.service_name, found.commit or found.branch })
    end
    assert(commands.run(("cd %s && rm -rf .git && mkfifo .git"):format(folder)))
    assert.same(alone, (build(nil, environment, here() .. " timeout 20")))
  end)

  it("have a service name and no label for what is unknown, outside of a checkout", function()
    local found = build(nil, nil, here())
    assert.is_truthy(#found.service_name > 0)
    found.service_name = nil
    assert.same({ autometrics_version = "1.0.0" }, found)
  end)

  it("are found in a checkout, in one of its folders, in a worktree and with packed references", function()
    git(folder, "init -q -b main . && git remote add origin https://user:secret@github.com/some/shop.git")
    local found = build(nil, nil, here())
    assert.same({
      branch = "main",
      service_name = "shop",
      autometrics_version = "1.0.0",
      repository_url = "https://github.com/some/shop.git",
      repository_provider = "github",
    }, found)
    git(folder, "commit -q --allow-empty -m one")
    local function expected(branch)
      return {
        branch = branch,
        commit = hash(folder),
        service_name = "shop",
        autometrics_version = "1.0.0",
        repository_url = "https://github.com/some/shop.git",
        repository_provider = "github",
      }
    end
    assert.same(expected "main", build(nil, nil, here()))
    git(folder, "checkout -q -b topic/one")
    assert(commands.run(("mkdir -p %s/a/b"):format(folder)))
    assert.same(expected "topic/one", build(nil, nil, "cd " .. folder .. "/a/b &&"))
    git(folder, "pack-refs --all")
    assert.same(expected "topic/one", build(nil, nil, here()))
    git(folder, "worktree add -q tree -b other")
    assert.same(expected "other", build(nil, nil, "cd " .. folder .. "/tree &&"))
    git(folder, "checkout -q --detach")
    assert.same(expected(nil), build(nil, nil, here()))
  end)

  it("are not looked for if an empty text turns them off", function()
    git(folder, "init -q -b main . && git remote add origin https://github.com/some/shop.git")
    git(folder, "commit -q --allow-empty -m one")
    local all = build(nil, nil, here())
    assert.is_truthy(all.commit and all.branch and all.repository_url and all.repository_provider)
    for _, name in ipairs { "commit", "branch", "repository_url", "repository_provider" } do
      local expected = {}
      for label, value in pairs(all) do
        expected[label] = value
      end
      expected[name] = nil
      if name == "repository_url" then expected.repository_provider = nil end
      local init = ("auto.init { service_name = 'shop', %s = '' }"):format(name)
      local variable = "AUTOMETRICS_" .. name:upper()
      assert.same(expected, build(init, nil, here()))
      assert.same(expected, build("auto.init { service_name = 'shop' }", { [variable] = "" }, here()))
      assert.same(expected, build(init, { [variable] = "of the environment" }, here()))
    end
    -- The service does not get the name of a repository that is turned off either.
    local hidden = build(nil, { AUTOMETRICS_REPOSITORY_URL = "" }, here())
    assert.is_truthy(#hidden.service_name > 0 and hidden.service_name ~= "shop")
    assert.is_nil(hidden.repository_url)
  end)

  it("never have a path of this machine as the repository, and find the provider in each form of URL", function()
    git(folder, "init -q -b main . && git remote add origin /srv/secret/shop")
    assert.is_nil(build(nil, nil, here()).repository_url)
    for url, provider in pairs {
      ["git@gitlab.com:a/b.git"] = "gitlab",
      ["ssh://git@bitbucket.org/a/b"] = "bitbucket",
      ["https://x.example/a"] = "",
    } do
      git(folder, "remote set-url origin " .. url)
      local found = build(nil, nil, here())
      assert.same(
        { provider, (url:gsub("//git@", "//")) },
        { found.repository_provider or "", found.repository_url }
      )
    end
  end)

  it("apply to functions that were wrapped before init, and no series of the guessed name is left", function()
    local found, _, text = build(
      [[
      local before = auto.wrap(function() end, { name = "before", module = "m", concurrent = true })
      auto.init { service_name = "late", buckets = { 1, 2 } }
      before()]],
      nil,
      here()
    )
    assert.equal("late", found.service_name)
    for key in pairs((exposition.parse(text))) do
      if key:find "^function_" then assert.is_truthy(key:find('service_name="late"', 1, true), key) end
    end
    local bucket =
      'function_calls_duration_seconds_bucket{function="before",module="m",service_name="late",le="2.0"}'
    assert.equal(1, (exposition.parse(text))[bucket])
    assert.is_nil(text:find('le="0.5"} 1', 1, true))
  end)

  it("have only the version that runs, after another version used the same segment", function()
    local path = files.name()
    local function run(version)
      local code, output = children.run(
        ([[
        local chalk = require("chalk")
        chalk.init { segment_path = %q }
        require("chalk.autometrics").init { service_name = "shop", version = %q }
        print(select(2, chalk.text():gsub("\nbuild_info{version=\"%s\"", "")),
          select(2, chalk.text():gsub("\nbuild_info{", "")))]]):format(path, version, version),
        { without = VARIABLES }
      )
      assert.same({ 0, "1\t1\n" }, { code, output })
    end
    run "1.4.0"
    run "1.5.0"
    run "1.5.0"
  end)
end)
