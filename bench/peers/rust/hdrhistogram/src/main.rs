//! Does the work with `hdrhistogram`, whose histograms hold whole numbers: here microseconds up to an hour, with three
//! digits.

use hdrhistogram::sync::SyncHistogram;
use hdrhistogram::Histogram;
use work::{arguments, distribution, print, recorded, time, worst, LAST};

const HOUR: u64 = 3_600_000_000;
const SCALE: f64 = 1e6;

/// Returns the sketch with the most digits that fits into the bytes with counts of 32 bits. It needs the range of
/// values beforehand.
fn accuracy(name: &str, budget: usize) {
    let values = distribution(name);
    let low = values.iter().cloned().fold(f64::INFINITY, f64::min);
    let high = values.iter().cloned().fold(0.0, f64::max);
    // A unit is a millionth of the smallest value, or as small as 2^62 allows.
    let scale = (1e6 / low).min((1u64 << 62) as f64 / high);
    let bounds = (((low * scale) as u64).max(1), ((high * scale) as u64).max(2) + 1);
    let fits = |digits: u8| {
        let histogram = Histogram::<u32>::new_with_bounds(bounds.0, bounds.1, digits).unwrap();
        let bytes = histogram.distinct_values() * 4;
        (bytes <= budget || digits == 0).then_some((histogram, bytes, digits))
    };
    let (mut histogram, bytes, digits) = (0..=5).rev().find_map(fits).unwrap();
    values.iter().for_each(|v| histogram.record((v * scale) as u64).unwrap());
    let off = worst(&values, |q| histogram.value_at_quantile(q) as f64 / scale);
    println!("{digits} digits, the range known before\t{off}\t{bytes} bytes");
}

fn main() {
    let (work, seconds) = arguments();
    let s = work::sequences();
    match work.as_str() {
        "empty" => print("loop", work::empty(&s, seconds)),
        "histogram_kept" => {
            let mut histogram = Histogram::<u64>::new_with_bounds(1, HOUR, 3).unwrap();
            let m = time(seconds, |i| histogram.record((s.values[i & LAST] * SCALE) as u64).unwrap());
            work::check(m.count(), histogram.len());
            print("record, one thread only", m.ns);
            let shared = SyncHistogram::from(Histogram::<u64>::new_with_bounds(1, HOUR, 3).unwrap());
            let mut recorder = shared.recorder();
            let m = time(seconds, |i| recorder.record((s.values[i & LAST] * SCALE) as u64).unwrap());
            print("recorder of a SyncHistogram", m.ns);
        }
        "memory_histogram_1" | "memory_histogram_1000" => {
            let values = recorded(work["memory_histogram_".len()..].parse().unwrap());
            let mut histograms = Vec::with_capacity(work::HISTOGRAMS);
            let fill = |resources: &[&'static str]| {
                for _ in resources {
                    let mut histogram = Histogram::<u64>::new_with_bounds(1, HOUR, 3).unwrap();
                    values.iter().for_each(|v| histogram.record((v * SCALE) as u64).unwrap());
                    histograms.push(histogram);
                }
            };
            print("resident, without tags; 1 us to 1 h, 3 digits", work::memory(work::HISTOGRAMS, fill));
        }
        _ => {
            if let Some(name) = work.strip_prefix("accuracy_") {
                accuracy(name, seconds as usize);
            }
        }
    }
}
