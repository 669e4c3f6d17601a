//! The committed objects have what the ABI names.

use tidegate_ebpf_abi::{conntrack, lookup, steer, tcpstat};

const STEER: &[u8] = include_bytes!("../../objects/steer.o");
const TCPSTAT: &[u8] = include_bytes!("../../objects/tcpstat.o");
const CONNTRACK: &[u8] = include_bytes!("../../objects/conntrack-x86_64.o");
const LOOKUP: &[u8] = include_bytes!("../../objects/lookup.o");

/// Whether the object's table of names has this one.
fn names(object: &[u8], name: &str) -> bool {
    let name = [b"\0", name.as_bytes(), b"\0"].concat();
    object.windows(name.len()).any(|window| window == name)
}

#[track_caller]
fn assert_names(object: &[u8], wanted: &[&str]) {
    for wanted in wanted {
        assert!(names(object, wanted), "{wanted} is missing");
    }
}

#[test]
fn steer_has_its_programs_and_maps() {
    assert_names(STEER, &steer::PROGRAMS);
    assert_names(STEER, &[steer::MAP_SOCKETS, steer::MAP_INDEX, steer::MAP_LISTENERS]);
    assert_names(STEER, &[steer::MAP_WEIGHTS, steer::MAP_LOADS, steer::MAP_TABLES]);
    assert_names(STEER, &[steer::MAP_CPUS, steer::MAP_PICKED, steer::MAP_BUCKETS]);
    assert_names(STEER, &[steer::MAP_PREFIXES, steer::MAP_BLOCKED_V4, steer::MAP_BLOCKED_V6]);
    assert_names(STEER, &[steer::MAP_COUNTS]);
    assert!(!names(STEER, "steer_loop_free"), "what is not named is not there");
}

#[test]
fn tcpstat_has_its_programs_maps_and_globals() {
    let programs = [tcpstat::PROGRAM_SOCKET_EVENTS, tcpstat::PROGRAM_SET_STATE];
    assert_names(TCPSTAT, &programs);
    assert_names(TCPSTAT, &[tcpstat::PROGRAM_RECEIVE_RESET]);
    assert_names(TCPSTAT, &[tcpstat::MAP_PORTS, tcpstat::MAP_STATS, tcpstat::MAP_STARTS]);
    assert_names(TCPSTAT, &[tcpstat::GLOBAL_OFFSET_SPORT, tcpstat::GLOBAL_RTT]);
    assert_names(TCPSTAT, &[tcpstat::GLOBAL_LIFETIMES]);
}

#[test]
fn conntrack_has_its_probes_maps_and_globals() {
    for probe in conntrack::PROBES {
        assert_names(CONNTRACK, &[probe.program]);
    }
    assert_names(CONNTRACK, &[conntrack::MAP_NAMESPACES, conntrack::GLOBAL_OFFSET_CT_NET]);
    let offsets = [conntrack::GLOBAL_OFFSET_NET_INODE, conntrack::GLOBAL_OFFSET_SKB_NFCT];
    assert_names(CONNTRACK, &offsets);
}

#[test]
fn lookup_has_its_program_and_maps() {
    assert_names(LOOKUP, &[lookup::PROGRAM, lookup::MAP_ANCHOR, lookup::MAP_RANGE]);
    assert_names(LOOKUP, &[lookup::MAP_REDIRECTED]);
}
