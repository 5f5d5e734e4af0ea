//! Does the work with `sketches-ddsketch`, a sketch with a fixed relative error.

use sketches_ddsketch::{Config, DDSketch};
use work::{arguments, distribution, print, recorded, sized, time, worst, LAST};

#[global_allocator]
static COUNTED: work::Counted = work::Counted;

/// Finds the smallest relative error with which no bin is lost and the bins fit into the bytes. An application cannot
/// find it beforehand.
fn accuracy(name: &str, budget: usize) {
    let values = distribution(name);
    let mut alpha = 0.0001;
    loop {
        let (sketch, bytes) = sized(|| {
            let mut sketch = DDSketch::new(Config::new(alpha, 1 << 20, 1e-9));
            values.iter().for_each(|v| sketch.add(*v));
            sketch
        });
        if bytes <= budget || alpha > 0.5 {
            let off = worst(&values, |q| sketch.quantile(q).unwrap().unwrap());
            println!("error {:.2} %, chosen for these values\t{off}\t{bytes} bytes", alpha * 100.0);
            return;
        }
        alpha *= 1.1;
    }
}

fn main() {
    let (work, seconds) = arguments();
    let s = work::sequences();
    match work.as_str() {
        "empty" => print("loop", work::empty(&s, seconds)),
        "histogram_kept" => {
            let mut sketch = DDSketch::new(Config::defaults());
            let m = time(seconds, |i| sketch.add(s.values[i & LAST]));
            work::check(m.count(), sketch.count() as u64);
            print("add, one thread only", m.ns);
        }
        "memory_histogram_1" | "memory_histogram_1000" => {
            let values = recorded(work["memory_histogram_".len()..].parse().unwrap());
            let mut sketches = Vec::with_capacity(work::HISTOGRAMS);
            let fill = |resources: &[&'static str]| {
                for _ in resources {
                    let mut sketch = DDSketch::new(Config::defaults());
                    values.iter().for_each(|v| sketch.add(*v));
                    sketches.push(sketch);
                }
            };
            print("resident, without tags", work::memory(work::HISTOGRAMS, fill));
        }
        _ => {
            if let Some(name) = work.strip_prefix("accuracy_") {
                accuracy(name, seconds as usize);
            }
        }
    }
}
