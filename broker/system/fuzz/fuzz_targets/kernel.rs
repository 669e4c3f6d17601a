//! Any bytes as what the kernel says: no panic, no endless loop, and no more
//! sockets than there is room for in the datagram.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_system::{
    cgroup, conntrack, counters, inet_diag, preflight, process, sockstat, values,
};

fuzz_target!(|data: &[u8]| {
    // The datagram answers whatever it says it answers.
    let sequence = data.get(8..12).and_then(|bytes| bytes.try_into().ok()).map(u32::from_ne_bytes);
    let mut sockets = 0;
    let _ = inet_diag::decode(data, sequence.unwrap_or(7), |_| sockets += 1);
    assert!(sockets * 88 <= data.len());

    let Ok(text) = std::str::from_utf8(data) else { return };
    let _ = counters::value(text, "TcpExt", "ListenOverflows");
    let _ = counters::value(text, "Tcp", "OutRsts");
    if let Some(told) = conntrack::operations(text) {
        assert!(told.counted().count() <= conntrack::OPERATIONS.len());
    }
    let limits = process::limits(text, "Max open files");
    let tcp = sockstat::tcp(text).unwrap_or_default();
    let facts = preflight::Facts {
        kernel: Some(text.to_owned()),
        version: values::version(text),
        capabilities: process::capabilities(text, "CapEff"),
        descriptors: limits,
        nr_open: values::number(text),
        tcp_mem: values::numbers(text),
        port_range: values::numbers(text),
        conntrack_max: values::number(text),
        conntrack_entries: tcp.allocated,
        cpu_max: cgroup::cpu_max(text).or_else(|| cgroup::cfs(text, "100000")),
        memory_max: cgroup::memory_max(text),
        memory_total: values::memory(text, "MemTotal"),
        huge_pages: values::chosen(text).map(str::to_owned),
        ..preflight::Facts::default()
    };
    let demand = preflight::Demand {
        connections_max: tcp.memory_pages.unwrap_or(1_000_000),
        ..preflight::Demand::default()
    };
    for check in preflight::assess(&facts, &demand) {
        assert!(!check.sentence().is_empty());
    }
});
