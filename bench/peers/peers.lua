-- The peers: where the source of each program is, how it is built, and what the build needs. Versions are pinned in
-- rust/*/Cargo.toml with rust/Cargo.lock, and in go/go.mod with go/go.sum. The C++ peer is Debian's package.

local HERE = "bench/peers/"
local RUST, GO, CPP = "build/peers/rust", "build/peers/go", "build/peers/cpp"

local CARGO = "cargo build --quiet --release --locked --manifest-path %srust/Cargo.toml --target-dir %s -p peer-%s"
local CXX = "mkdir -p %s && c++ -std=c++17 -O3 -o %s/prometheus_cpp %scpp/prometheus_cpp.cpp %s"
local GO_BUILD = "mkdir -p %s && out=$(realpath %s) && cd %sgo && go build -trimpath -o $out/ ./%s"

local function rust(name, version, package, more)
  local peer = {
    name = name,
    version = version,
    language = "Rust",
    tool = "cargo",
    build = CARGO:format(HERE, RUST, package),
    program = ("%s/release/peer-%s"):format(RUST, package),
  }
  for key, value in pairs(more or {}) do
    peer[key] = value
  end
  return peer
end

local function go(name, version, package)
  return {
    name = name,
    version = version,
    language = "Go",
    tool = "go",
    build = GO_BUILD:format(GO, GO, HERE, package),
    program = GO .. "/" .. package,
  }
end

return {
  rust("metrics + exporter-prometheus", "0.24.6, 0.18.3", "metrics-prometheus"),
  rust("metrics + exporter-dogstatsd", "0.24.6, 0.9.8", "metrics-dogstatsd"),
  rust("metrics + exporter-tcp", "0.24.6, 0.11.2", "metrics-tcp", {
    package = "protobuf-compiler",
    has_package = "command -v protoc",
  }),
  rust("prometheus", "0.14.0", "prometheus"),
  rust("chalk-metrics", "0.0.0", "chalk-metrics", {
    accuracy = RUST .. "/release/peer-chalk-metrics-accuracy",
  }),
  rust("hdrhistogram", "7.6.0", "hdrhistogram"),
  rust("sketches-ddsketch", "0.4.2", "ddsketch"),
  go("client_golang", "1.25.0", "client_golang"),
  go("VictoriaMetrics/metrics", "1.35.1", "victoriametrics"),
  {
    name = "prometheus-cpp",
    version = "Debian's",
    version_command = "dpkg-query -W -f '${Version}' prometheus-cpp-dev",
    language = "C++",
    tool = "c++",
    package = "prometheus-cpp-dev",
    has_package = "echo '#include <prometheus/registry.h>' | c++ -std=c++17 -fsyntax-only -x c++ -",
    build = CXX:format(CPP, CPP, HERE, "-lprometheus-cpp-core -pthread"),
    program = CPP .. "/prometheus_cpp",
  },
}
