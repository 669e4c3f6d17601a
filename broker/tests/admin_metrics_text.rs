//! `/metrics` in both formats: what is defined is told, and nothing else.

mod admin_rig;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use admin_rig::Rig;
use tidegate::telemetry::metric::{ALL, Kind, Metric};
use tidegate::telemetry::source::ListenerCounts;
use tidegate_core::counters::{CloseReason, DropReason, Scope, Stage};

const OPEN: &str = "application/openmetrics-text; version=1.0.0, text/plain;q=0.5";

/// A sample: name, labels, value.
type Sample = (String, BTreeMap<String, String>, f64);

/// Samples of a text, and the types that it declares.
fn parse(text: &str) -> (Vec<Sample>, BTreeMap<String, String>) {
    let (mut samples, mut types) = (Vec::new(), BTreeMap::new());
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let words: Vec<_> = comment.split(' ').collect();
            if words[0] == "TYPE" {
                let twice = types.insert(words[1].to_owned(), words[2].to_owned());
                assert_eq!(twice, None, "{line}");
            }
            continue;
        }
        let (series, value) = line.rsplit_once(' ').expect(line);
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let labels = labels.strip_suffix('}').expect(line);
        let pairs = labels.split(',').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').expect(line);
            (name.to_owned(), value.trim_matches('"').to_owned())
        });
        samples.push((name.to_owned(), pairs.collect(), value.parse().expect(line)));
    }
    (samples, types)
}

/// What the samples of a metric are called.
fn names(metric: &Metric) -> Vec<String> {
    let suffixes: &[&str] = match metric.kind {
        Kind::Histogram => &["_bucket", "_sum", "_count"],
        Kind::Counter | Kind::Gauge | Kind::Info => &[metric.kind.suffix()],
    };
    suffixes.iter().map(|suffix| format!("{}{suffix}", metric.name)).collect()
}

fn value(samples: &[Sample], name: &str, labels: &[(&str, &str)]) -> f64 {
    let wanted: BTreeMap<_, _> =
        labels.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    let mut found = samples.iter().filter(|sample| sample.0 == name && sample.1 == wanted);
    let value = found.next().unwrap_or_else(|| panic!("no {name}{labels:?}")).2;
    assert!(found.next().is_none(), "{name}{labels:?} twice");
    value
}

#[test]
fn every_metric_is_told_with_its_type_and_labels() {
    let rig = Rig::new(2);
    let open = rig.get_accepting("/metrics", OPEN);
    assert_eq!(open.status, 200);
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert_eq!(open.header("content-type"), Some(content_type));
    assert!(open.body.ends_with("# EOF\n"));

    let (samples, types) = parse(&open.body);
    let declared: BTreeSet<_> = types.keys().map(String::as_str).collect();
    // This node is alone: what is of a cluster is told by the nodes of one.
    let of_a_cluster = |metric: &&Metric| {
        let of =
            ["tidegate_cluster_", "tidegate_peer_", "tidegate_replication_", "tidegate_rebalance_"];
        of.iter().any(|of| metric.name.starts_with(of))
    };
    let told_alone = || ALL.iter().filter(|metric| !of_a_cluster(metric));
    assert_eq!(declared, told_alone().map(|metric| metric.name).collect());
    for metric in told_alone() {
        assert_eq!(types[metric.name], metric.kind.label());
        for name in names(metric) {
            let of_this: Vec<_> = samples.iter().filter(|sample| sample.0 == name).collect();
            assert!(!of_this.is_empty(), "{name} has no sample");
            for (_, labels, _) in of_this {
                let mut known: BTreeSet<_> = metric.labels.iter().map(|l| l.to_string()).collect();
                known.retain(|label| label != "features"); // absent when there are none
                if name.ends_with("_bucket") {
                    known.insert("le".to_owned());
                }
                let told = labels.keys().filter(|label| *label != "features").cloned().collect();
                assert_eq!(known, told, "{name}");
            }
        }
    }
    let names: BTreeSet<_> = ALL.iter().flat_map(names).collect();
    assert!(samples.iter().all(|(name, ..)| names.contains(name)));
    assert!(samples.iter().all(|(.., value)| value.is_finite()));
    assert_eq!(value(&samples, "tidegate_store_live_ratio", &[]), 0.25);
    assert_eq!(value(&samples, "tidegate_store_recovery_seconds", &[]), 1.5);
    assert_eq!(value(&samples, "tidegate_storage_operations_total", &[("op", "fsync")]), 6.0);
}

#[test]
fn both_formats_tell_the_same_names_and_labels() {
    let rig = Rig::new(2);
    let series = |text: &str| -> BTreeSet<_> {
        parse(text).0.into_iter().map(|(name, labels, _)| (name, labels)).collect()
    };
    let open = rig.get_accepting("/metrics", OPEN);
    let classic = rig.get("/metrics");
    assert_eq!(classic.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert_eq!(series(&open.body), series(&classic.body));
    for (name, kind) in parse(&classic.body).1 {
        assert_eq!(kind == "counter", name.ends_with("_total"), "{name}");
    }
}

#[test]
fn shards_are_summed_or_told_apart() {
    let rig = Rig::new(3);
    for (shard, counters) in rig.counters().iter().enumerate() {
        counters.connections.set(10 * (shard as u64 + 1));
        counters.connections_accepted.add(100);
        counters.connections_closed[CloseReason::KeepAlive as usize].add(2);
        counters.messages_dropped[DropReason::QueueFull as usize].add(5);
        counters.packets_received[3][2].add(7);
        counters.packets_sent[9][0].add(1);
        counters.messages_received[1].add(4);
        counters.busy_micros.set(1_500_000);
        counters.sessions_offline.set(6);
    }
    let (samples, _) = parse(&rig.get("/metrics").body);
    let of = |name, labels: &[_]| value(&samples, name, labels);
    let third = [("listener", "default"), ("transport", "tcp"), ("shard", "2")];
    assert_eq!(of("tidegate_connections", &third), 30.0);
    let first = [("listener", "default"), ("shard", "0")];
    assert_eq!(of("tidegate_connections_accepted_total", &first), 100.0);
    let keepalive = [("listener", "default"), ("reason", "keepalive")];
    assert_eq!(of("tidegate_connections_closed_total", &keepalive), 6.0);
    assert_eq!(of("tidegate_messages_dropped_total", &[("reason", "queue_full")]), 15.0);
    let publish = [("type", "publish"), ("version", "5.0")];
    assert_eq!(of("tidegate_packets_received_total", &publish), 21.0);
    let suback = [("type", "suback"), ("version", "3.1")];
    assert_eq!(of("tidegate_packets_sent_total", &suback), 3.0);
    assert_eq!(of("tidegate_messages_received_total", &[("qos", "1")]), 12.0);
    assert_eq!(of("tidegate_shard_busy_seconds_total", &[("shard", "1")]), 1.5);
    assert_eq!(of("tidegate_sessions", &[("state", "offline")]), 18.0);
    assert_eq!(of("tidegate_shard_imbalance_ratio", &[("listener", "default")]), 1.5);
    assert_eq!(of("tidegate_connections_limit", &[("listener", "default")]), 1_000_000.0);
}

#[test]
fn histograms_are_summed_over_the_shards_and_add_up() {
    let rig = Rig::new(2);
    for shard in [0, 1] {
        let timings = rig.timings(shard);
        timings.turns.observe(700, 1);
        timings.publishes[Scope::Remote as usize][1].observe(300, 5);
        timings.publishes[Scope::Remote as usize][1].observe(2_000_000, 1);
        rig.connects(shard).0[Stage::Connack as usize].observe(3_000, 1);
    }
    let (samples, _) = parse(&rig.get("/metrics").body);
    let latency = |suffix: &str, le: Option<&str>| {
        let mut labels = vec![("qos", "1"), ("scope", "remote")];
        labels.extend(le.map(|le| ("le", le)));
        value(&samples, &format!("tidegate_publish_latency_seconds_{suffix}"), &labels)
    };
    assert_eq!(latency("bucket", Some("0.00025")), 0.0);
    assert_eq!(latency("bucket", Some("0.0005")), 10.0);
    assert_eq!(latency("bucket", Some("1.0")), 10.0);
    assert_eq!(latency("bucket", Some("+Inf")), 12.0);
    assert_eq!(latency("count", None), 12.0);
    assert!((latency("sum", None) - 4.003).abs() < 1e-9);
    let first = [("shard", "0"), ("le", "0.001")];
    assert_eq!(value(&samples, "tidegate_shard_loop_lag_seconds_bucket", &first), 1.0);
    let connack = [("listener", "default"), ("stage", "connack")];
    assert_eq!(value(&samples, "tidegate_connect_duration_seconds_count", &connack), 2.0);
}

#[test]
fn several_listeners_are_told_apart_only_where_they_are_counted() {
    let config = "[listener.a]\nbind = '127.0.0.1:1'\n[listener.b]\nbind = '127.0.0.1:2'";
    let mut rig = Rig::with(1, config, |_, listener| {
        Some(ListenerCounts { connections: 7 + listener as u64, accepted: 9 })
    });
    let (samples, _) = parse(&rig.get("/metrics").body);
    let b = [("listener", "b"), ("transport", "tcp"), ("shard", "0")];
    assert_eq!(value(&samples, "tidegate_connections", &b), 8.0);
    assert_eq!(value(&samples, "tidegate_connections_closed_total", &[("reason", "client")]), 0.0);

    rig = Rig::with(1, config, |_, _| None);
    rig.counters()[0].connections.set(3);
    let (samples, _) = parse(&rig.get("/metrics").body);
    assert_eq!(value(&samples, "tidegate_connections", &[("shard", "0")]), 3.0);
}

#[test]
fn a_node_of_64_shards_stays_below_2000_series_and_100_ms() {
    let rig = Rig::new(64);
    rig.get("/metrics");
    let scrape = |_| {
        let began = Instant::now();
        let body = rig.get("/metrics").body;
        (began.elapsed(), body)
    };
    // The machine may be busy: the quickest of some.
    let (took, body) = (0..10).map(scrape).min().expect("ten");
    let (samples, _) = parse(&body);
    assert!(samples.len() <= 2_000, "{} series", samples.len());
    assert!(took < Duration::from_millis(100), "{took:?}");
}

#[test]
fn promtool_finds_nothing_to_complain_about() {
    let rig = Rig::new(2);
    let promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut promtool) = promtool else {
        // Not everybody has it; CI installs it and fails without.
        assert!(std::env::var_os("CI").is_none(), "promtool (Debian: prometheus) is missing");
        return;
    };
    let text = rig.get("/metrics").body;
    promtool.stdin.take().expect("piped").write_all(text.as_bytes()).expect("promtool reads");
    let output = promtool.wait_with_output().expect("promtool ends");
    let said = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
}

#[test]
fn counters_and_infos_are_the_only_names_with_a_suffix() {
    for metric in ALL {
        let plain = matches!(metric.kind, Kind::Gauge | Kind::Histogram);
        assert_eq!(metric.kind.suffix().is_empty(), plain, "{}", metric.name);
    }
}

#[test]
fn what_the_kernel_tells_is_told_on() {
    let rig = Rig::new(2);
    let (samples, _) = parse(&rig.get_accepting("/metrics", OPEN).body);
    let queue = [("listener", "default"), ("shard", "1")];
    assert_eq!(value(&samples, "tidegate_shard_accept_queue_length", &queue), 3.0);
    assert_eq!(value(&samples, "tidegate_shard_accept_queue_limit", &queue), 128.0);
    assert_eq!(value(&samples, "tidegate_tcp_sockets", &[("state", "time_wait")]), 4.0);
    let tables = 2.0 * 1_024.0;
    for (component, bytes) in [("tables", tables), ("kernel_rmem", 768.0), ("kernel_wmem", 2_304.0)]
    {
        let labels = [("component", component)];
        assert_eq!(value(&samples, "tidegate_connection_memory_bytes", &labels), bytes);
    }
    for (at, name) in [
        "tidegate_tcp_listen_overflows_total",
        "tidegate_tcp_listen_drops_total",
        "tidegate_tcp_node_retransmits_total",
        "tidegate_tcp_node_resets_sent_total",
        "tidegate_tcp_memory_pages",
        "tidegate_tcp_memory_limit_pages",
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(value(&samples, name, &[]), at as f64 + 1.0, "{name}");
    }
    assert_eq!(value(&samples, "tidegate_conntrack_fill_ratio", &[]), 0.25);
    assert_eq!(value(&samples, "tidegate_conntrack_predicted_fill_ratio", &[]), 1.5);
    let dropped = [("op", "early_drop")];
    assert_eq!(value(&samples, "tidegate_conntrack_operations_total", &dropped), 7.0);
    let nofile = [("check", "nofile"), ("result", "unknown")];
    assert_eq!(value(&samples, "tidegate_preflight_check", &nofile), 1.0);
    assert_eq!(value(&samples, "tidegate_collector_up", &[("collector", "conntrack")]), 1.0);
}
