//! The tags, values and timing that the programs of all peers share.
//!
//! The arguments of a program are the name of the work and the seconds of a measure. It prints a line for each way to
//! do that work: the way, a tab, the figure. It prints nothing for work that the peer cannot do.

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::Barrier;
use std::time::Instant;

/// Sequences have the length of a power of two, so that an index takes one instruction.
pub const LENGTH: usize = 1024;
pub const LAST: usize = LENGTH - 1;
pub const ENDPOINTS: usize = 40;
pub const COMBINATIONS: usize = 80;
pub const BUCKETS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

pub struct Sequences {
    pub endpoints: Vec<&'static str>,
    pub statuses: Vec<&'static str>,
    pub values: Vec<f64>,
    pub steps: Vec<u64>,
}

fn leak(text: String) -> &'static str {
    Box::leak(text.into_boxed_str())
}

pub fn status(i: usize) -> &'static str {
    if i.is_multiple_of(2) {
        "success"
    } else {
        "failure"
    }
}

pub fn sequences() -> Sequences {
    let endpoints: Vec<_> = (0..ENDPOINTS).map(|i| leak(format!("/api/v1/resource/{i}"))).collect();
    let combination = |i: usize| i % COMBINATIONS;
    Sequences {
        endpoints: (0..LENGTH).map(|i| endpoints[combination(i) % ENDPOINTS]).collect(),
        statuses: (0..LENGTH).map(|i| status(combination(i) / ENDPOINTS)).collect(),
        values: (0..LENGTH).map(|i| 0.001 * 10f64.powf(3.0 * ((i * 619) % LENGTH) as f64 / LENGTH as f64)).collect(),
        steps: (0..LENGTH).map(|i| 1 + (i as u64 * 7) % 8).collect(),
    }
}

/// Returns a distinct tag value for each of n series.
pub fn resources(n: usize) -> Vec<&'static str> {
    (0..n).map(|i| leak(format!("/api/v1/resource/{i}"))).collect()
}

impl Sequences {
    /// Returns the index of iteration i's value. It shifts against that of the combination, so that every combination
    /// gets all values.
    #[inline(always)]
    pub fn value(&self, i: usize) -> f64 {
        self.values[(i + (i >> 10)) & LAST]
    }

    /// Returns the sum of the steps of n iterations.
    pub fn total(&self, n: usize) -> u64 {
        let whole: u64 = self.steps.iter().sum();
        whole * (n / LENGTH) as u64 + self.steps[..n % LENGTH].iter().sum::<u64>()
    }
}

/// A measure and the number of iterations, warm-up included.
pub struct Measure {
    pub ns: f64,
    pub runs: Vec<usize>,
}

impl Measure {
    pub fn total(&self, s: &Sequences) -> u64 {
        self.runs.iter().map(|n| s.total(*n)).sum()
    }

    pub fn count(&self) -> u64 {
        self.runs.iter().map(|n| *n as u64).sum()
    }
}

/// Measures the nanoseconds of an iteration in one run of about `seconds`, after warm-up runs that find out how many
/// iterations that takes.
pub fn time(seconds: f64, mut each: impl FnMut(usize)) -> Measure {
    time_runs(seconds, |n| {
        let started = Instant::now();
        for i in 0..n {
            each(i);
        }
        started.elapsed().as_secs_f64()
    })
}

/// Measures a function that runs n iterations and returns the seconds they took.
pub fn time_runs(seconds: f64, mut run: impl FnMut(usize) -> f64) -> Measure {
    let mut n = 20_000;
    let mut runs = vec![n];
    run(n);
    loop {
        let took = run(n);
        runs.push(n);
        if took > seconds / 4.0 {
            n = ((n as f64 * seconds / took) as usize).max(1);
            break;
        }
        n *= 4;
    }
    let took = run(n);
    runs.push(n);
    Measure { ns: took / n as f64 * 1e9, runs }
}

/// Measures an iteration in two threads at once and returns the mean of both.
pub fn time_threads(seconds: f64, each: impl Fn(usize) + Sync) -> Measure {
    let both = |n: usize| {
        let barrier = Barrier::new(2);
        let thread = || {
            barrier.wait();
            let started = Instant::now();
            for i in 0..n {
                each(i);
            }
            started.elapsed().as_secs_f64()
        };
        std::thread::scope(|scope| {
            let other = scope.spawn(thread);
            (thread() + other.join().unwrap()) / 2.0
        })
    };
    time_runs(seconds, both)
}

/// Measures the loop alone, with the reads that the other loops have too.
pub fn empty(s: &Sequences, seconds: f64) -> f64 {
    let mut sum = 0u64;
    let measure = time(seconds, |i| sum = sum.wrapping_add(black_box(s.steps[i & LAST])));
    black_box(sum);
    measure.ns
}

pub const NEW: usize = 10_000;
pub const FAMILIES: [&str; 5] = ["new_1", "new_2", "new_3", "new_4", "new_5"];

/// Measures the nanoseconds of a first record: 10,000 series in each of five new metrics. The figure is the median of
/// the five.
pub fn time_new(mut family: impl FnMut(&'static str, &[&'static str])) -> f64 {
    let resources = resources(NEW);
    let mut times: Vec<f64> = FAMILIES
        .iter()
        .map(|name| {
            let started = Instant::now();
            family(name, &resources);
            started.elapsed().as_secs_f64() / NEW as f64 * 1e9
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[2]
}

/// Prints the milliseconds of a rendering and the number of its samples. `render` returns the seconds that count.
pub fn time_text(seconds: f64, mut render: impl FnMut() -> (f64, String)) -> (f64, usize) {
    let (_, text) = render();
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).count();
    let (mut times, mut sum) = (Vec::new(), 0.0);
    while times.is_empty() || sum < seconds {
        let (took, again) = render();
        assert!(again.len() * 2 > text.len(), "a later rendering is short");
        times.push(took);
        sum += took;
    }
    times.sort_by(f64::total_cmp);
    (times[times.len() / 2] * 1e3, lines)
}

pub fn timed_text(f: impl FnOnce() -> String) -> (f64, String) {
    let started = Instant::now();
    let text = f();
    (started.elapsed().as_secs_f64(), text)
}

/// Returns the bytes that a series adds to the process's resident memory, computed from n series. Freed memory is
/// returned to the system before each reading.
pub fn memory(n: usize, fill: impl FnOnce(&[&'static str])) -> f64 {
    let resources = resources(n);
    let before = resident();
    fill(&resources);
    (resident() - before) / n as f64
}

fn resident() -> f64 {
    unsafe { libc::malloc_trim(0) };
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = text.lines().find(|line| line.starts_with("Rss:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() * 1024.0
}

/// The number of series from which the memory of a histogram is computed.
pub const HISTOGRAMS: usize = 10_000;
pub const COUNTS: usize = 100_000;

/// Uniform in (0, 1): the minimal standard generator, the same in every program.
pub struct Uniform(u64);

impl Default for Uniform {
    fn default() -> Self {
        Uniform(20240229)
    }
}

impl Uniform {
    pub fn next(&mut self) -> f64 {
        self.0 = self.0 * 48271 % 2147483647;
        self.0 as f64 / 2147483647.0
    }

    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * self.next().ln()).sqrt();
        radius * (2.0 * std::f64::consts::PI * self.next()).cos()
    }
}

/// Returns the lognormal values that are recorded into each histogram whose memory is measured.
pub fn recorded(values: usize) -> Vec<f64> {
    let mut uniform = Uniform::default();
    (0..values).map(|_| 0.02 * (0.5 * uniform.normal()).exp()).collect()
}

/// Returns a million values of a distribution of docs/accuracy.md.
pub fn distribution(name: &str) -> Vec<f64> {
    let mut u = Uniform::default();
    let mut draw = || match name {
        "lognormal" => (0.5 * u.normal()).exp(),
        "exponential" => -u.next().ln(),
        "bimodal" => {
            let peak = if u.next() < 0.5 { 0.001 } else { 10.0 };
            peak * (0.05 * u.normal()).exp()
        }
        _ => panic!("unknown distribution: {name}"),
    };
    (0..1_000_000).map(|_| draw()).collect()
}

/// Returns the worst relative error of p50, p90, p99 and p99.9, in percent.
pub fn worst(values: &[f64], quantile: impl Fn(f64) -> f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    [0.5, 0.9, 0.99, 0.999].iter().fold(0.0, |worst: f64, q| {
        let exact = sorted[(q * (values.len() - 1) as f64) as usize];
        worst.max((quantile(*q) - exact).abs() / exact * 100.0)
    })
}

/// An allocator that counts the bytes in use, for programs that install it.
pub struct Counted;
static IN_USE: AtomicUsize = AtomicUsize::new(0);

unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        IN_USE.fetch_add(layout.size(), Relaxed);
        System.alloc(layout)
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Relaxed);
        System.dealloc(pointer, layout)
    }
}

pub fn in_use() -> usize {
    IN_USE.load(Relaxed)
}

/// Returns the bytes of a value that `make` makes, with the value itself.
pub fn sized<T>(make: impl FnOnce() -> T) -> (T, usize) {
    let before = in_use();
    let made = make();
    let bytes = in_use() - before + std::mem::size_of::<T>();
    (made, bytes)
}

pub fn check<T: PartialEq + std::fmt::Debug>(expected: T, found: T) {
    assert_eq!(expected, found, "the peer has another total than was recorded");
}

pub fn print(way: &str, figure: f64) {
    println!("{way}\t{figure}");
}

pub fn print_text(way: &str, (ms, lines): (f64, usize)) {
    println!("{way}\t{ms}\t{lines} lines");
}

/// Returns the name of the work and the seconds of a measure, from the command line.
pub fn arguments() -> (String, f64) {
    let mut arguments = std::env::args().skip(1);
    let work = arguments.next().expect("the first argument is the name of a work");
    (work, arguments.next().and_then(|text| text.parse().ok()).unwrap_or(0.1))
}
