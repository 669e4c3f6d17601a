//! What probes are told.

mod admin_rig;

use std::io::Read;
use std::time::{Duration, Instant};

use admin_rig::Rig;
use tidegate::telemetry::health::Phase;

#[test]
fn readyz_is_200_only_between_ready_and_drain() {
    let rig = Rig::new(1);
    let told = || {
        let answer = rig.get("/readyz");
        (answer.status, answer.body)
    };
    assert_eq!(told(), (503, "starting\n".into()));
    rig.enter(Phase::Ready);
    assert_eq!(told(), (200, "ready\n".into()));
    rig.enter(Phase::Draining);
    assert_eq!(told(), (503, "draining\n".into()));
    assert_eq!(rig.get("/livez").status, 200, "a drain is no reason to be killed");
    assert!(rig.get("/metrics").body.contains("\ntidegate_drain_state 1\n"));
}

#[test]
fn livez_is_503_when_a_shard_takes_no_turn() {
    let rig = Rig::new(2);
    std::thread::sleep(Duration::from_millis(1_500));
    assert_eq!(rig.get("/livez").status, 200);
    rig.hang_shards();
    let began = Instant::now();
    let answer = loop {
        let answer = rig.get("/livez");
        if answer.status != 200 || began.elapsed() > Duration::from_secs(20) {
            break answer;
        }
        std::thread::sleep(Duration::from_millis(200));
    };
    assert_eq!(answer.status, 503);
    assert!(answer.body.contains("has taken no turn for 10 s"), "{}", answer.body);
    assert!(began.elapsed() > Duration::from_secs(7), "not at the first slow turn");
    assert_eq!(rig.get("/health").status, 503);
}

#[test]
fn health_is_json_and_ping_is_pong() {
    let rig = Rig::new(3);
    rig.enter(Phase::Ready);
    rig.counters()[0].connections.set(2);
    rig.counters()[2].connections.set(5);
    let answer = rig.get("/health");
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    let health: serde_json::Value = serde_json::from_str(&answer.body).expect("JSON");
    assert_eq!(health["status"], "ready");
    assert_eq!(health["shards"], 3);
    assert_eq!(health["connections"], 7);
    assert_eq!(health["version"], env!("CARGO_PKG_VERSION"));
    assert!(health["uptime_seconds"].is_u64());

    let ping = rig.get("/health/ping");
    assert_eq!((ping.status, ping.body.as_str()), (200, "pong\n"));
    assert_eq!(ping.header("content-type"), Some("text/plain; charset=utf-8"));
}

#[test]
fn what_is_not_there_is_404_and_what_only_reads_is_405() {
    let rig = Rig::new(1);
    assert_eq!(rig.get("/").status, 404);
    assert_eq!(rig.get("/metrics/").status, 404);
    for path in ["/metrics", "/livez", "/readyz", "/health", "/health/ping"] {
        let answer = rig.request("POST", path, "*/*");
        assert_eq!((answer.status, answer.header("allow")), (405, Some("GET,HEAD")), "{path}");
        let head = rig.request("HEAD", path, "*/*");
        assert_ne!(head.status, 405);
        assert_eq!(head.body, "");
    }
}

#[test]
fn silent_connections_are_bounded_in_number_and_time() {
    let rig = Rig::new(1);
    let mut silent: Vec<_> = (0..80).map(|_| rig.open()).collect();
    let began = Instant::now();
    // All places are taken; this one waits until the silent ones are ended.
    assert_eq!(rig.get("/health/ping").status, 200);
    assert!(began.elapsed() > Duration::from_secs(5), "64 silent ones held all places");
    assert!(began.elapsed() < Duration::from_secs(30));
    let ended = silent[0].read(&mut [0; 1]);
    assert!(matches!(ended, Ok(0) | Err(_)));
}
