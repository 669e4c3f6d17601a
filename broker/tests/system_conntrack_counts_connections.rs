//! Connection tracking as the kernel does it: each connection is an entry, and
//! none is with the rules of `docs/kernel.md` for keeping them out.
//!
//! In a network namespace of its own, so that nobody else's connections count.
#![allow(clippy::print_stderr)]

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

/// Prints `conntrack show --json` with seven connections, and again after three
/// more that are not to be tracked.
const SCRIPT: &str = r#"
ip link set lo up && iptables -A INPUT -m conntrack --ctstate NEW,ESTABLISHED -j ACCEPT || exit 77
"$BROKER" run --data-dir "$DIR/data" --listen 127.0.0.1:1883 --admin 127.0.0.1:8888 >"$DIR/log" &
broker=$!
trap 'kill $broker' EXIT
for try in $(seq 200); do grep -q ^ready "$DIR/log" && break; sleep 0.05; done
for fd in 3 4 5 6 7 8 9; do eval "exec $fd<>/dev/tcp/127.0.0.1/1883"; done
"$BROKER" conntrack show --json --connections 1000
for rule in 'PREROUTING --dport' 'OUTPUT --sport' 'PREROUTING --sport' 'OUTPUT --dport'; do
  iptables -t raw -A ${rule% *} -p tcp ${rule#* } 1883 -j CT --notrack || exit 77
done
for fd in 10 11 12; do eval "exec $fd<>/dev/tcp/127.0.0.1/1883"; done
"$BROKER" conntrack show --json
"#;

#[test]
fn each_connection_is_an_entry_unless_rules_keep_it_out() {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("conntrack-counts");
    std::fs::create_dir_all(&dir).expect("a scratch directory");
    let _ = std::fs::remove_file(dir.join("log"));
    let output = Command::new("unshare")
        .args(["--mount", "--net", "bash", "-c", SCRIPT])
        .env("BROKER", env!("CARGO_BIN_EXE_tidegate"))
        .env("DIR", &dir)
        .output();
    let output = match output {
        Ok(output) if output.status.success() => output,
        // 1: unshare is not allowed to; 77: the tools or the kernel lack something.
        Ok(output) if matches!(output.status.code(), Some(1 | 77)) && output.stdout.is_empty() => {
            let why = String::from_utf8_lossy(&output.stderr).into_owned();
            eprintln!("not run: no network namespace with iptables: {why}");
            return;
        }
        Ok(output) => panic!("{output:?}"),
        Err(error) => {
            eprintln!("not run: unshare: {error}");
            return;
        }
    };
    let told: Vec<Value> = serde_json::Deserializer::from_slice(&output.stdout)
        .into_iter()
        .collect::<Result<_, _>>()
        .expect("two objects");
    let [tracked, kept_out] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!(tracked["entries"], 7, "{tracked:#}");
    assert_eq!(tracked["predicted"]["entries"], 1_007);
    let limit = tracked["limit"].as_f64().expect("a number");
    assert_eq!(tracked["fill_ratio"].as_f64(), Some(7.0 / limit));
    assert!(tracked["operations"]["early_drop"].is_u64());
    assert_eq!(kept_out["entries"], 7, "{kept_out:#}");
}
