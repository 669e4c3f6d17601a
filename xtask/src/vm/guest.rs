//! The guest: an initramfs and its start, and what it said.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::kernel::Kernel;
use super::tests::Binary;
use super::{on_path, say};
use crate::dist::output;

/// What the guest's own lines begin with.
const MARK: &str = "@@ ";
const CPUS: u32 = 2;

/// What iptables loads for a rule, where it is.
const RULES: &str = "/usr/lib/x86_64-linux-gnu/xtables";

/// A command in the guest.
pub(crate) struct Run {
    pub(crate) name: String,
    pub(crate) command: String,
}

/// What is in a guest beside busybox.
pub(crate) struct Contents<'a> {
    /// Programs under `/tests`.
    pub(crate) binaries: &'a [Binary],
    /// Programs under `/bin`; those that this machine has.
    pub(crate) tools: &'a [&'a str],
    /// Kernel modules, loaded in this order.
    pub(crate) modules: &'a [PathBuf],
    /// Further files: path and text.
    pub(crate) files: &'a [(&'a str, String)],
    /// Commands before the first run.
    pub(crate) preparation: &'a str,
}

/// What a guest runs on.
pub(crate) struct Machine<'a> {
    pub(crate) memory_mib: u32,
    /// As QEMU's `-cpu` takes it.
    pub(crate) cpu: &'a str,
    /// Further words of the kernel's command line.
    pub(crate) append: &'a str,
    /// The whole of it, in the guest.
    pub(crate) limit: Duration,
}

/// What a guest said and took.
pub(crate) struct Said {
    /// Name and status of each run that ended.
    pub(crate) outcomes: Vec<(String, i32)>,
    pub(crate) lines: Vec<String>,
    /// The most memory that QEMU held.
    pub(crate) qemu_bytes: u64,
}

/// A packed guest.
pub(crate) struct Guest {
    initramfs: PathBuf,
}

impl Guest {
    pub(crate) fn pack(
        place: &Path,
        busybox: &Path,
        contents: &Contents<'_>,
        runs: &[Run],
    ) -> Result<Self> {
        let root = place.join("root");
        if root.exists() {
            fs::remove_dir_all(&root)?;
        }
        for folder in ["bin", "busybox", "dev", "etc", "modules", "proc", "sys", "tests", "tmp"] {
            fs::create_dir_all(root.join(folder))?;
        }
        put(busybox, &root.join("bin/busybox"))?;
        for (n, module) in contents.modules.iter().enumerate() {
            let name = module.file_name().context("a file has a name")?.to_string_lossy();
            put(module, &root.join(format!("modules/{n:02}-{name}")))?;
        }
        let mut libraries = BTreeSet::new();
        for tool in contents.tools {
            if let Some(path) = on_path(tool) {
                libraries.extend(libraries_of(&path)?);
                put(&path, &root.join("bin").join(tool))?;
            }
        }
        if contents.tools.contains(&"iptables") && Path::new(RULES).is_dir() {
            for rule in fs::read_dir(RULES)? {
                libraries.insert(rule?.path());
            }
        }
        for binary in contents.binaries {
            libraries.extend(libraries_of(&binary.path)?);
            put(&binary.path, &root.join("tests").join(&binary.name))?;
        }
        for library in &libraries {
            put(library, &root.join(library.strip_prefix("/").unwrap_or(library)))?;
        }
        for (path, text) in contents.files {
            fs::write(root.join(path.trim_start_matches('/')), text)?;
        }
        let init = root.join("init");
        fs::write(&init, script(contents.preparation, runs))?;
        fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
        let initramfs = place.join("initramfs.gz");
        let pack =
            "find . -print0 | cpio --null --create --format newc --quiet --owner 0:0 | gzip -1";
        let mut shell = Command::new("sh");
        shell.args(["-c", pack]).current_dir(&root);
        let file = fs::File::create(&initramfs)?;
        let status = shell.stdout(file).status().context("start sh")?;
        ensure!(status.success(), "the initramfs can't be packed: {status}");
        Ok(Self { initramfs })
    }

    /// Starts it, shows what it says, and gives the status of each run.
    pub(crate) fn boot(&self, qemu: &Path, kernel: &Kernel, machine: &Machine<'_>) -> Result<Said> {
        let mut command = Command::new(qemu);
        command.args([
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            machine.cpu,
            "-no-reboot",
            "-nic",
            "none",
        ]);
        command.args(["-smp", &CPUS.to_string(), "-m", &machine.memory_mib.to_string()]);
        command.args(["-display", "none", "-monitor", "none", "-serial", "stdio"]);
        let append =
            format!("console=ttyS0 quiet panic=-1 nokaslr tsc=reliable {}", machine.append);
        command.args(["-append", append.trim_end()]);
        command.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(&self.initramfs);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut qemu = command.spawn().with_context(|| format!("start {command:?}"))?;
        let said = follow(&mut qemu, machine.limit);
        // It has ended by itself, or took too long.
        let _ = qemu.kill();
        qemu.wait()?;
        let Followed { lines, in_time, qemu_bytes } = said?;
        if !in_time {
            say(&format!("vm: ended after {} s, its limit", machine.limit.as_secs()));
        }
        let outcomes = lines.iter().filter_map(|line| outcome(line)).collect();
        Ok(Said { outcomes, lines, qemu_bytes })
    }
}

struct Followed {
    lines: Vec<String>,
    in_time: bool,
    qemu_bytes: u64,
}

/// How often QEMU's memory is looked at.
const LOOK_TIME: Duration = Duration::from_secs(1);

/// Shows the guest's lines until it ends, or until the limit.
fn follow(qemu: &mut Child, limit: Duration) -> Result<Followed> {
    let out = qemu.stdout.take().context("QEMU's output is piped")?;
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(out).split(b'\n') {
            let Ok(line) = line else { return };
            let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    let end = Instant::now() + limit;
    let mut followed = Followed { lines: Vec::new(), in_time: true, qemu_bytes: 0 };
    loop {
        let left = end.saturating_duration_since(Instant::now());
        match receiver.recv_timeout(left.min(LOOK_TIME)) {
            Ok(line) => {
                say(&line);
                followed.lines.push(line);
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(followed),
            Err(RecvTimeoutError::Timeout) => {
                followed.in_time = !left.is_zero();
                if !followed.in_time {
                    return Ok(followed);
                }
                let most = most_memory(qemu.id()).unwrap_or_default();
                followed.qemu_bytes = followed.qemu_bytes.max(most);
            }
        }
    }
}

/// The most memory that a process ever held.
fn most_memory(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

/// The name and status in a line that tells how a run ended.
fn outcome(line: &str) -> Option<(String, i32)> {
    let (status, name) = line.strip_prefix(MARK)?.strip_prefix("status ")?.split_once(' ')?;
    Some((name.to_owned(), status.parse().ok()?))
}

/// What the guest does from its start to its end.
fn script(preparation: &str, runs: &[Run]) -> String {
    let mut script = String::from(
        "#!/bin/busybox sh
export PATH=/bin:/busybox HOME=/tmp TIDEGATE_EBPF_TESTS=guest
/bin/busybox --install -s /busybox
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mount -t tracefs tracefs /sys/kernel/tracing
mkdir -p /run /var/run
ip link set lo up
for module in /modules/*; do
  [ -e $module ] || continue
  case $module in
    */*-nf_conntrack.ko) insmod $module enable_hooks=1 ;;
    *) insmod $module ;;
  esac
done
",
    );
    script.push_str(&format!(
        "echo \"{MARK}Linux $(uname -r), up $(cut -d' ' -f1 /proc/uptime) s\"\n"
    ));
    script.push_str(preparation);
    for Run { name, command } in runs {
        script.push_str(&format!("echo \"{MARK}run {name}\"\n{command} 2>&1\n"));
        script.push_str(&format!("echo \"{MARK}status $? {name}\"\n"));
    }
    script.push_str(&format!("echo \"{MARK}up $(cut -d' ' -f1 /proc/uptime) s\"\npoweroff -f\n"));
    script
}

/// Copies a file to its place, and what it was allowed to.
fn put(from: &Path, to: &Path) -> Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::copy(from, to).with_context(|| format!("cannot copy {from:?} to {to:?}"))?;
    Ok(())
}

/// The shared libraries of a program, and the one that loads them; none of a
/// static one.
fn libraries_of(program: &Path) -> Result<Vec<PathBuf>> {
    let Ok(said) = output(Command::new("ldd").arg(program)) else { return Ok(Vec::new()) };
    let mut libraries = Vec::new();
    for line in said.lines() {
        ensure!(!line.contains("not found"), "{program:?}: {}", line.trim());
        // "libc.so.6 => /lib/libc.so.6 (0x…)" or "/lib64/ld-linux.so.2 (0x…)".
        let path = line.rsplit("=> ").next().unwrap_or_default().trim();
        if let Some(path) = path.split(' ').next().filter(|path| path.starts_with('/')) {
            libraries.push(PathBuf::from(path));
        }
    }
    Ok(libraries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_guests_own_lines_tell_how_a_run_ended() {
        assert_eq!(
            outcome("@@ status 101 steering as root"),
            Some(("steering as root".into(), 101))
        );
        assert_eq!(outcome("@@ run steering as root"), None);
        assert_eq!(outcome("status 0 steering as root"), None);
        assert_eq!(outcome("@@ status x steering"), None);
    }

    #[test]
    fn the_guest_tells_the_status_of_each_run_and_goes_off() {
        let run = Run { name: "one".into(), command: "/tests/one --list".into() };
        let script = script("ulimit -n 9\n", &[run]);
        assert!(script.starts_with("#!/bin/busybox sh\n"));
        let (limit, first) = (script.find("ulimit -n 9"), script.find("@@ run one"));
        assert!(limit.is_some() && limit < first, "{script}");
        assert!(script.contains("/tests/one --list 2>&1\necho \"@@ status $? one\"\n"), "{script}");
        assert!(script.ends_with("poweroff -f\n"));
    }
}
