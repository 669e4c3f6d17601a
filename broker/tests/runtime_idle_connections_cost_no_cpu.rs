//! An idle shard sleeps, however many connections it has.

use std::fs;
use std::time::Duration;

use testkit::{Broker, Got};

/// CPU time of a process in clock ticks (a hundredth of a second).
fn ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process");
    let (_, fields) = stat.rsplit_once(')').expect("its name");
    let fields: Vec<&str> = fields.split_whitespace().collect();
    fields[11..13].iter().map(|field| field.parse::<u64>().expect("a number")).sum()
}

/// Times that the threads of a process were put to sleep.
fn naps(pid: u32) -> u64 {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).expect("the threads") {
        let status = task.expect("a thread").path().join("status");
        let status = fs::read_to_string(status).expect("its status");
        sum += status
            .lines()
            .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))
            .and_then(|count| count.trim().parse::<u64>().ok())
            .expect("its switches");
    }
    sum
}

#[test]
fn five_hundred_idle_connections_wake_nobody() {
    let config = "[mqtt]\nsys_interval_seconds = 0\n";
    let broker = Broker::start(env!("CARGO_BIN_EXE_tidegate"), config);
    let mut clients = Vec::new();
    for n in 0..500 {
        let mut client = broker.raw();
        // Keep alive 600.
        let mut connect = b"\x10\x10\x00\x04MQTT\x04\x02\x02\x58\x00\x04".to_vec();
        connect.extend_from_slice(format!("c{n:03}").as_bytes());
        client.send(&connect);
        assert!(matches!(client.recv(), Got::Packet(connack) if connack[3] == 0));
        clients.push(client);
    }
    std::thread::sleep(Duration::from_millis(500));
    let (cpu, slept) = (ticks(broker.pid()), naps(broker.pid()));
    std::thread::sleep(Duration::from_secs(3));
    let (cpu, slept) = (ticks(broker.pid()) - cpu, naps(broker.pid()) - slept);
    assert!(cpu <= 3, "{cpu} ticks of CPU in three idle seconds");
    // A timer wheel may turn; a poll every millisecond would be thousands.
    assert!(slept < 120, "woke {slept} times in three idle seconds");
}
