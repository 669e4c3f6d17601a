//! `cargo xtask vm million`: a million connections in one process.
//!
//! Outside of a guest the number of files that a process may open is often the
//! end of it; in a guest of QEMU it is ours to set. One broker and
//! `tidegate-loadtest census` run there: every connection is opened with a
//! subscription, held, sent a message over a topic that it shares with a slice
//! of the others, and pinged. Without subscriptions it is `connect --ping`.
//!
//! The guest is emulated, so its times are some twelve times those of the
//! machine and good for one thing: beside those of another broker in the same
//! guest. Bytes are bytes.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::guest::{Contents, Guest, Machine, Run, Said};
use super::kernel::Kernel;
use super::tests::Binary;
use super::{on_path, program, say};
use crate::dist::succeed;

/// How it is called.
pub(crate) const USAGE: &str = "vm million [--connections N] [--broker tidegate|mosquitto] \
     [--memory MIB] [--no-subscribe] [--apart] [--perf] [--limit SECONDS] [--tidegate PATH] [--loadtest PATH] \
     [-- ARGUMENTS]: so many connections to one broker in a guest of QEMU; ARGUMENTS go to \
     tidegate-loadtest";

const TOOLS: &[&str] = &["nstat", "perf"];
const MOSQUITTO: &str = "/usr/sbin/mosquitto";
const WORKERS: &str = "2";
const SUBSCRIBERS_A_TOPIC: u32 = 1_000;
/// What every line of the harness's figures begins with.
const FIGURE: &str = "tidegate_loadtest_";
/// Without smap, smep and the like an emulated system call costs less; for all brokers.
const CPU: &str = "max,-smap,-smep,-la57,-pku,-erms,-fsrm,-xsave";
const APPEND: &str = "mitigations=off init_on_alloc=0 hardened_usercopy=off \
     randomize_kstack_offset=off lsm=capability thash_entries=2097152";

/// Who is loaded.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Broker {
    Tidegate,
    Mosquitto,
}

impl Broker {
    fn name(self) -> &'static str {
        match self {
            Self::Tidegate => "tidegate",
            Self::Mosquitto => "mosquitto",
        }
    }

    fn start(self) -> &'static str {
        match self {
            Self::Tidegate => "/tests/tidegate run --config /etc/broker",
            Self::Mosquitto => "/tests/mosquitto -c /etc/broker",
        }
    }

    /// All defaults but for what a million needs.
    fn config(self, apart: bool) -> String {
        let shards = if apart { "shards = 1\n" } else { "" };
        match self {
            Self::Tidegate => format!(
                "[node]\ndata_dir = \"/tmp/data\"\n{shards}\
                 [limits]\nconnections_max = 4_000_000\n\
                 [ebpf]\nsteer = \"require\"\ntcpstat = \"off\"\nconntrack = \"off\"\n"
            ),
            Self::Mosquitto => "listener 1883 127.0.0.1\nallow_anonymous true\n\
                 max_connections -1\npersistence false\nset_tcp_nodelay true\nsys_interval 0\n\
                 log_type none\nuser root\n"
                .to_owned(),
        }
    }
}

/// What was asked for.
struct Ask {
    connections: u32,
    broker: Broker,
    memory_mib: u32,
    subscribe: bool,
    /// Broker and harness on a core and with a thread each. Every switch between processes empties
    /// the emulated TLB, and filling it again is a good part of what a connect costs.
    apart: bool,
    /// Where the guest's time goes while connections come up.
    perf: bool,
    limit: Duration,
    tidegate: Option<PathBuf>,
    loadtest: Option<PathBuf>,
    more: String,
}

impl Ask {
    fn read(args: &[String]) -> Result<Self> {
        let mut ask = Self {
            connections: 1_000_000,
            broker: Broker::Tidegate,
            memory_mib: 0,
            subscribe: true,
            apart: false,
            perf: false,
            limit: Duration::ZERO,
            tidegate: None,
            loadtest: None,
            more: String::new(),
        };
        let mut rest = args.iter();
        while let Some(arg) = rest.next() {
            let mut value = || rest.next().with_context(|| format!("{arg} wants a value"));
            match arg.as_str() {
                "--connections" => ask.connections = value()?.replace('_', "").parse()?,
                "--broker" => {
                    ask.broker = match value()?.as_str() {
                        "tidegate" => Broker::Tidegate,
                        "mosquitto" => Broker::Mosquitto,
                        other => bail!("--broker {other}: tidegate or mosquitto"),
                    }
                }
                "--memory" => ask.memory_mib = value()?.parse()?,
                "--apart" => ask.apart = true,
                "--perf" => ask.perf = true,
                "--no-subscribe" => ask.subscribe = false,
                "--limit" => ask.limit = Duration::from_secs(value()?.parse()?),
                "--tidegate" => ask.tidegate = Some(value()?.into()),
                "--loadtest" => ask.loadtest = Some(value()?.into()),
                "--" => {
                    ask.more = rest.by_ref().map(String::as_str).collect::<Vec<_>>().join(" ");
                }
                _ => bail!("usage: cargo xtask {USAGE}"),
            }
        }
        ensure!(ask.connections > 0, "--connections must be at least 1");
        if ask.memory_mib == 0 {
            // Both ends of a connection take 8 to 9 KB of the kernel.
            ask.memory_mib = 2_048 + (u64::from(ask.connections) * 11 / 1_024) as u32;
        }
        if ask.limit.is_zero() {
            ask.limit = Duration::from_secs(300 + u64::from(ask.connections) / 800);
        }
        Ok(ask)
    }

    /// What the guest does once its limits are lifted.
    fn script(&self) -> String {
        let clients = self.connections;
        let load = match self.subscribe {
            true => format!("census 127.0.0.1:1883 --slice {SUBSCRIBERS_A_TOPIC}"),
            false => "connect 127.0.0.1:1883 --ping".to_owned(),
        };
        let perf = match self.perf {
            true => PERF,
            false => "",
        };
        let (broker_on, load_on) = match self.apart {
            true => ("taskset 1 ", "taskset 2 "),
            false => ("", ""),
        };
        format!(
            "{broker_on}{start} > /tmp/broker.log 2>&1 &
broker=$!
tries=0
until grep -q ':075B 00000000:0000 0A' /proc/net/tcp; do
  tries=$((tries + 1))
  [ $tries -lt 50 ] || {{ cat /tmp/broker.log; exit 1; }}
  sleep 1
done
[ -e /tests/tidegate ] && /tests/tidegate bpf status --data-dir /tmp/data
{load_on}/tests/tidegate-loadtest {load} --clients {clients} --pid $broker --label {name} \
--live lines --prometheus /tmp/figures{options} 2> /tmp/talk &
load=$!
{perf}# The console takes a line every ten seconds.
while kill -0 $load 2> /dev/null; do
  sleep 10
  resent=$(grep ^Tcp: /proc/net/snmp | tail -n 1 | cut -d ' ' -f 13)
  echo \"$(grep -e connected /tmp/talk | tail -n 1), $resent segments sent again\"
done
wait $load
echo \"the harness ended with $?\"
grep -v -e connected /tmp/talk
grep ^{FIGURE} /tmp/figures
grep -e VmHWM -e RssAnon /proc/$broker/status
grep -e MemTotal -e MemAvailable -e Slab: /proc/meminfo
cat /proc/net/sockstat
cat /proc/net/softnet_stat
nstat -a | grep -e Retrans -e Timeout -e Drop -e Overflow -e Fail -e Prun -e ZeroWindow -e Abort
tail -n 3 /tmp/broker.log
",
            start = self.broker.start(),
            name = self.broker.name(),
            options = self.options(),
        )
    }

    /// Ours for the harness, but for those that are given.
    fn options(&self) -> String {
        let open_ms_max = self.limit.as_millis().to_string();
        let ours = [
            ("--workers", if self.apart { "1" } else { WORKERS }),
            ("--keep-alive-s", "7200"),
            ("--hold-ms", "10000"),
            ("--open-ms-max", &open_ms_max),
        ];
        let given = |name: &str| self.more.split(' ').any(|word| word == name);
        let ours = ours.iter().filter(|(name, _)| !given(name));
        let mut options: String = ours.map(|(name, value)| format!(" {name} {value}")).collect();
        if !self.more.is_empty() {
            options.push(' ');
            options.push_str(&self.more);
        }
        options
    }
}

const PERF: &str = "sleep 3
perf record -q -a -F 199 -o /tmp/perf -- sleep 8
perf report -i /tmp/perf --no-children --percent-limit 0.4 --stdio --sort comm,symbol 2>&1 | \
grep -v -e '^#' -e '^$'
";

/// What must be lifted for millions of connections.
///
/// `netdev_max_backlog`: over loopback the deliveries of a turn wait in one queue a core. Beyond
/// its 1,000 the kernel drops them, and as those that were dropped together are sent again
/// together, most are dropped again, up to minutes later.
const PREPARATION: &str = "echo 16777216 > /proc/sys/fs/nr_open
echo 33554432 > /proc/sys/fs/file-max
echo 50000000 > /proc/sys/fs/epoll/max_user_watches
echo 65535 > /proc/sys/net/core/somaxconn
echo 1000000 > /proc/sys/net/core/netdev_max_backlog
echo 65535 > /proc/sys/net/ipv4/tcp_max_syn_backlog
echo '1024 65535' > /proc/sys/net/ipv4/ip_local_port_range
echo '4194304 4194304 4194304' > /proc/sys/net/ipv4/tcp_mem
for thread in /proc/[0-9]*/comm; do
  read -r name < $thread
  case $name in
    ksoftirqd/*) pid=${thread#/proc/}; renice -n -15 -p ${pid%/comm} ;;
  esac
done
ulimit -n 8388608
";

/// Runs `vm million [ARGUMENT...]`.
pub(crate) fn run(root: &Path, place: &Path, args: &[String]) -> Result<()> {
    let ask = Ask::read(args)?;
    let place = place.join("million");
    fs::create_dir_all(&place).with_context(|| format!("cannot make {place:?}"))?;
    let qemu = program("qemu-system-x86_64", "qemu-system-x86")?;
    program("cpio", "cpio")?;
    let busybox = program("busybox", "busybox-static")?;
    let kernel = Kernel::set_up(&place.with_file_name(""))?;
    let mut binaries = vec![ours(root, ask.loadtest.as_deref(), "tidegate-loadtest", &place)?];
    binaries.push(match ask.broker {
        Broker::Tidegate => ours(root, ask.tidegate.as_deref(), "tidegate", &place)?,
        Broker::Mosquitto => {
            let path = on_path("mosquitto").unwrap_or_else(|| MOSQUITTO.into());
            ensure!(path.is_file(), "mosquitto is missing; install Debian's package");
            Binary { name: "mosquitto".into(), path }
        }
    });
    let files = [
        ("/etc/broker", ask.broker.config(ask.apart)),
        ("/etc/million", ask.script()),
        ("/etc/passwd", "root:x:0:0::/:/bin/sh\n".to_owned()),
        ("/etc/group", "root:x:0:\n".to_owned()),
    ];
    let contents = Contents {
        binaries: &binaries,
        tools: TOOLS,
        // No connection tracking: an entry for each connection would be its cost, too.
        modules: &[],
        files: &files,
        preparation: PREPARATION,
    };
    let runs = [Run { name: "million".into(), command: "sh /etc/million".into() }];
    let guest = Guest::pack(&place, &busybox, &contents, &runs)?;
    let machine =
        Machine { memory_mib: ask.memory_mib, cpu: CPU, append: APPEND, limit: ask.limit };
    let said = guest.boot(&qemu, &kernel, &machine)?;
    judge(&ask, &said)
}

/// A program of this workspace without its symbols, which would fill the guest's memory.
fn ours(root: &Path, given: Option<&Path>, name: &str, place: &Path) -> Result<Binary> {
    let built = match given {
        Some(path) => path.to_owned(),
        None => {
            let mut build = crate::cargo();
            build.args(["build", "--locked", "--profile", "quick", "--package", name]);
            succeed(build.args(["--bin", name]).current_dir(root))?;
            let target =
                env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
            target.join("quick").join(name)
        }
    };
    let path = place.join(name);
    fs::copy(&built, &path).with_context(|| format!("cannot copy {built:?}"))?;
    succeed(Command::new("strip").arg(&path))?;
    Ok(Binary { name: name.to_owned(), path })
}

/// Prints the row of the run; fails unless every connection came up, got its message and answered.
fn judge(ask: &Ask, said: &Said) -> Result<()> {
    let figures: Vec<(&str, f64)> = said.lines.iter().filter_map(|line| figure(line)).collect();
    let of = |parts: &[&str]| -> Option<f64> {
        let fits = |name: &str| parts.iter().all(|part| name.contains(part));
        figures.iter().find(|(name, _)| fits(name)).map(|(_, value)| *value)
    };
    let peak = of(&["connections_peak"]).context("the guest brought no figures")?;
    let rate = of(&["connect_rate"]).unwrap_or(0.0);
    let cpu = |event: &str| {
        let event = format!("event=\"{event}\"");
        let part = |mode| of(&["broker_cpu_seconds", &event, mode]).unwrap_or(0.0) * 1e6;
        part("\"user\"") + part("\"kernel\"")
    };
    let failed = of(&["connections_total", "failed"]).unwrap_or(0.0);
    let lost = of(&["connections_total", "lost"]).unwrap_or(0.0);
    let bytes = |mode| of(&["broker_bytes_per_connection", mode]).unwrap_or(0.0);
    let rows = [
        ("broker", ask.broker.name().to_owned()),
        ("connections up", format!("{peak:.0}")),
        ("failed, lost", format!("{failed:.0}, {lost:.0}")),
        ("seconds to open", format!("{:.1}", peak / rate.max(1.0))),
        ("connects a second", format!("{rate:.0}")),
        ("user bytes a connection", format!("{:.0}", bytes("\"user\""))),
        ("kernel bytes a connection, both ends", format!("{:.0}", bytes("\"kernel\""))),
        (
            "CPU a connect, us",
            format!("{:.0}", cpu(if ask.subscribe { "connect + subscribe" } else { "connect" })),
        ),
        (
            "messages delivered",
            format!("{:.0}", of(&["messages_total", "delivered"]).unwrap_or(0.0)),
        ),
        ("CPU a delivery, us", format!("{:.0}", cpu("delivery"))),
        ("CPU a ping, us", format!("{:.0}", cpu("ping"))),
        ("busiest worker of the harness", format!("{:.2}", of(&["busiest"]).unwrap_or(0.0))),
        ("memory of QEMU, MiB", format!("{}", said.qemu_bytes >> 20)),
    ];
    for (name, value) in rows {
        say(&format!("| {name} | {value} |"));
    }
    let wanted = f64::from(ask.connections);
    ensure!(peak >= wanted && failed + lost == 0.0, "not all connections came up and stayed");
    if ask.subscribe {
        ensure!(of(&["verdict_good"]) == Some(1.0), "the ledger does not say that all is well");
    }
    let all_answered = said.lines.iter().any(|line| {
        let line = line.trim();
        let counts =
            line.strip_prefix("pinged at the end: ").and_then(|rest| rest.split_once(" of "));
        counts.is_some_and(|(some, rest)| rest.split(' ').next() == Some(some))
    });
    ensure!(all_answered, "not every connection answered its ping");
    Ok(())
}

/// A figure's name with its labels, and its value.
fn figure(line: &str) -> Option<(&str, f64)> {
    let (name, value) = line.strip_prefix(FIGURE)?.rsplit_once(' ')?;
    Some((name, value.parse().ok()?))
}

#[cfg(test)]
mod cases {
    use super::*;

    fn said(lines: &[&str]) -> Said {
        let lines = lines.iter().map(|line| (*line).to_owned()).collect();
        Said { outcomes: Vec::new(), lines, qemu_bytes: 0 }
    }

    #[test]
    fn a_run_is_good_when_all_came_up_and_answered() {
        let ask = Ask::read(&["--connections".into(), "1_000".into(), "--no-subscribe".into()]);
        let ask = ask.expect("sound");
        assert_eq!((ask.connections, ask.memory_mib), (1_000, 2_058));
        let up = "tidegate_loadtest_connections_peak{run=\"a\"} 1000";
        let answered = "  pinged at the end: 1000 of 1000 answered within 9 ms";
        let silent = "  pinged at the end: 999 of 1000 answered within 9 ms";
        let lost = "tidegate_loadtest_connections_total{run=\"a\",end=\"lost\"} 1";
        judge(&ask, &said(&[up, answered])).expect("all is well");
        judge(&ask, &said(&[up, silent])).expect_err("one was silent");
        judge(&ask, &said(&[up, answered, lost])).expect_err("one was lost");
        judge(&ask, &said(&[answered])).expect_err("no figures");
    }

    #[test]
    fn without_subscriptions_nobody_waits_for_messages() {
        let ask = |args: &[&str]| {
            let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
            Ask::read(&args).expect("sound").script()
        };
        assert!(ask(&[]).contains("tidegate-loadtest census 127.0.0.1:1883 --slice 1000"));
        assert!(ask(&["--no-subscribe"]).contains("connect 127.0.0.1:1883 --ping"));
        let given = ask(&["--", "--qos", "0", "--workers", "3"]);
        assert!(given.contains(" --qos 0 --workers 3 2> /tmp/talk"), "{given}");
        assert_eq!(given.matches("--workers").count(), 1);
    }
}
