--- The addresses of servers that receive packets. If this file fails, a mistyped address is not reported by init, and
--- its user only notices that no data arrives.

local address = require "chalk.net.address"

describe("the address of a receiver", function()
  local function udp(host, port, text)
    assert.same({ kind = "udp", host = host, port = port }, address.parse(text, 8125))
  end

  it("can be a host and a port", function()
    udp("127.0.0.1", 8125, "127.0.0.1:8125")
    udp("datadog-agent.monitoring_x.svc", 1, "datadog-agent.monitoring_x.svc:1")
    udp("::1", 65535, "[::1]:65535")
    udp("fe80::1%eth0", 8125, "[fe80::1%eth0]:8125")
    udp("::ffff:10.0.0.1", 8125, "[::ffff:10.0.0.1]:8125")
    udp("agent", 9125, "udp://agent:9125/")
    udp("agent", 8125, "udp://agent")
    udp("2001:db8::", 8125, "udp://[2001:db8::]")
  end)

  it("can be a socket file of each kind", function()
    assert.same({ kind = "unix", path = "/run/dsd.socket" }, address.parse "unix:///run/dsd.socket")
    assert.same({ kind = "unixgram", path = "/a b" }, address.parse "unixgram:///a b")
    assert.same({ kind = "unixstream", path = "/p" }, address.parse "unixstream:///p")
  end)

  it("is refused with a reason if it is malformed", function()
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

  it("may be a socket file that is missing, but not a path that can never be reached", function()
    local function failing(errno)
      return function() return nil, "x", errno end
    end
    local file = address.parse "unix:///run/dsd.socket"
    assert.is_nil(address.problem(file, failing(2)))
    assert.is_nil(address.problem(file, failing(6)))
    assert.truthy(address.problem(file, failing(13)):find("not allowed", 1, true))
    assert.is_nil(address.problem(address.parse "agent:1", error))
  end)

  it("tells IPv6 addresses from texts that look similar", function()
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
