//! Each fault of a config is told in words that name the key, the value and
//! what would do; and all of them at once.

use tidegate::config::{Flags, Overlay, load};

fn faults(text: &str) -> String {
    match load(text, &Overlay::default()) {
        Ok(_) => panic!("runs: {text}"),
        Err(error) => error.to_string(),
    }
}

const CASES: &[(&str, &str)] = &[
    // Numbers.
    (
        "[limits]\npacket_bytes_max = 10",
        "limits.packet_bytes_max: 10 is below 1024; use 1024 to 268435455",
    ),
    (
        "[limits]\npacket_bytes_max = 268435456",
        "limits.packet_bytes_max: 268435456 is above 268435455; use 1024 to 268435455",
    ),
    (
        "[limits]\ninflight_in_max = 65536",
        "limits.inflight_in_max: 65536 is above 65535; use 1 to 65535",
    ),
    ("[mqtt]\nqos_max = 3", "mqtt.qos_max: 3 is above 2; use 0 to 2"),
    ("[mqtt]\nqos_max = -1", "mqtt.qos_max: -1 is below 0; use 0 to 2"),
    (
        "[limits]\nsession_expiry_max_seconds = 4294967296",
        "limits.session_expiry_max_seconds: 4294967296 is above 4294967295; use 0 to 4294967295",
    ),
    ("[node]\nshards = 0", "node.shards: 0 is below 1; use 1 to 64"),
    ("[node]\nshards = 65", "node.shards: 65 is above 64; use 1 to 64"),
    // Types.
    ("[node]\nshards = '4'", "node.shards: \"4\" is text; use a whole number from 1 to 64"),
    (
        "[node]\ndrain_seconds = 1.5",
        "node.drain_seconds: 1.5 is a fraction; use a whole number from 0 to 3600",
    ),
    ("[mqtt]\nretain_available = 1", "mqtt.retain_available: 1 is a number; use true or false"),
    ("[node]\nname = true", "node.name: true is a switch; use text in quotes"),
    ("[node]\nname = []", "node.name: […] is a list; use text in quotes"),
    ("[node]\ndata_dir = ''", "node.data_dir: is empty; use a path"),
    ("node = 1", "node: is a table; use [node] and keys below it"),
    ("listener = 1", "listener: is a table; use [listener] and keys below it"),
    // Words.
    (
        "[log]\nlevel = 'verbose'",
        "log.level: \"verbose\" is not known; use \"error\" or \"warn\" or \"info\" or \"debug\" or \"trace\"",
    ),
    (
        "[limits]\nqueue_policy = 'oldest'",
        "limits.queue_policy: \"oldest\" is not known; use \"drop_oldest\" or \"drop_new\" or \"refuse\"",
    ),
    (
        "[listener.default]\ntransport = 'quic'",
        "listener.default.transport: \"quic\" is not known; use \"tcp\" or \"tls\" or \"ws\" or \"wss\"",
    ),
    // Unknown keys.
    (
        "[limits]\npacket_byte_max = 1",
        "limits.packet_byte_max: unknown key; did you mean limits.packet_bytes_max?",
    ),
    (
        "[node]\nkeep_alive_max_seconds = 1",
        "node.keep_alive_max_seconds: unknown key; keep_alive_max_seconds belongs to [mqtt]",
    ),
    (
        "[node]\nkeepalive_max_seconds = 1",
        "node.keepalive_max_seconds: unknown key; did you mean mqtt.keep_alive_max_seconds?",
    ),
    ("[admin]\ncolour = 1", "admin.colour: unknown key; [admin] takes bind"),
    ("[limit]\nx = 1", "limit: unknown key; did you mean [limits]?"),
    (
        "[tls]\nx = 1",
        "tls: unknown key; the tables are [node], [mqtt], [limits], [store], [cluster], [auth], [admin], [log], [ebpf] and [listener.NAME]",
    ),
    (
        "[store]\ndurability = 'tape'",
        "store.durability: \"tape\" is not known; use \"fsync\" or \"os\" or \"memory\"",
    ),
    (
        "[store]\nsegment_bytes = 4096",
        "store.segment_bytes: 4096 is below 1048576; use 1048576 to 4294967296",
    ),
    (
        "[store]\ndisk_stop_percent = 50",
        "store.disk_stop_percent: 50 is below store.disk_refuse_percent = 85, so sessions would be refused before messages are; use at least 85",
    ),
    ("shards = 1", "shards: unknown key; shards belongs to [node]"),
    (
        "[listener]\nbind = '127.0.0.1:1'",
        "listener.bind: unknown key; a listener has a name; use listener.default.bind",
    ),
    // Listeners.
    (
        "[listener.tls]\n",
        "listener.tls.bind: missing; name an address and port such as 127.0.0.1:1883",
    ),
    (
        "[listener.a]\nbind = 'localhost:1883'",
        "listener.a.bind: \"localhost:1883\" is not an address and port; use one such as 127.0.0.1:1883 or [::1]:1883",
    ),
    (
        "[listener.default]\nbind = '0.0.0.0:1884'",
        "listener.default.bind: 0.0.0.0:1884 is off loopback, and nothing says who may come in; set auth.password_file, or listener.default.user_from with client certificates, or listener.default.anonymous = true to let anybody in, or bind to 127.0.0.1:1884",
    ),
    (
        "[listener.default]\nbind = '[::]:1883'",
        "listener.default.bind: [::]:1883 is off loopback, and nothing says who may come in; set auth.password_file, or listener.default.user_from with client certificates, or listener.default.anonymous = true to let anybody in, or bind to 127.0.0.1:1883",
    ),
    (
        "[listener.default]\nanonymous = false",
        "listener.default.anonymous: false leaves nobody who can connect; set auth.password_file or user_from, or use true",
    ),
    (
        "[listener.a]\nbind = '127.0.0.1:1883'\n[listener.b]\nbind = '127.0.0.1:1883'",
        "listener.b.bind: 127.0.0.1:1883 is taken by listener.a.bind (127.0.0.1:1883); use another port",
    ),
    (
        "[listener.a]\nbind = '127.0.0.1:8888'",
        "admin.bind: 127.0.0.1:8888 is taken by listener.a.bind (127.0.0.1:8888); use another port",
    ),
    (
        "[admin]\nbind = '0.0.0.0:1883'",
        "admin.bind: 0.0.0.0:1883 is taken by listener.default.bind (127.0.0.1:1883); use another port",
    ),
    (
        "[listener.a-b]\nbind = '127.0.0.1:1'",
        "listener.a-b: \"a-b\" is not a name; use 1 to 32 of lower-case letters, digits and single '_'",
    ),
    (
        "[listener.a__b]\nbind = '127.0.0.1:1'",
        "listener.a__b: \"a__b\" is not a name; use 1 to 32 of lower-case letters, digits and single '_'",
    ),
    // Across keys.
    (
        "[limits]\npacket_bytes_max = 4096\nqueue_bytes_max = 2048",
        "limits.queue_bytes_max: 2048 is below limits.packet_bytes_max = 4096, so a large message could never wait; use at least 4096",
    ),
    (
        "[node]\nname = 'a b'",
        "node.name: \"a b\" is not a name; use 1 to 64 of letters, digits, '.', '-', '_'",
    ),
    // The keys of one listener.
    (
        "[listener.default]\ntransport = 'wss'\ntls_key = 'key.pem'",
        "listener.default.tls_certificate: missing, and the listener has TLS; name a file in PEM",
    ),
    (
        "[listener.default]\ntls_crl = 'crl.pem'",
        "listener.default.tls_crl: has no effect without TLS; set listener.default.transport = \"tls\" or \"wss\"",
    ),
    (
        "[listener.default]\ntransport = 'tls'\ntls_certificate = 'c'\ntls_key = 'k'\ntls_client_auth = 'required'",
        "listener.default.tls_client_ca: missing, and clients are asked for certificates; name the authorities that sign them",
    ),
    (
        "[listener.default]\nproxy_protocol = 'v2'",
        "listener.default.trusted_sources: missing, and a PROXY header is only taken from who is trusted; list the proxies, as [\"10.0.0.0/8\"]",
    ),
    (
        "[listener.default]\nproxy_protocol = 'v2'\ntrusted_sources = ['10.0.0.0/33']",
        "listener.default.trusted_sources: \"10.0.0.0/33\" is neither an address nor a network; use one such as 10.0.0.0/8",
    ),
    (
        "[listener.default]\nuser_from = 'certificate_cn'",
        "listener.default.user_from: has no effect without client certificates; use a listener with TLS and set tls_client_auth",
    ),
    (
        "[listener.default]\nuser_from = 'proxy_cn'",
        "listener.default.user_from: has no effect without a PROXY header that tells; set proxy_protocol = \"v2\"",
    ),
    (
        "[listener.default]\nconnects_burst = 9",
        "listener.default.connects_burst: has no effect without a rate; set connects_per_second",
    ),
    (
        "[listener.default]\ntransport = 'ws'\nws_path = 'mqtt'",
        "listener.default.ws_path: \"mqtt\" is not the path of a URL; use one such as \"/mqtt\", without '?' and '#'",
    ),
    (
        "[listener.default]\nbind = 'unix:mqtt.sock'",
        "listener.default.bind: \"unix:mqtt.sock\" is not a path; use unix:/ and an absolute path of at most 107 bytes",
    ),
    (
        "[listener.a]\nbind = 'unix:/run/a'\n[listener.b]\nbind = 'unix:/run/a'",
        "listener.b.bind: unix:/run/a is taken by listener.a.bind (unix:/run/a); use another port",
    ),
    (
        "[listener.a]\nbind = '[::]:1883'\nipv6_only = false\nanonymous = true\n[listener.b]\nbind = '127.0.0.1:1883'",
        "listener.b.bind: 127.0.0.1:1883 is taken by listener.a.bind ([::]:1883); use another port",
    ),
    (
        "[node]\nunready_seconds = 30",
        "node.unready_seconds: \"30\" is above node.drain_seconds = 25; use less, or a longer drain",
    ),
    // Not TOML.
    (
        "[node]\nshards = \n",
        "line 2, column 10: not TOML: string values must be quoted, expected literal string",
    ),
];

#[test]
fn each_fault_names_the_key_the_value_and_what_would_do() {
    for (text, message) in CASES {
        assert_eq!(faults(text), *message, "\n{text}");
    }
}

#[test]
fn a_filter_that_is_none_is_refused() {
    let told = faults("[log]\nfilter = 'a=b=c'");
    assert!(told.starts_with("log.filter: \"a=b=c\" is not a filter: "), "{told}");
    assert!(told.ends_with("; use directives such as tidegate::net=debug"), "{told}");
}

#[test]
fn too_many_listeners_are_refused() {
    let listener = |n| format!("[listener.l{n}]\nbind = '127.0.0.1:{}'\n", 2_000 + n);
    let text: String = (0..17).map(listener).collect();
    assert_eq!(faults(&text), "listener: 17 listeners are above 16; use fewer");
    let text: String = (0..16).map(listener).collect();
    assert_eq!(load(&text, &Overlay::default()).expect("16 are fine").listeners.len(), 16);
}

#[test]
fn all_faults_are_told_at_once() {
    let text = "
        [node]
        shards = 0
        [limits]
        sessions_max = 0
        colour = 1
        [listener.a]
        bind = '0.0.0.0:1'
        [listener.b]
        bind = 7
    ";
    let told = faults(text);
    let keys: Vec<_> = told.lines().map(|line| line.split(": ").next().expect("a key")).collect();
    let all = [
        "limits.colour",
        "limits.sessions_max",
        "listener.b.bind",
        "node.shards",
        "listener.a.bind",
    ];
    let mut sorted = (keys.clone(), all.to_vec());
    sorted.0.sort_unstable();
    sorted.1.sort_unstable();
    assert_eq!(
        sorted.0, sorted.1,
        "one line each, and b is not said to be missing as well: {told}"
    );
}

#[test]
fn a_fault_from_the_environment_or_a_flag_says_so() {
    let variables = [
        ("TIDEGATE__LIMITS__PACKET_BYTES_MAX", "ten"),
        ("tidegate__node__shards", "99"),
        ("TIDEGATE__NODE__DRAIN_SECOND", "5"),
        ("TIDEGATE__LISTENER__DEFAULT", "x"),
        ("TIDEGATE__QUOTA", "x"),
    ];
    let variables = variables.map(|(name, value)| (name.into(), value.into())).to_vec();
    let listen = Some("0.0.0.0:1883".parse().expect("an address"));
    let overlay = Overlay { variables, flags: Flags { listen, ..Flags::default() } };
    let told = load("", &overlay).expect_err("five faults").to_string();
    let expected = [
        "listener.default: unknown key; it is a table; name a key below it, as in \
         TIDEGATE__LISTENER__DEFAULT__KEY (from TIDEGATE__LISTENER__DEFAULT)",
        "limits.packet_bytes_max: \"ten\" is text; use a whole number from 1024 to 268435455 \
         (from TIDEGATE__LIMITS__PACKET_BYTES_MAX)",
        "node.drain_second: unknown key; did you mean node.drain_seconds? \
         (from TIDEGATE__NODE__DRAIN_SECOND)",
        "node.shards: 99 is above 64; use 1 to 64 (from tidegate__node__shards)",
        "quota: unknown key; the tables are [node], [mqtt], [limits], [store], [cluster], [auth], [admin], [log], \
         [ebpf] and [listener.NAME] (from TIDEGATE__QUOTA)",
        "listener.default.bind: 0.0.0.0:1883 is off loopback, and nothing says who may come in; \
         set auth.password_file, or listener.default.user_from with client certificates, or \
         listener.default.anonymous = true to let anybody in, or bind to 127.0.0.1:1883 (from \
         --listen)",
    ];
    assert_eq!(told.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn a_key_that_two_variables_set_is_refused() {
    let variables = ["TIDEGATE__NODE__SHARDS", "tidegate__node__shards"];
    let variables = variables.map(|name| (name.into(), "2".into())).to_vec();
    let told = load("", &Overlay { variables, flags: Flags::default() }).expect_err("twice");
    let message = "tidegate__node__shards: node.shards is set by TIDEGATE__NODE__SHARDS as well; \
                   keep one of them";
    assert_eq!(told.to_string(), message);
}
