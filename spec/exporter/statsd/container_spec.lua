--- The id of the container. If this file fails, Datadog's agent adds the tags of another container, or none, to the
--- metrics of a process.

local container = require "chalk.exporter.statsd.container"

describe("the container's id", function()
  local ID = "8c046cb0b72cd4c99f51b5591cd5b095967f58ee003710a45280c28ee1a9c7fa"
  local POD = "podfd52ef25-a87d-11e9-9423-0800271a638e"
  local SANDBOX = ("c"):rep(64)

  it("is found at the end of a path in /proc/self/cgroup", function()
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

  it("is not found in paths without an id", function()
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

  it("is found in the path of the mounted hostname, except that of a pod's sandbox", function()
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

  it("is looked for in the cgroup, then in the mounts, then by inode", function()
    local inodes = { [NAMESPACE] = 4026532000, ["/sys/fs/cgroup"] = 1234, ["/sys/fs/cgroup/memory/a"] = 5678 }
    local by_mount = mounted("/var/lib/docker/containers/" .. ID)
    assert.equal(ID, find({ [CGROUP] = "0::/docker/" .. ID }, {}))
    assert.equal(ID, find({ [CGROUP] = "0::/", [MOUNTINFO] = by_mount }, inodes))
    assert.equal("in-1234", find({ [CGROUP] = "0::/" }, inodes))
    assert.equal("in-5678", find({ [CGROUP] = "3:cpu:/a\n2:memory,x:/a\n0::/", [MOUNTINFO] = "" }, inodes))
  end)

  it("is nil on the host, in a root cgroup, or without /proc", function()
    local by_mount = mounted("/var/lib/docker/containers/" .. ID)
    local texts = { [CGROUP] = "0::/user.slice", [MOUNTINFO] = by_mount }
    assert.is_nil(find(texts, { [NAMESPACE] = 4026531835, ["/sys/fs/cgroup/user.slice"] = 9 }))
    assert.is_nil(find(texts, { ["/sys/fs/cgroup/user.slice"] = 9 }))
    assert.is_nil(find({ [CGROUP] = "0::/" }, { [NAMESPACE] = 5, ["/sys/fs/cgroup"] = 1 }))
    assert.is_nil(find({}, {}))
  end)

  it("can be looked for in the environment of this test", function()
    local id = container.find()
    assert.truthy(id == nil or id:find "^[%w-]+$")
  end)
end)
