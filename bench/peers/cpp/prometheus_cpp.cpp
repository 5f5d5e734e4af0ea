// Does the work with prometheus-cpp. A series with labels is found by Family::Add, which returns the series that
// exists. For a histogram it first creates a new one and discards it.
//
// The arguments are the name of the work and the seconds of a measure. It prints a line for each way to do that work:
// the way, a tab, the figure.

#include <malloc.h>
#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

using prometheus::Counter;
using prometheus::Family;
using prometheus::Gauge;
using prometheus::Histogram;
using std::string;

namespace {

// Sequences have the length of a power of two, so that an index takes one instruction.
constexpr int kLength = 1024, kLast = kLength - 1, kEndpoints = 40, kCombinations = 80;
constexpr int kNew = 10000, kCounts = 100000, kHistograms = 10000;
const Histogram::BucketBoundaries kBuckets = {0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10};

string endpoints[kLength], statuses[kLength];
double values[kLength];
int steps[kLength];

string status_of(int i) { return i % 2 == 0 ? "success" : "failure"; }

void make_sequences() {
  for (int i = 0; i < kLength; i++) {
    const int combination = i % kCombinations;
    endpoints[i] = "/api/v1/resource/" + std::to_string(combination % kEndpoints);
    statuses[i] = status_of(combination / kEndpoints);
    values[i] = 0.001 * std::pow(10, 3.0 * ((i * 619) % kLength) / kLength);
    steps[i] = 1 + (i * 7) % 8;
  }
}

std::vector<string> resources(int n) {
  std::vector<string> list;
  for (int i = 0; i < n; i++) list.push_back("/api/v1/resource/" + std::to_string(i));
  return list;
}

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// The nanoseconds of an iteration, the sum of all steps, and the number of iterations.
struct Measure {
  double ns = 0, total = 0, count = 0;
};

// Measures one run of about the seconds, after warm-up runs that find out how many iterations that takes. run(n)
// returns the seconds that it took.
template <typename Run>
Measure time_runs(double seconds, Run run) {
  Measure m;
  auto once = [&](long n) {
    double took = run(n);
    double whole = 0, rest = 0;
    for (int i = 0; i < kLength; i++) {
      whole += steps[i];
      if (i < n % kLength) rest += steps[i];
    }
    m.total += static_cast<double>(n / kLength) * whole + rest;
    m.count += static_cast<double>(n);
    return took;
  };
  long n = 20000;
  once(n);
  for (;;) {
    double took = once(n);
    if (took > seconds / 4) {
      n = std::max(1L, static_cast<long>(static_cast<double>(n) * seconds / took));
      break;
    }
    n *= 4;
  }
  m.ns = once(n) / static_cast<double>(n) * 1e9;
  return m;
}

template <typename Each>
double seconds_of(long n, Each each) {
  double started = now();
  for (long i = 0; i < n; i++) each(i);
  return now() - started;
}

template <typename Each>
Measure time(double seconds, Each each) {
  return time_runs(seconds, [&](long n) { return seconds_of(n, each); });
}

template <typename Each>
Measure time_threads(double seconds, Each each) {
  return time_runs(seconds, [&](long n) {
    std::atomic<int> ready{0};
    double took[2];
    auto thread = [&](int k) {
      ready++;
      while (ready < 2) {
      }
      took[k] = seconds_of(n, each);
    };
    std::thread other(thread, 1);
    thread(0);
    other.join();
    return (took[0] + took[1]) / 2;
  });
}

double resident() {
  malloc_trim(0);
  std::ifstream file("/proc/self/smaps_rollup");
  string word;
  double kilobytes = 0;
  while (file >> word) {
    if (word == "Rss:") file >> kilobytes;
  }
  return kilobytes * 1024;
}

// Returns the bytes that a series adds to the process's resident memory, computed from n series.
template <typename Fill>
double memory(int n, Fill fill) {
  const auto list = resources(n);
  double before = resident();
  fill(list);
  return (resident() - before) / n;
}

void print(const string &way, double figure) { std::printf("%s\t%.9g\n", way.c_str(), figure); }

void check(double expected, double found) {
  if (expected != found) {
    std::fprintf(stderr, "the peer has %.17g, expected %.17g\n", found, expected);
    std::exit(1);
  }
}

prometheus::Registry registry;

Family<Counter> &counters(const string &name) { return prometheus::BuildCounter().Name(name).Register(registry); }
Family<Gauge> &gauges(const string &name) { return prometheus::BuildGauge().Name(name).Register(registry); }
Family<Histogram> &histograms(const string &name) { return prometheus::BuildHistogram().Name(name).Register(registry); }

prometheus::Labels labels(const string &endpoint, const string &status) {
  return {{"endpoint", endpoint}, {"status", status}};
}

// Returns the sum of all counters and of all histograms' counts.
double total() {
  double sum = 0;
  for (const auto &family : registry.Collect()) {
    for (const auto &metric : family.metric) {
      sum += metric.counter.value + static_cast<double>(metric.histogram.sample_count);
    }
  }
  return sum;
}

void count_kept(double seconds) {
  Counter &kept = counters("requests").Add(labels("/api", "success"));
  const Measure m = time(seconds, [&](long i) { kept.Increment(steps[i & kLast]); });
  check(m.total, kept.Value());
  print("reference", m.ns);
}

void gauge_kept(double seconds) {
  Gauge &kept = gauges("temperature").Add(labels("/api", "success"));
  print("reference", time(seconds, [&](long i) { kept.Set(values[i & kLast]); }).ns);
}

void histogram_kept(double seconds) {
  Histogram &kept = histograms("latency").Add(labels("/api", "success"), kBuckets);
  const Measure m = time(seconds, [&](long i) { kept.Observe(values[i & kLast]); });
  check(m.count, total());
  print("reference", m.ns);
}

void counts(double seconds, bool threads) {
  auto &requests = counters("requests");
  auto each = [&](long i) {
    const long j = i & kLast;
    requests.Add(labels(endpoints[j], statuses[j])).Increment(steps[j]);
  };
  const Measure m = threads ? time_threads(seconds, each) : time(seconds, each);
  check(m.total * (threads ? 2 : 1), total());
  print("Family::Add", m.ns);
}

void observations(double seconds, bool threads) {
  auto &latency = histograms("latency");
  auto each = [&](long i) {
    const long j = i & kLast;
    latency.Add(labels(endpoints[j], statuses[j]), kBuckets).Observe(values[(i + (i >> 10)) & kLast]);
  };
  const Measure m = threads ? time_threads(seconds, each) : time(seconds, each);
  check(m.count * (threads ? 2 : 1), total());
  print("Family::Add", m.ns);
}

// Creates 10,000 series in each of five new metrics; the figure is the median of the five.
void first_records() {
  const auto list = resources(kNew);
  std::vector<double> times;
  for (int family = 1; family <= 5; family++) {
    double started = now();
    auto &metric = counters("new_" + std::to_string(family));
    for (int i = 0; i < kNew; i++) metric.Add(labels(list[i], status_of(i))).Increment();
    times.push_back((now() - started) / kNew * 1e9);
  }
  std::sort(times.begin(), times.end());
  print("Family::Add", times[2]);
}

void text(double seconds, int n) {
  auto &requests = counters("requests");
  auto &temperature = gauges("temperature");
  auto &latency = histograms("latency");
  const auto list = resources(n);
  for (int i = 0; i < n; i++) {
    const auto tags = labels(list[i], status_of(i));
    if (i % 3 == 0) {
      requests.Add(tags).Increment(i * 7919.0);
    } else if (i % 3 == 1) {
      temperature.Add(tags).Set(i * 0.37);
    } else {
      Histogram &series = latency.Add(tags, kBuckets);
      for (int k = 1; k <= 5; k++) series.Observe(0.001 * k * (i % 50 + 1));
    }
  }
  auto render = [] { return prometheus::TextSerializer().Serialize(registry.Collect()); };
  std::istringstream first(render());
  int lines = 0;
  for (string line; std::getline(first, line);) lines += line[0] != '#';
  std::vector<double> times;
  for (double sum = 0; sum < seconds || times.empty(); sum += times.back()) {
    double started = now();
    const string again = render();
    times.push_back(now() - started + (again.empty() ? 1e9 : 0));
  }
  std::sort(times.begin(), times.end());
  std::printf("Collect and TextSerializer\t%.9g\t%d lines\n", times[times.size() / 2] * 1e3, lines);
}

void memory_count() {
  auto &metric = counters("memory");
  print("resident", memory(kCounts, [&](const std::vector<string> &list) {
          for (int i = 0; i < kCounts; i++) metric.Add(labels(list[i], status_of(i))).Increment();
        }));
}

void memory_histogram(int n) {
  // The minimal standard generator, the same in every program.
  long state = 20240229;
  auto uniform = [&] {
    state = state * 48271 % 2147483647;
    return static_cast<double>(state) / 2147483647;
  };
  std::vector<double> recorded(n);
  for (double &v : recorded) {
    const double radius = std::sqrt(-2 * std::log(uniform()));
    v = 0.02 * std::exp(0.5 * radius * std::cos(2 * M_PI * uniform()));
  }
  auto &metric = histograms("memory");
  print("resident", memory(kHistograms, [&](const std::vector<string> &list) {
          for (int i = 0; i < kHistograms; i++) {
            Histogram &series = metric.Add(labels(list[i], status_of(i)), kBuckets);
            for (double v : recorded) series.Observe(v);
          }
        }));
}

void empty(double seconds) {
  long sum = 0;
  const Measure m = time(seconds, [&](long i) {
    sum += steps[i & kLast];
    asm volatile("" : "+r"(sum));
  });
  print("loop", m.ns);
}

}  // namespace

int main(int argc, char **argv) {
  if (argc < 3) return 2;
  const string work = argv[1];
  const double seconds = std::atof(argv[2]);
  make_sequences();
  if (work == "empty") empty(seconds);
  if (work == "count_kept") count_kept(seconds);
  if (work == "gauge_kept") gauge_kept(seconds);
  if (work == "histogram_kept") histogram_kept(seconds);
  if (work == "count_80" || work == "threads_count_80") counts(seconds, work != "count_80");
  if (work == "histogram_80" || work == "threads_histogram_80") observations(seconds, work != "histogram_80");
  if (work == "new_count") first_records();
  if (work == "text_1000") text(seconds, 1000);
  if (work == "text_100000") text(seconds, 100000);
  if (work == "memory_count") memory_count();
  if (work == "memory_histogram_1") memory_histogram(1);
  if (work == "memory_histogram_1000") memory_histogram(1000);
  return 0;
}
