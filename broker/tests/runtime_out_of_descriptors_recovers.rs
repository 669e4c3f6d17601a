//! Out of descriptors: no spin, no death, and service again when some are free.

use std::fs;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use testkit::{Broker, Got, Raw};

/// CPU time of a process in clock ticks (a hundredth of a second).
fn ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process");
    let (_, fields) = stat.rsplit_once(')').expect("its name");
    let fields: Vec<&str> = fields.split_whitespace().collect();
    fields[11..13].iter().map(|field| field.parse::<u64>().expect("a number")).sum()
}

fn ping(client: &mut Raw) -> Got {
    client.send(b"\xC0\x00");
    client.recv()
}

#[test]
fn accepting_halts_without_a_spin_and_goes_on_when_clients_leave() {
    let broker = Broker::start_with(env!("CARGO_BIN_EXE_tidegate"), "", &["--shards", "1"]);
    let mut first = broker.raw();
    first.send(b"\x10\x0e\x00\x04MQTT\x04\x02\x00\x00\x00\x02c1");
    assert!(matches!(first.recv(), Got::Packet(connack) if connack[3] == 0));

    let pid = Pid::from_raw(broker.pid().cast_signed());
    let open = fs::read_dir(format!("/proc/{}/fd", broker.pid())).expect("descriptors").count();
    let few = Some(open as u64 + 5);
    prlimit(pid, Resource::Nofile, Rlimit { current: few, maximum: few }).expect("prlimit");

    // More than there are descriptors for: the kernel completes the handshakes,
    // the rest waits in the accept queue.
    let crowd: Vec<Raw> = (0..20).map(|_| broker.raw()).collect();
    std::thread::sleep(Duration::from_millis(300));
    let before = ticks(broker.pid());
    std::thread::sleep(Duration::from_secs(1));
    let spent = ticks(broker.pid()) - before;
    assert!(spent < 20, "{spent} ticks of CPU in a second of nothing to do");
    assert_eq!(ping(&mut first), Got::Packet(vec![0xD0, 0x00]));

    drop(crowd);
    let mut late = broker.raw();
    late.send(b"\x10\x0e\x00\x04MQTT\x04\x02\x00\x00\x00\x02c2");
    assert!(matches!(late.recv(), Got::Packet(connack) if connack[3] == 0));
}
