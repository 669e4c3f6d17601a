//! Who gathers the log may stop reading, or go: the broker serves on.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use testkit::PATIENCE;
use testkit::client::{Connect, Version};

/// A broker whose stdout this test reads, up to `ready`.
struct Talker {
    child: Child,
    stdout: BufReader<std::process::ChildStdout>,
    mqtt: SocketAddr,
    admin: SocketAddr,
    dir: std::path::PathBuf,
}

impl Talker {
    fn start(name: &str) -> Talker {
        let dir = std::env::temp_dir().join(format!("tidegate-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a scratch directory");
        let file = dir.join("tidegate.toml");
        std::fs::write(&file, "[log]\nlines_per_second = 0\n").expect("write the config");
        let mut child = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .arg("run")
            .arg("--config")
            .arg(&file)
            .args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--shards", "2"])
            .arg("--data-dir")
            .arg(dir.join("data"))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("start the broker");
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        let mut address = |prefix: &str| {
            let mut line = String::new();
            loop {
                line.clear();
                assert!(stdout.read_line(&mut line).expect("a line") > 0, "no {prefix}");
                if let Some(address) = line.strip_prefix(prefix) {
                    return address.trim().parse().expect("an address");
                }
            }
        };
        let (mqtt, admin) = (address("listening mqtt default "), address("listening admin "));
        // From here on every reload is a fault, told with this long value.
        let fault = format!("[log]\nfilter = \"={}\"\n", "x".repeat(400));
        std::fs::write(&file, fault).expect("write a fault");
        Talker { child, stdout, mqtt, admin, dir }
    }

    /// Makes the broker say a line.
    fn provoke(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).expect("it runs");
        // Signals that come at once are one.
        std::thread::sleep(Duration::from_millis(2));
    }

    fn serves(&self) {
        let mut client = Connect::new(Version::V5, "c").open(self.mqtt);
        client.subscribe("t", 1);
        client.publish("t", 1, b"x");
        client.hears("x");
        client.leave();
    }

    fn metric(&self, name: &str) -> f64 {
        use std::io::{Read, Write};
        let mut stream = std::net::TcpStream::connect(self.admin).expect("connect");
        stream.set_read_timeout(Some(PATIENCE)).expect("set a timeout");
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: t\r\n\r\n").expect("ask");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("an answer");
        let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("the metric");
        line.trim().parse().expect("a number")
    }

    fn ends_well(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        let began = Instant::now();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
        assert_eq!(self.child.wait().expect("an end").code(), Some(0));
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    }
}

impl Drop for Talker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

#[test]
fn a_pipe_that_nobody_reads() {
    let mut talker = Talker::start("stuck");
    let waiting =
        |talker: &Talker| rustix::io::ioctl_fionread(talker.stdout.get_ref()).expect("a pipe");
    let end = Instant::now() + 6 * PATIENCE;
    let mut before = 0;
    // Until the pipe takes no more: 64 KiB on Linux, in pages that may not all be full.
    while before < 60_000 || waiting(&talker) > before {
        before = waiting(&talker);
        (0..20).for_each(|_| talker.provoke());
        assert!(Instant::now() < end, "the pipe takes more and more: {before} bytes");
    }
    talker.serves();
    talker.ends_well();
}

#[test]
fn a_pipe_whose_reader_left() {
    let mut talker = Talker::start("gone");
    // A pipe in place of the one that is closed.
    let (_, other) = std::io::pipe().expect("a pipe");
    drop(other);
    let stdout = talker.child.stdout.take();
    assert!(stdout.is_none(), "the reader has it");
    let reader = std::mem::replace(&mut talker.stdout, closed());
    drop(reader);
    let lost = "tidegate_log_lines_suppressed_total{reason=\"unread\"}";
    let end = Instant::now() + PATIENCE;
    while talker.metric(lost) == 0.0 {
        talker.provoke();
        assert!(Instant::now() < end, "no line was lost");
    }
    talker.serves();
    talker.ends_well();
}

/// A reader to stand in for one that is gone.
fn closed() -> BufReader<std::process::ChildStdout> {
    let mut child = Command::new("true").stdout(Stdio::piped()).spawn().expect("start true");
    let stdout = child.stdout.take().expect("piped");
    child.wait().expect("its end");
    BufReader::new(stdout)
}
