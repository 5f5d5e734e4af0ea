//! Does the work with `metrics` and `metrics-exporter-dogstatsd`, which sends to a socket that nothing reads.

use metrics_exporter_dogstatsd::DogStatsDBuilder;
use std::net::UdpSocket;
use std::time::Duration;

fn main() {
    let (work, seconds) = work::arguments();
    let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = receiver.local_addr().unwrap().to_string();
    let builder = DogStatsDBuilder::default().with_remote_address(address).unwrap();
    builder.with_flush_interval(Duration::from_secs(3600)).install().unwrap();
    metrics_work::record(&work, seconds, || (), |_| None);
    metrics_work::memory(&work, || ());
}
