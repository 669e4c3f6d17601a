//! What the sock_ops program and the tracepoints count, held against what the
//! kernel's own tools say, in a network namespace of the test's.

#![allow(clippy::print_stderr)]

mod common;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use common::{in_namespace, or_skip, or_skip_tool, run};
use tidegate_kernel::capabilities;
use tidegate_kernel::tcpstat::{Stats, Tcpstat};

const ESTABLISHED: usize = 1;
const FIN_WAIT2: usize = 5;
const CLOSE_WAIT: usize = 8;
const LAST_ACK: usize = 9;

/// A loaded object for `port`, or a reason why not.
fn start(port: u16) -> Option<Tcpstat> {
    or_skip(Tcpstat::start(&[(port, 3)]))
}

fn connected(listener: &TcpListener) -> (TcpStream, TcpStream) {
    let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("connect");
    let (server, _) = listener.accept().expect("accept");
    server.set_nodelay(true).expect("set");
    (client, server)
}

/// Waits until it is so.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(10), "{what} within 10 s");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Segments sent again in this namespace, as the kernel counts them.
fn retransmitted() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/net/snmp").expect("procfs");
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
    let at = names.split(' ').position(|name| name == "RetransSegs").expect("a column");
    values.split(' ').nth(at).expect("a value").parse().expect("a number")
}

#[test]
fn retransmits_are_those_that_the_kernel_counts() {
    in_namespace(|| {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let port = listener.local_addr().expect("bound").port();
        let Some(tcpstat) = start(port) else { return };
        let Some(()) = or_skip_tool(run("iptables", &["-S"])) else { return };
        let (mut client, mut server) = connected(&listener);
        assert_eq!(retransmitted(), 0, "a namespace of our own");
        // Data of the server is lost for a while; its SYN-ACKs and ACKs are not.
        let port = port.to_string();
        let rule = ["INPUT", "-p", "tcp", "--sport", &port, "-m", "length", "--length", "200:"];
        run("iptables", &[&["-A"], &rule[..], &["-j", "DROP"]].concat()).expect("a rule");
        server.write_all(&[b'x'; 1_000]).expect("write");
        until("a few retransmits", || retransmitted() >= 3);
        run("iptables", &[&["-D"], &rule[..], &["-j", "DROP"]].concat()).expect("no rule");
        client.read_exact(&mut [0; 1_000]).expect("it comes at last");
        let stats = tcpstat.stats(3).expect("stats");
        assert_eq!(stats.retransmitted_segments, retransmitted());
        assert_eq!(tcpstat.stats(0).expect("stats").retransmitted_segments, 0, "another listener");
    });
}

#[test]
fn states_and_round_trips_are_those_of_our_port_alone() {
    in_namespace(|| {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let other = TcpListener::bind("127.0.0.1:0").expect("bind");
        let Some(tcpstat) = start(listener.local_addr().expect("bound").port()) else { return };
        let stats = || tcpstat.stats(3).expect("stats");
        let mut pairs: Vec<_> = (0..50).map(|_| connected(&listener)).collect();
        let _unseen: Vec<_> = (0..7).map(|_| connected(&other)).collect();
        assert_eq!((stats().established, stats().entered[ESTABLISHED]), (50, 50));
        for (client, server) in &mut pairs {
            server.write_all(b"hello").expect("write");
            client.read_exact(&mut [0; 5]).expect("read");
        }
        let taken = |stats: &Stats| stats.rtt_us.iter().sum::<u64>();
        until("a round trip each", || taken(&stats()) >= 50);
        assert!(stats().rtt_us_sum / taken(&stats()) < 1_000_000, "under a second on loopback");

        // The client closes first, the server then.
        for (client, mut server) in pairs.drain(..20) {
            drop(client);
            assert_eq!(server.read(&mut [0; 8]).expect("the end"), 0);
            drop(server);
        }
        until("20 ended by the client", || stats().closed_from[LAST_ACK] == 20);
        assert_eq!(stats().entered[CLOSE_WAIT], 20);
        // The server closes first; the other side waits, as `ss` shows.
        for (mut client, server) in pairs.drain(..10) {
            drop(server);
            assert_eq!(client.read(&mut [0; 8]).expect("the end"), 0);
            drop(client);
        }
        until("10 ended by the server", || stats().entered[FIN_WAIT2] == 10);
        // And the rest is reset.
        for (client, server) in pairs.drain(..) {
            socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).expect("set");
            drop(client);
            drop(server);
        }
        until("20 reset", || stats().closed_from[ESTABLISHED] == 20);
        if tcpstat.has("receive_reset") {
            assert_eq!(stats().resets_received, 20);
        }
        for (program, why) in tcpstat.missing() {
            eprintln!("{program} is not there: {why}");
        }
    });
}

#[test]
fn it_goes_on_after_all_capabilities_are_gone() {
    in_namespace(|| {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let Some(tcpstat) = start(listener.local_addr().expect("bound").port()) else { return };
        capabilities::drop_all(true).expect("dropping is always allowed");
        drop((0..5).map(|_| connected(&listener)).collect::<Vec<_>>());
        let stats = || tcpstat.stats(3).expect("the map is still ours");
        assert_eq!(stats().established, 5);
        until("5 are closed", || stats().closed_from.iter().sum::<u64>() == 5);
        assert!(tcpstat.facts().iter().all(|facts| facts.id.is_some()), "{:?}", tcpstat.facts());
    });
}

#[test]
fn what_is_open_is_what_ss_shows() {
    in_namespace(|| {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let port = listener.local_addr().expect("bound").port();
        let Some(tcpstat) = start(port) else { return };
        let Some(()) = or_skip_tool(run("ss", &["-V"])) else { return };
        let mut pairs: Vec<_> = (0..30).map(|_| connected(&listener)).collect();
        pairs.truncate(18);
        let open =
            |stats: &Stats| stats.entered[ESTABLISHED] - stats.closed_from.iter().sum::<u64>();
        let shown = || {
            let filter = format!("sport = :{port}");
            let done = Command::new("ss").args(["-Htn", "state", "established", &filter]).output();
            String::from_utf8(done.expect("ss").stdout).expect("UTF-8").lines().count() as u64
        };
        until("18 are open", || open(&tcpstat.stats(3).expect("stats")) == 18);
        assert_eq!(shown(), 18);
    });
}
