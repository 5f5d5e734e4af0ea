//! Does the work with `metrics` and `metrics-exporter-tcp`, which keeps no totals: it hands each record to a thread
//! that sends it to the clients. Without a client it does nothing, so here one is connected and reads. Records that the
//! thread is too slow for are lost.

use metrics_exporter_tcp::TcpBuilder;
use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn main() {
    let (work, seconds) = work::arguments();
    let address = free_address();
    TcpBuilder::new().listen_address(address).install().unwrap();
    let mut client = TcpStream::connect(address).unwrap();
    // The client receives something once the exporter knows of it.
    let (mut buffer, mut known) = ([0; 65536], false);
    client.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
    for _ in 0..1000 {
        metrics_work::touch();
        known = matches!(client.read(&mut buffer), Ok(n) if n > 0);
        if known {
            break;
        }
    }
    assert!(known, "the exporter sends nothing");
    client.set_read_timeout(None).unwrap();
    std::thread::spawn(move || while matches!(client.read(&mut buffer), Ok(n) if n > 0) {});
    metrics_work::record(&work, seconds, || (), |_| None);
}
