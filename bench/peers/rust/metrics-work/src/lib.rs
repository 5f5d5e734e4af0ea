//! The record paths of `metrics` with any recorder. Tag values are `&'static str`, which the macros need not copy;
//! "owned" copies them, as an application must whose values are not static.

use metrics::{counter, gauge, histogram};
use work::{print, resources, status, time, time_runs, time_threads, Measure, Sequences, LAST};

/// Runs the work if it records. `settle` does the recorder's regular work on recorded values; `total` returns the sum
/// of all series of a metric, if the recorder can compute it.
pub fn record(work: &str, seconds: f64, settle: impl Fn(), total: impl Fn(&str) -> Option<u64>) {
    let s = work::sequences();
    let timed = |each: &dyn Fn(usize)| time(seconds, each);
    let check = |metric: &str, expected: u64| {
        settle();
        if let Some(found) = total(metric) {
            work::check(expected, found);
        }
    };
    match work {
        "empty" => print("loop", work::empty(&s, seconds)),
        "count_kept" => {
            let kept = counter!("kept", "endpoint" => "/api", "status" => "success");
            let measure = time(seconds, |i| kept.increment(s.steps[i & LAST]));
            check("kept", measure.total(&s));
            print("handle", measure.ns);
        }
        "gauge_kept" => {
            let kept = gauge!("temperature", "endpoint" => "/api", "status" => "success");
            print("handle", time(seconds, |i| kept.set(s.values[i & LAST])).ns);
        }
        "count_80" => {
            let measure = time(seconds, |i| count(&s, i, "requests"));
            check("requests", measure.total(&s));
            print("macro, static tags", measure.ns);
            let owned = |i: usize| {
                let (endpoint, status) = (s.endpoints[i & LAST].to_owned(), s.statuses[i & LAST].to_owned());
                counter!("owned", "endpoint" => endpoint, "status" => status).increment(s.steps[i & LAST]);
            };
            print("macro, owned tags", timed(&owned).ns);
        }
        "histogram_kept" => {
            let kept = histogram!("latency", "endpoint" => "/api", "status" => "success");
            print_histogram(
                seconds,
                &settle,
                |i| kept.record(s.values[i & LAST]),
                "handle",
                |measure| check("latency_count", measure.count()),
            );
        }
        "histogram_80" => {
            let way = "macro, static tags";
            print_histogram(
                seconds,
                &settle,
                |i| observe(&s, i, "latency"),
                way,
                |measure| check("latency_count", measure.count()),
            );
        }
        "threads_count_80" => {
            let measure = time_threads(seconds, |i| count(&s, i, "requests"));
            check("requests", 2 * measure.total(&s));
            print("macro, static tags", measure.ns);
        }
        "threads_histogram_80" => {
            let measure = time_threads(seconds, |i| observe(&s, i, "latency"));
            check("latency_count", 2 * measure.count());
            print("macro, static tags", measure.ns);
        }
        "new_count" => {
            let ns = work::time_new(|family, resources| {
                for (i, endpoint) in resources.iter().enumerate() {
                    counter!(family, "endpoint" => *endpoint, "status" => status(i)).increment(1);
                }
            });
            print("macro, static tags", ns);
        }
        _ => {}
    }
}

/// Makes one record, to see whether the recorder notices it.
pub fn touch() {
    counter!("touch").increment(1);
}

/// Measures the records, the recorder's later work on them, and both together.
fn print_histogram(seconds: f64, settle: &impl Fn(), each: impl Fn(usize), way: &str, check: impl Fn(&Measure)) {
    let started = std::time::Instant::now;
    let later = std::cell::Cell::new(0.0);
    let measure = time_runs(seconds, |n| {
        let start = started();
        (0..n).for_each(&each);
        let took = start.elapsed().as_secs_f64();
        settle();
        later.set((start.elapsed().as_secs_f64() - took) / n as f64 * 1e9);
        took
    });
    check(&measure);
    print(way, measure.ns);
    if later.get() > 0.1 {
        print(&format!("{way}; with its upkeep"), measure.ns + later.get());
    }
}

#[inline(always)]
fn count(s: &Sequences, i: usize, name: &'static str) {
    let (endpoint, status) = (s.endpoints[i & LAST], s.statuses[i & LAST]);
    counter!(name, "endpoint" => endpoint, "status" => status).increment(s.steps[i & LAST]);
}

#[inline(always)]
fn observe(s: &Sequences, i: usize, name: &'static str) {
    let (endpoint, status) = (s.endpoints[i & LAST], s.statuses[i & LAST]);
    histogram!(name, "endpoint" => endpoint, "status" => status).record(s.value(i));
}

/// Measures the memory that the recorder keeps for a series.
pub fn memory(work: &str, settle: impl Fn()) {
    let (n, values) = match work {
        "memory_count" => (work::COUNTS, 0),
        "memory_histogram_1" => (work::HISTOGRAMS, 1),
        "memory_histogram_1000" => (work::HISTOGRAMS, 1000),
        _ => return,
    };
    let values = work::recorded(values);
    let bytes = work::memory(n, |resources| {
        for (i, endpoint) in resources.iter().enumerate() {
            if values.is_empty() {
                counter!("memory", "endpoint" => *endpoint, "status" => status(i)).increment(1);
            } else {
                let series = histogram!("memory", "endpoint" => *endpoint, "status" => status(i));
                values.iter().for_each(|v| series.record(*v));
                if i % 1000 == 999 {
                    settle();
                }
            }
        }
        settle();
    });
    print("resident", bytes);
}

/// Records into n series of all kinds.
pub fn fill_mixed(n: usize) {
    for (i, endpoint) in resources(n).iter().enumerate() {
        let status = status(i);
        match i % 3 {
            0 => counter!("requests", "endpoint" => *endpoint, "status" => status).increment(i as u64 * 7919),
            1 => gauge!("temperature", "endpoint" => *endpoint, "status" => status).set(i as f64 * 0.37),
            _ => {
                let series = histogram!("latency", "endpoint" => *endpoint, "status" => status);
                (1..=5).for_each(|k| series.record(0.001 * (k * (i % 50 + 1)) as f64));
            }
        }
    }
}
