//! Does the work with `chalk-metrics`. It has no handles: each record hashes the tags and looks the series up. Closest
//! to a kept handle is its client's function that takes the hash. A flush removes all series, so a rendering shows the
//! records since the flush before.

use chalk_metrics::client::{self, MetricsClient};
use chalk_metrics::export::prometheus::PrometheusExporter;
use chalk_metrics::export::{ExportError, Exporter, FlushedMetric, FlushedValue};
use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use work::{arguments, print, print_text, recorded, time, time_text, time_threads, BUCKETS, LAST};

#[allow(dead_code)]
mod definitions {
    include!(concat!(env!("OUT_DIR"), "/metrics_generated.rs"));
}
use definitions::{Endpoint, Latency, New1, New2, New3, New4, New5, Requests, Status, Temperature};

/// Sums the values of the last flush.
struct Sum;
static TOTAL: AtomicU64 = AtomicU64::new(0);

#[async_trait::async_trait]
impl Exporter for Sum {
    async fn export(&self, metrics: &[FlushedMetric]) -> Result<(), ExportError> {
        for metric in metrics {
            match &metric.value {
                FlushedValue::Count(n) => TOTAL.fetch_add(*n as u64, Relaxed),
                FlushedValue::Histogram(sketch) => TOTAL.fetch_add(sketch.count(), Relaxed),
                FlushedValue::Gauge(_) => 0,
            };
        }
        Ok(())
    }
}

fn check(expected: u64) {
    client::shutdown();
    work::check(expected, TOTAL.load(Relaxed));
}

fn status(text: &str) -> Status {
    if text == "success" {
        Status::Success
    } else {
        Status::Failure
    }
}

fn requests(endpoint: &str, text: &str) -> Requests {
    Requests { endpoint: Endpoint::from(endpoint), status: status(text) }
}

fn latency(endpoint: &str, text: &str) -> Latency {
    Latency { endpoint: Endpoint::from(endpoint), status: status(text) }
}

/// Records into one of the five metrics for new series. The match is needed because metrics are fixed at compile time.
fn first(family: &str, endpoint: Endpoint, status: Status) {
    match family {
        "new_1" => New1 { endpoint, status }.record(),
        "new_2" => New2 { endpoint, status }.record(),
        "new_3" => New3 { endpoint, status }.record(),
        "new_4" => New4 { endpoint, status }.record(),
        _ => New5 { endpoint, status }.record(),
    }
}

type Pairs = Vec<(&'static str, Cow<'static, str>)>;

fn pairs(endpoint: &'static str, status: &'static str) -> Pairs {
    vec![("endpoint", Cow::Owned(endpoint.to_owned())), ("status", Cow::Borrowed(status))]
}

fn main() {
    let (work, seconds) = arguments();
    let s = work::sequences();
    let hour = Duration::from_secs(3600);
    client::builder().with_exporter(Sum).flush_interval(hour).init();
    match work.as_str() {
        "empty" => print("loop", work::empty(&s, seconds)),
        "count_kept" => {
            let hashed = time(seconds, |i| {
                client::record_count("requests", &[], 7, || pairs("/api", "success"), s.steps[i & LAST] as i64)
            });
            print("hash given", hashed.ns);
            let kept = requests("/api", "success");
            let m = time(seconds, |i| kept.record_value(s.steps[i & LAST] as i64));
            print("struct kept", m.ns);
            check(hashed.total(&s) + m.total(&s));
        }
        "gauge_kept" => {
            let hashed = time(seconds, |i| {
                client::record_gauge("temperature", &[], 7, || pairs("/api", "success"), s.values[i & LAST])
            });
            print("hash given", hashed.ns);
            let kept = Temperature { endpoint: Endpoint::from("/api"), status: Status::Success };
            print("struct kept", time(seconds, |i| kept.record(s.values[i & LAST])).ns);
        }
        "count_80" => {
            let made = |i: usize| requests(s.endpoints[i & LAST], s.statuses[i & LAST]);
            let structs: Vec<_> = (0..=LAST).map(made).collect();
            let kept = time(seconds, |i| structs[i & LAST].record_value(s.steps[i & LAST] as i64));
            print("structs kept", kept.ns);
            let m = time(seconds, |i| made(i).record_value(s.steps[i & LAST] as i64));
            print("struct made", m.ns);
            check(kept.total(&s) + m.total(&s));
        }
        "histogram_kept" => {
            let hashed = time(seconds, |i| {
                client::record_histogram("latency", &[], 7, || pairs("/api", "success"), s.values[i & LAST])
            });
            print("hash given", hashed.ns);
            let kept = latency("/api", "success");
            let m = time(seconds, |i| kept.record(s.values[i & LAST]));
            print("struct kept", m.ns);
            check(hashed.count() + m.count());
        }
        "histogram_80" => {
            let made = |i: usize| latency(s.endpoints[i & LAST], s.statuses[i & LAST]);
            let structs: Vec<_> = (0..=LAST).map(made).collect();
            let kept = time(seconds, |i| structs[i & LAST].record(s.value(i)));
            print("structs kept", kept.ns);
            let m = time(seconds, |i| made(i).record(s.value(i)));
            print("struct made", m.ns);
            check(kept.count() + m.count());
        }
        "threads_count_80" => {
            let structs: Vec<_> = (0..=LAST).map(|i| requests(s.endpoints[i], s.statuses[i])).collect();
            let m = time_threads(seconds, |i| structs[i & LAST].record_value(s.steps[i & LAST] as i64));
            print("structs kept", m.ns);
            check(2 * m.total(&s));
        }
        "threads_histogram_80" => {
            let structs: Vec<_> = (0..=LAST).map(|i| latency(s.endpoints[i], s.statuses[i])).collect();
            let m = time_threads(seconds, |i| structs[i & LAST].record(s.value(i)));
            print("structs kept", m.ns);
            check(2 * m.count());
        }
        "new_count" => {
            let ns = work::time_new(|family, resources| {
                for (i, endpoint) in resources.iter().enumerate() {
                    first(family, Endpoint::from(*endpoint), status(work::status(i)));
                }
            });
            print("struct made", ns);
        }
        "text_1000" | "text_100000" => {
            let n = work["text_".len()..].parse().unwrap();
            let client = client::builder().flush_interval(hour).build_local();
            let exporter = PrometheusExporter::builder().bucket_boundaries(BUCKETS.to_vec()).build();
            let resources = work::resources(n);
            let render = || {
                fill_mixed(&client, &resources);
                let started = Instant::now();
                let text = exporter.render_metrics(&client.flush());
                (started.elapsed().as_secs_f64(), text)
            };
            print_text("flush and render_metrics", time_text(seconds, render));
        }
        "memory_count" => {
            let fill = |resources: &[&'static str]| {
                for (i, endpoint) in resources.iter().enumerate() {
                    requests(endpoint, work::status(i)).record();
                }
            };
            print("resident", work::memory(work::COUNTS, fill));
        }
        "memory_histogram_1" | "memory_histogram_1000" => {
            let values = recorded(work["memory_histogram_".len()..].parse().unwrap());
            let fill = |resources: &[&'static str]| {
                for (i, endpoint) in resources.iter().enumerate() {
                    let series = latency(endpoint, work::status(i));
                    values.iter().for_each(|v| series.record(*v));
                }
            };
            print("resident", work::memory(work::HISTOGRAMS, fill));
        }
        _ => {}
    }
}

fn fill_mixed(client: &MetricsClient, resources: &[&'static str]) {
    for (i, endpoint) in resources.iter().enumerate() {
        let make = || pairs(endpoint, work::status(i));
        let hash = (i as u64).wrapping_mul(0x9e3779b97f4a7c15);
        match i % 3 {
            0 => client.record_count("requests", &[], hash, make, i as i64 * 7919),
            1 => client.record_gauge("temperature", &[], hash, make, i as f64 * 0.37),
            _ => {
                for k in 1..=5 {
                    client.record_histogram("latency", &[], hash, make, 0.001 * (k * (i % 50 + 1)) as f64);
                }
            }
        }
    }
}
