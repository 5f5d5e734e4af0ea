package.path = "spec/?.lua;" .. package.path

local address = require "chalk.net.address"
local container = require "chalk.exporter.statsd.container"
local folded = require "support.statsd_folded"
local names = require "chalk.exporter.statsd.names"
local weights = require "support.statsd_weights"

describe("the address of a statsd server", function()
  local function udp(host, port, text)
    assert.same({ kind = "udp", host = host, port = port }, address.parse(text, 8125))
  end

  it("is a host and a port", function()
    udp("127.0.0.1", 8125, "127.0.0.1:8125")
    udp("datadog-agent.monitoring_x.svc", 1, "datadog-agent.monitoring_x.svc:1")
    udp("::1", 65535, "[::1]:65535")
    udp("fe80::1%eth0", 8125, "[fe80::1%eth0]:8125")
    udp("::ffff:10.0.0.1", 8125, "[::ffff:10.0.0.1]:8125")
    udp("agent", 9125, "udp://agent:9125/")
    udp("agent", 8125, "udp://agent")
    udp("2001:db8::", 8125, "udp://[2001:db8::]")
  end)

  it(
    "has a port of its own where the caller knows no usual one",
    function() assert.truthy(select(2, address.parse "udp://agent"):find("no port", 1, true)) end
  )

  it("is a socket file of a kind", function()
    assert.same({ kind = "unix", path = "/run/dsd.socket" }, address.parse "unix:///run/dsd.socket")
    assert.same({ kind = "unixgram", path = "/a b" }, address.parse "unixgram:///a b")
    assert.same({ kind = "unixstream", path = "/p" }, address.parse "unixstream:///p")
  end)

  it("is refused with what is wrong when nothing could be sent there", function()
    local wrong = {
      ["agent"] = "no port",
      ["agent:"] = "no port",
      ["::1:8125"] = "no port",
      ["[::1]"] = "no port",
      [""] = "no port",
      ["agent:0"] = "bad port",
      ["agent:65536"] = "bad port",
      ["agent:99999999999999999999"] = "bad port",
      [":8125"] = "bad host",
      ["a b:8125"] = "bad host",
      ["a..b:8125"] = "bad host",
      ["-a:8125"] = "bad host",
      ["256.0.0.1:8125"] = "bad host",
      ["1.2.3:8125"] = "bad host",
      ["[::1::]:8125"] = "bad host",
      ["[1:2:3]:8125"] = "bad host",
      ["[12345::]:8125"] = "bad host",
      ["[agent]:8125"] = "bad host",
      ["unix://run/dsd.socket"] = "no absolute path",
      ["unix:///"] = "no absolute path",
      ["unix:///a\0b"] = "no absolute path",
      ["unixgram:///" .. ("x"):rep(107)] = "longer than 107 bytes",
      ["tcp://agent:8125"] = "unknown kind of address",
    }
    for text, words in pairs(wrong) do
      local got, message = address.parse(text)
      assert.is_nil(got, text)
      assert.truthy(message:find(words, 1, true), message)
      assert.is_nil(message:find "%c", message)
    end
  end)

  it("may be a file's that is not there or a socket, and not one that never can be", function()
    local function failing(errno)
      return function() return nil, "x", errno end
    end
    local file = address.parse "unix:///run/dsd.socket"
    assert.is_nil(address.problem(file, failing(2)))
    assert.is_nil(address.problem(file, failing(6)))
    assert.truthy(address.problem(file, failing(13)):find("not allowed", 1, true))
    assert.is_nil(address.problem(address.parse "agent:1", error))
  end)

  it("knows IPv6 from what only looks like it", function()
    for _, text in ipairs { "::", "::1", "1::", "1:2:3:4:5:6:7:8", "1:2:3:4:5:6:1.2.3.4", "1::8", "::1.2.3.4" } do
      assert.is_true(address.is_ipv6(text), text)
    end
    local others =
      "|:|:::|1:2:3:4:5:6:7|1:2:3:4:5:6:7:8:9|1:2:3:4::5:6:7:8|::g|1.2.3.4|::1.2.3|1:::2|::1%|:1::2|1::2:|"
    for text in others:gmatch "([^|]*)|" do
      assert.is_false(address.is_ipv6(text), text)
    end
  end)
end)

describe("a metric's name in statsd", function()
  it("is its namespaces joined with dots, below the exporter's", function()
    assert.equal("myapp.http.auth.latency", names.metric("myapp", { "http", "auth" }, "latency"))
    assert.equal("latency.p50", names.metric(nil, {}, "latency", ".p50"))
    assert.equal("my.app.up", names.metric("my.app.", {}, "up"))
  end)

  it("is made of what Datadog takes, with a letter first", function()
    assert.equal("my_app.up", names.metric("my-app", {}, "up"))
    assert.equal("a_b_c_d__e.up", names.metric("a|b:c\nd\195\169e", {}, "up"))
    assert.equal("x_private", names.metric("", {}, "_private"))
    assert.equal("x9lives.up", names.metric("9lives", {}, "up"))
  end)

  it("is cut to 200 characters without meeting another, its suffix whole", function()
    local path = { ("n"):rep(128), ("m"):rep(128) }
    local a, b = names.metric("app", path, "a", ".p99"), names.metric("app", path, "b", ".p99")
    assert.equal(200, #a)
    assert.equal(200, #b)
    assert.not_equal(a, b)
    assert.equal(".p99", a:sub(-4))
    assert.equal(200, #names.metric(nil, { ("n"):rep(100) }, ("m"):rep(99)))
    assert.equal("m", names.metric(nil, { ("n"):rep(100) }, ("m"):rep(99)):sub(-1))
  end)

  it("names quantiles by their percent", function()
    local percents =
      { [0] = "p0", [0.001] = "p0_1", [0.05] = "p5", [0.29] = "p29", [0.999] = "p99_9", [1] = "p100" }
    for q, name in pairs(percents) do
      assert.equal(name, names.quantile(q))
    end
  end)
end)

describe("a tag in statsd", function()
  it("is its key and its value", function()
    assert.equal("endpoint:/api/v1", names.tag("endpoint", "/api/v1"))
    assert.equal("status:200", names.tag("status", 200))
    assert.equal("ok:true", names.tag("ok", true))
    assert.equal("url:http://host:80/a-b_c.d", names.tag("url", "http://host:80/a-b_c.d"))
    assert.equal("Kopf:Straße", names.tag("Kopf", "Straße"))
  end)

  it("cannot forge another tag, field, line or metric", function()
    assert.equal("a:x_c_d:e", names.tag("a", "x,c|d:e"))
    assert.equal("a:x__evil:1_c__y:z", names.tag("a", "x\n\revil:1|c|#y:z"))
    assert.equal("a_b:c", names.tag("a:b", "c"))
    assert.equal("a:_0.1_x", names.tag("a", "@0.1\0x"))
    assert.equal("a:1_2_3_4", names.tag("a", "1\194\1332\226\128\1683\226\128\1694"))
    assert.equal("a:b_", names.tag("a", "b:"))
    for byte = 0, 255 do
      local tag = names.tag("k", "a" .. string.char(byte) .. "b")
      assert.is_nil(tag:find "[%c,|#@\n\127]", tag)
      assert.truthy(tag:find "^k:a.+b$", tag)
    end
  end)

  it("is valid UTF-8 whatever came in", function()
    assert.equal("a:é___€_😀_", names.tag("a", "é\195\226\130€\255😀\240"))
    assert.equal("a:_", names.tag("a", "\128"))
    assert.equal("a:__", names.tag("a", "\192\128"))
    assert.equal("a:___", names.tag("a", "\237\160\128"))
  end)

  it("starts with a letter", function()
    assert.equal("x_private:1", names.tag("_private", 1))
    assert.equal("x1st:1", names.tag("1st", 1))
    assert.equal("étage:1", names.tag("étage", 1):gsub("^x", "", 1))
  end)

  it("has at most 200 characters, ends between two, and stays apart from others", function()
    local function length(text) return select(2, text:gsub("[^\128-\191]", "")) end
    local long = ("é"):rep(300)
    local a, b = names.tag("key", long .. "a"), names.tag("key", long .. "b")
    assert.equal(200, length(a))
    assert.not_equal(a, b)
    assert.is_nil(require("chalk.base.json").invalid_utf8(a))
    assert.equal("key:" .. ("é"):rep(196), names.tag("key", ("é"):rep(196)))
    assert.equal(200, length(names.tag(("k"):rep(300), ("v"):rep(300))))
    -- FNV-1a of "a" is e40c292c, of "foobar" bf9cf968: the published test vectors
    assert.equal("_bf9cf968", names.metric(nil, {}, "foobar", ("."):rep(195)):sub(-204, -196))
  end)

  it("is the same again when many others came between", function()
    local first = names.tag("k", "v|1")
    for i = 1, 10000 do
      assert.equal("k:" .. i, names.tag("k", i))
    end
    assert.equal(first, names.tag("k", "v|1"))
  end)

  it("of everything gives way to a metric's own", function()
    local global = { env = "prod", zone = "a", empty = "", shard = 1 }
    assert.same({ "env:prod", "shard:1", "zone:a" }, names.tags(global))
    assert.same({ "env:prod", "shard:1" }, names.tags(global, { zone = true }))
  end)
end)

describe("a name with values folded in", function()
  it("has them in declared order, absent ones as none", function()
    assert.equal("http.hits._api.200", folded.name("http.hits", { "/api", 200 }, 2))
    assert.equal("http.hits.none.b.none.p50", folded.name("http.hits", { nil, "b", nil }, 3, ".p50"))
    assert.equal("up", folded.name("up", {}, 0))
    assert.equal("none", folded.part "")
  end)

  it("has exactly as many parts as the metric has tags, whatever the values", function()
    assert.equal("10_0_0_1_8125", folded.part "10.0.0.1:8125")
    for byte = 0, 255 do
      assert.truthy(folded.part("a" .. string.char(byte)):find "^a[%w_-]$")
    end
    assert.equal(128, #folded.part(("v"):rep(500)))
    assert.not_equal(folded.part(("v"):rep(500)), folded.part(("v"):rep(501)))
  end)
end)

describe("a weight's sample rate", function()
  -- As an agent does it: the text to a double, its inverse truncated.
  local function at_agent(rate) return math.floor(1 / tonumber(rate)) end

  it("gives an agent the weight back, every one to 100,000, and one that does not truncate nearly", function()
    for n = 2, 100000 do
      local rate = weights.rate(n)
      if at_agent(rate) ~= n or 1 / tonumber(rate) - n >= 1e-6 or not rate:find "^0%.%d*[1-9]$" then
        error(("%d: %s"):format(n, rate))
      end
    end
  end)

  it("is the shortest that does", function()
    assert.is_nil(weights.rate(1))
    assert.equal("0.5", weights.rate(2))
    assert.equal("0.0001", weights.rate(10000))
    assert.equal("0.3333333", weights.rate(3))
    assert.equal("0.0000099999999999", weights.rate(100000)) -- an agent takes 0.00001 for 99,999
    for n = 2, 100000, 37 do
      local rate = weights.rate(n)
      local k = #rate - 2
      -- Digits fewer: both neighbours of 1/n miss.
      local near = math.floor(10 ^ (k - 1) / n)
      for m = math.max(near - 1, 1), near + 1 do
        local shorter = ("%." .. k - 1 .. "f"):format(m / 10 ^ (k - 1))
        local inverse = 1 / tonumber(shorter)
        assert.is_false(math.floor(inverse) == n and inverse - n < 1e-6, n .. " has " .. shorter)
      end
    end
  end)

  it("is there for the heaviest, and for nothing else", function()
    assert.equal(weights.MOST, at_agent(weights.rate(weights.MOST)))
    assert.equal(999999, at_agent(weights.rate(999999)))
    for _, wrong in ipairs { 0, -1, 1.5, weights.MOST + 1, 0 / 0, math.huge } do
      assert.error_matches(function() weights.rate(wrong) end, "a weight is a whole number from 1 to 1000000")
    end
  end)
end)

describe("a count split into weights", function()
  it("keeps its sum exactly", function()
    assert.same({}, weights.split(0, 10))
    assert.same({ 7 }, weights.split(7, 10))
    assert.same({ 10 }, weights.split(10, 10))
    assert.same({ 10, 10, 3 }, weights.split(23, 10))
    local times, rest = weights.divide(2 ^ 53, 10000)
    assert.equal(2 ^ 53, times * 10000 + rest)
  end)
end)

describe("the container's id", function()
  local ID = "8c046cb0b72cd4c99f51b5591cd5b095967f58ee003710a45280c28ee1a9c7fa"
  local POD = "podfd52ef25-a87d-11e9-9423-0800271a638e"
  local SANDBOX = ("c"):rep(64)

  it("ends a path of /proc/self/cgroup", function()
    local uuid, garden, task =
      "34dc0b5e-626f-2c5c-4c51-70e34b10e765", "6f265890-5165-7fab-6b52-18d1", ("0f"):rep(16) .. "-1234567890"
    local found = {
      ["12:cpu:/docker/" .. ID .. "\n0::/x"] = ID,
      ["odd line\n11:cpu,cpuacct:/kubepods/burstable/" .. POD .. "/" .. ID .. "\n"] = ID,
      ["1:name=systemd:/nope\n2:pids:/system.slice/docker-" .. ID .. ".scope"] = ID,
      ["0::/kubepods.slice/kubepods-pod1.slice/cri-containerd-" .. ID .. ".scope\n"] = ID,
      ["9:perf_event:/ecs/55091c13-b8cf-4801-b527-f4601742204d/" .. ID] = ID,
      ["9:memory:/ecs/task/" .. task] = task,
      ["1:name=systemd:/uuid/" .. uuid] = uuid,
      ["1:memory:/garden/" .. garden] = garden,
    }
    for text, id in pairs(found) do
      assert.equal(id, container.of_cgroup(text), text)
    end
  end)

  it("is not found where there is none", function()
    local session = "0::/user.slice/user-0.slice/session-1.scope"
    for _, text in ipairs { "", "0::/", session, "10:hugetlb:/kubepods/" .. POD, "1:x:/" .. ID .. "/y" } do
      assert.is_nil(container.of_cgroup(text), text)
    end
  end)

  local function mounted(path)
    return "623 615 0:28 / /sys/fs/cgroup ro - cgroup2 cgroup rw\n"
      .. "627 608 259:1 "
      .. path
      .. "/resolv.conf /etc/resolv.conf rw - ext4 /dev/root rw\n"
      .. "628 608 259:1 "
      .. path
      .. "/hostname /etc/hostname rw,relatime - ext4 /dev/root rw\n"
  end

  it("is in the path of the mounted hostname, a pod's sandbox aside", function()
    assert.equal(ID, container.of_mountinfo(mounted("/var/lib/docker/containers/" .. ID)))
    assert.equal(ID, container.of_mountinfo(mounted("/lib/containers/overlay-containers/" .. ID .. "/userdata")))
    assert.equal(ID, container.of_mountinfo(mounted("/docker/" .. SANDBOX .. "/containers/" .. ID)))
    assert.is_nil(
      container.of_mountinfo(mounted("/lib/containerd/io.containerd.grpc.v1.cri/sandboxes/" .. SANDBOX))
    )
    assert.is_nil(container.of_mountinfo("1 2 0:3 /var/lib/" .. ID .. "/x /mnt rw"))
    assert.is_nil(container.of_mountinfo "")
  end)

  local function find(texts, inodes)
    return container.find(function(path) return texts[path] end, function(path) return inodes[path] end)
  end

  local CGROUP, MOUNTINFO, NAMESPACE = "/proc/self/cgroup", "/proc/self/mountinfo", "/proc/self/ns/cgroup"

  it("is looked for in the cgroup, in the mounts, and by inode", function()
    local inodes = { [NAMESPACE] = 4026532000, ["/sys/fs/cgroup"] = 1234, ["/sys/fs/cgroup/memory/a"] = 5678 }
    local by_mount = mounted("/var/lib/docker/containers/" .. ID)
    assert.equal(ID, find({ [CGROUP] = "0::/docker/" .. ID }, {}))
    assert.equal(ID, find({ [CGROUP] = "0::/", [MOUNTINFO] = by_mount }, inodes))
    assert.equal("in-1234", find({ [CGROUP] = "0::/" }, inodes))
    assert.equal("in-5678", find({ [CGROUP] = "3:cpu:/a\n2:memory,x:/a\n0::/", [MOUNTINFO] = "" }, inodes))
  end)

  it("is none on the host, in a root cgroup, or without /proc", function()
    local by_mount = mounted("/var/lib/docker/containers/" .. ID)
    local texts = { [CGROUP] = "0::/user.slice", [MOUNTINFO] = by_mount }
    assert.is_nil(find(texts, { [NAMESPACE] = 4026531835, ["/sys/fs/cgroup/user.slice"] = 9 }))
    assert.is_nil(find(texts, { ["/sys/fs/cgroup/user.slice"] = 9 }))
    assert.is_nil(find({ [CGROUP] = "0::/" }, { [NAMESPACE] = 5, ["/sys/fs/cgroup"] = 1 }))
    assert.is_nil(find({}, {}))
  end)

  it("can be looked for here, whatever here is", function()
    local id = container.find()
    assert.truthy(id == nil or id:find "^[%w-]+$")
  end)
end)
