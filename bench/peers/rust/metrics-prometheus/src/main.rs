//! Does the work with `metrics` and `metrics-exporter-prometheus`. Its histograms keep every value until the upkeep.
//! The exporter normally runs the upkeep every five seconds; here it runs after each measure.

use metrics_exporter_prometheus::PrometheusBuilder;
use work::{arguments, print_text, time_text, timed_text, BUCKETS};

fn main() {
    let (work, seconds) = arguments();
    let handle = PrometheusBuilder::new().set_buckets(&BUCKETS).unwrap().install_recorder().unwrap();
    let total = |metric: &str| {
        let start = format!("{metric}{{");
        let text = handle.render();
        let lines = text.lines().filter(|line| line.starts_with(&start));
        Some(lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum())
    };
    metrics_work::record(&work, seconds, || handle.run_upkeep(), total);
    metrics_work::memory(&work, || handle.run_upkeep());
    if let Some(n) = work.strip_prefix("text_") {
        metrics_work::fill_mixed(n.parse().unwrap());
        handle.run_upkeep();
        print_text("render()", time_text(seconds, || timed_text(|| handle.render())));
    }
}
