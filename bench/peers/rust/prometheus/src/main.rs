//! Does the work with `prometheus`. "local" uses its thread-local copies of metrics, which a flush at the end of each
//! run adds to the shared ones.

use prometheus::{Encoder, Gauge, GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry, TextEncoder};
use std::cell::RefCell;
use work::{arguments, print, print_text, recorded, resources, status, time, time_runs, time_text, time_threads};
use work::{timed_text, BUCKETS, LAST};

const TAGS: [&str; 2] = ["endpoint", "status"];

fn registered<T: prometheus::core::Collector + Clone + 'static>(registry: &Registry, metric: T) -> T {
    registry.register(Box::new(metric.clone())).unwrap();
    metric
}

fn counters(registry: &Registry, name: &str) -> IntCounterVec {
    registered(registry, IntCounterVec::new(Opts::new(name, "help"), &TAGS).unwrap())
}

fn histograms(registry: &Registry, name: &str) -> HistogramVec {
    let options = HistogramOpts::new(name, "help").buckets(BUCKETS.to_vec());
    registered(registry, HistogramVec::new(options, &TAGS).unwrap())
}

/// Returns the sum of all counters, or of all histograms' counts.
fn total(registry: &Registry) -> u64 {
    let families = registry.gather();
    let metrics = families.iter().flat_map(|family| family.get_metric());
    metrics.map(|m| m.get_counter().get_value() as u64 + m.get_histogram().get_sample_count()).sum()
}

fn seconds_of(n: usize, each: impl FnMut(usize)) -> f64 {
    let started = std::time::Instant::now();
    (0..n).for_each(each);
    started.elapsed().as_secs_f64()
}

fn main() {
    let (work, seconds) = arguments();
    let s = work::sequences();
    let registry = Registry::new();
    let tags = |i: usize| [s.endpoints[i & LAST], s.statuses[i & LAST]];
    match work.as_str() {
        "empty" => print("loop", work::empty(&s, seconds)),
        "count_kept" => {
            let kept = counters(&registry, "requests").with_label_values(&["/api", "success"]);
            let shared = time(seconds, |i| kept.inc_by(s.steps[i & LAST]));
            print("handle", shared.ns);
            let local = kept.local();
            let local_runs = time_runs(seconds, |n| {
                let took = seconds_of(n, |i| local.inc_by(s.steps[i & LAST]));
                local.flush();
                took
            });
            work::check(shared.total(&s) + local_runs.total(&s), total(&registry));
            print("local handle", local_runs.ns);
        }
        "gauge_kept" => {
            let kept = registered(&registry, Gauge::new("temperature", "help").unwrap());
            print("handle", time(seconds, |i| kept.set(s.values[i & LAST])).ns);
        }
        "count_80" => {
            let requests = counters(&registry, "requests");
            let shared = time(seconds, |i| requests.with_label_values(&tags(i)).inc_by(s.steps[i & LAST]));
            print("with_label_values", shared.ns);
            let local = RefCell::new(requests.local());
            let local_runs = time_runs(seconds, |n| {
                let mut local = local.borrow_mut();
                let took = seconds_of(n, |i| local.with_label_values(&tags(i)).inc_by(s.steps[i & LAST]));
                local.flush();
                took
            });
            work::check(shared.total(&s) + local_runs.total(&s), total(&registry));
            print("local with_label_values", local_runs.ns);
        }
        "histogram_kept" => {
            let kept = histograms(&registry, "latency").with_label_values(&["/api", "success"]);
            let shared = time(seconds, |i| kept.observe(s.values[i & LAST]));
            print("handle", shared.ns);
            let local = kept.local();
            let local_runs = time_runs(seconds, |n| {
                let took = seconds_of(n, |i| local.observe(s.values[i & LAST]));
                local.flush();
                took
            });
            work::check(shared.count() + local_runs.count(), total(&registry));
            print("local handle", local_runs.ns);
        }
        "histogram_80" => {
            let latency = histograms(&registry, "latency");
            let shared = time(seconds, |i| latency.with_label_values(&tags(i)).observe(s.value(i)));
            print("with_label_values", shared.ns);
            let local = RefCell::new(latency.local());
            let local_runs = time_runs(seconds, |n| {
                let mut local = local.borrow_mut();
                let took = seconds_of(n, |i| local.with_label_values(&tags(i)).observe(s.value(i)));
                local.flush();
                took
            });
            work::check(shared.count() + local_runs.count(), total(&registry));
            print("local with_label_values", local_runs.ns);
        }
        "threads_count_80" => {
            let requests = counters(&registry, "requests");
            let m = time_threads(seconds, |i| requests.with_label_values(&tags(i)).inc_by(s.steps[i & LAST]));
            work::check(2 * m.total(&s), total(&registry));
            print("with_label_values", m.ns);
        }
        "threads_histogram_80" => {
            let latency = histograms(&registry, "latency");
            let m = time_threads(seconds, |i| latency.with_label_values(&tags(i)).observe(s.value(i)));
            work::check(2 * m.count(), total(&registry));
            print("with_label_values", m.ns);
        }
        "new_count" => {
            let ns = work::time_new(|family, resources| {
                let requests = counters(&registry, family);
                for (i, endpoint) in resources.iter().enumerate() {
                    requests.with_label_values(&[endpoint, status(i)]).inc();
                }
            });
            print("with_label_values", ns);
        }
        "text_1000" | "text_100000" => {
            fill_mixed(&registry, work["text_".len()..].parse().unwrap());
            let encode = || {
                let mut text = Vec::new();
                TextEncoder::new().encode(&registry.gather(), &mut text).unwrap();
                String::from_utf8(text).unwrap()
            };
            print_text("gather and TextEncoder", time_text(seconds, || timed_text(encode)));
        }
        "memory_count" => {
            let metric = counters(&registry, "memory");
            let fill = |resources: &[&'static str]| {
                for (i, endpoint) in resources.iter().enumerate() {
                    metric.with_label_values(&[endpoint, status(i)]).inc();
                }
            };
            print("resident", work::memory(work::COUNTS, fill));
        }
        "memory_histogram_1" | "memory_histogram_1000" => {
            let values = recorded(work["memory_histogram_".len()..].parse().unwrap());
            let metric = histograms(&registry, "memory");
            let fill = |resources: &[&'static str]| {
                for (i, endpoint) in resources.iter().enumerate() {
                    let series = metric.with_label_values(&[endpoint, status(i)]);
                    values.iter().for_each(|v| series.observe(*v));
                }
            };
            print("resident", work::memory(work::HISTOGRAMS, fill));
        }
        _ => {}
    }
}

fn fill_mixed(registry: &Registry, n: usize) {
    let requests = counters(registry, "requests");
    let temperature = registered(registry, GaugeVec::new(Opts::new("temperature", "help"), &TAGS).unwrap());
    let latency = histograms(registry, "latency");
    for (i, endpoint) in resources(n).iter().enumerate() {
        let tags = [*endpoint, status(i)];
        match i % 3 {
            0 => requests.with_label_values(&tags).inc_by(i as u64 * 7919),
            1 => temperature.with_label_values(&tags).set(i as f64 * 0.37),
            _ => {
                let series = latency.with_label_values(&tags);
                (1..=5).for_each(|k| series.observe(0.001 * (k * (i % 50 + 1)) as f64));
            }
        }
    }
}
