//! Measures the sketch of `chalk-metrics`. This is a separate program because counting allocations slows them down.

use chalk_metrics::export::UDDSketch;
use work::{arguments, distribution, worst};

#[global_allocator]
static COUNTED: work::Counted = work::Counted;

fn main() {
    let (work, budget) = arguments();
    if let Some(name) = work.strip_prefix("accuracy_") {
        accuracy(name, budget as usize);
    }
}

/// Finds the largest number of buckets with which the sketch fits into the bytes.
fn accuracy(name: &str, budget: usize) {
    let values = distribution(name);
    for buckets in (3..13).rev().map(|bits| (1 << bits) * 7 / 8) {
        let (sketch, bytes) = work::sized(|| {
            let mut sketch = UDDSketch::new(buckets, 0.001);
            values.iter().for_each(|v| sketch.add_value(*v));
            sketch
        });
        if bytes <= budget {
            let off = worst(&values, |q| sketch.estimate_quantile(q));
            println!("{buckets} buckets\t{off}\t{bytes} bytes");
            return;
        }
    }
}
