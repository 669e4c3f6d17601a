//! What systemd is told, with a socket of this test in its place.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use testkit::{Broker, PATIENCE};

const BINARY: &str = env!("CARGO_BIN_EXE_tidegate");

fn next(manager: &UnixDatagram) -> String {
    manager.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut bytes = [0; 4_096];
    let length = manager.recv(&mut bytes).expect("a datagram");
    String::from_utf8(bytes[..length].to_vec()).expect("UTF-8")
}

/// The next datagram with this assignment.
fn told(manager: &UnixDatagram, assignment: &str) -> String {
    let end = Instant::now() + PATIENCE;
    loop {
        let text = next(manager);
        if text.lines().any(|line| line == assignment) {
            return text;
        }
        assert!(Instant::now() < end, "no {assignment}, but {text}");
    }
}

#[test]
fn ready_pulse_reload_and_stop_by_a_path() {
    let path = std::env::temp_dir().join(format!("tidegate-notify-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let manager = UnixDatagram::bind(&path).expect("a socket");
    let name = path.to_str().expect("UTF-8");
    let variables = [("NOTIFY_SOCKET", name), ("WATCHDOG_USEC", "400000")];
    let mut broker = Broker::start_in(BINARY, "", &["--shards", "2"], &variables);

    let ready = told(&manager, "READY=1");
    let status = format!("STATUS=Serving MQTT on {}", broker.mqtt);
    assert!(ready.lines().any(|line| line == status), "{ready}");

    let began = Instant::now();
    (0..6).for_each(|_| drop(told(&manager, "WATCHDOG=1")));
    let took = began.elapsed();
    assert!(took > Duration::from_millis(800), "twice an interval, not always: {took:?}");

    broker.signal("-HUP");
    let reloading = told(&manager, "RELOADING=1");
    assert!(reloading.contains("\nMONOTONIC_USEC="), "{reloading}");
    told(&manager, "READY=1");

    broker.signal("-TERM");
    let stopping = told(&manager, "STOPPING=1");
    assert!(stopping.contains("\nEXTEND_TIMEOUT_USEC=35000000"), "{stopping}");
    // The terminated broker is waited for, not signalled again.
    let end = Instant::now() + PATIENCE;
    while broker.alive() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(!broker.alive());
    let _ = std::fs::remove_file(path);
}

#[test]
fn ready_by_an_abstract_name_and_no_pulse_unless_asked_for() {
    let name = format!("tidegate-notify-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).expect("a short name");
    let manager = UnixDatagram::bind_addr(&address).expect("a free name");
    let variables = [
        ("NOTIFY_SOCKET", &*format!("@{name}")),
        ("WATCHDOG_USEC", "100000"),
        ("WATCHDOG_PID", "1"),
    ];
    let mut broker = Broker::start_in(BINARY, "", &["--shards", "2"], &variables);
    told(&manager, "READY=1");
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(broker.terminate(), Some(0));
    assert!(next(&manager).starts_with("STOPPING=1\n"), "the pulse is another process's affair");
}

#[test]
fn a_manager_that_is_not_there_is_no_reason_not_to_run() {
    let variables = [("NOTIFY_SOCKET", "/nonexistent/notify")];
    let mut broker = Broker::start_in(BINARY, "", &["--shards", "2"], &variables);
    assert_eq!(broker.get("/readyz").0, 200);
    assert_eq!(broker.terminate(), Some(0));
}
