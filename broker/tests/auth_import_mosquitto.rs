//! `tidegate import mosquitto`: what comes out means what went in, nothing is
//! dropped silently, and nothing opens more than the original.

mod auth_rig;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use auth_rig::{ALICE, Scratch};
use tidegate::config::{Bind, Config, Overlay, Transport, UserFrom, load};
use tidegate::import::{Imported, Kind, mosquitto, translate_mosquitto};
use tidegate_auth::{Acl, Passwords, Who};

fn import(scratch: &Scratch, conf: &str) -> Imported {
    let file = scratch.write("mosquitto.conf", conf);
    translate_mosquitto(&file, Some(scratch.dir())).expect("is read")
}

fn config(imported: &Imported) -> Config {
    load(&imported.config, &Overlay::default())
        .unwrap_or_else(|error| panic!("{error}\n{}", imported.config))
}

fn who<'a>(client: &'a str, user: Option<&'a str>) -> Who<'a> {
    Who { client, user }
}

#[test]
fn listeners_keep_their_addresses_transports_and_identities() {
    let scratch = Scratch::new();
    scratch.write("users", ALICE);
    let imported = import(
        &scratch,
        "\
# The plant.
password_file users
allow_anonymous false
max_keepalive 300
max_packet_size 100000
max_inflight_messages 30
max_queued_messages 200
persistent_client_expiration 14d
sys_interval 0
retain_available false
log_type warning
log_type error

listener 1883 127.0.0.1
allow_anonymous true
max_connections 50

listener 8883
certfile /etc/tls/server.crt
keyfile /etc/tls/server.key
cafile /etc/tls/ca.crt
crlfile /etc/tls/crl.pem
require_certificate true
use_identity_as_username true
tls_version tlsv1.3

listener 9001 ::1
protocol websockets
socket_domain ipv6

listener 0 /run/mosquitto.sock
",
    );
    let config = config(&imported);
    let by_name = |name: &str| {
        let found = config.listeners.iter().find(|listener| listener.name == name);
        found.unwrap_or_else(|| panic!("no {name} in\n{}", imported.config))
    };
    assert_eq!(config.listeners.len(), 4);
    let plain = by_name("mqtt_1883");
    assert_eq!(plain.bind.to_string(), "127.0.0.1:1883");
    // The last allow_anonymous counts, for all of them.
    assert!(plain.anonymous && plain.connections_max == Some(50));
    let tls = by_name("mqtts_8883");
    assert_eq!((tls.bind.to_string().as_str(), tls.ipv6_only), ("[::]:8883", false));
    assert_eq!((tls.transport, tls.user_from), (Transport::Tls, UserFrom::CertificateCn));
    assert!(!tls.anonymous, "who has no name in the certificate does not come in");
    let files = tls.tls.as_ref().expect("TLS");
    assert_eq!(files.client_ca.as_deref(), Some(Path::new("/etc/tls/ca.crt")));
    assert_eq!(files.crl.as_deref(), Some(Path::new("/etc/tls/crl.pem")));
    let websocket = by_name("ws_9001");
    assert_eq!(
        (websocket.transport, websocket.bind.to_string().as_str()),
        (Transport::Ws, "[::1]:9001")
    );
    assert_eq!(by_name("unix").bind, Bind::Unix("/run/mosquitto.sock".into()));

    let limits = &config.settings.limits;
    assert_eq!((limits.packet_bytes_max, limits.queue_messages_max), (100_000, 200));
    assert_eq!((limits.inflight_out_max, limits.inflight_in_max), (30, 30));
    assert_eq!(limits.session_expiry_max_seconds, 14 * 86_400);
    assert_eq!(config.settings.keep_alive_max_seconds, 300);
    assert!(!config.settings.retain_available && config.settings.sys_interval_seconds == 0);
    assert!(imported.config.contains("level = \"warn\""), "{}", imported.config);
    assert_eq!(config.auth.password_file, Some(scratch.dir().join("passwords")));
    let passwords = Passwords::parse(imported.passwords.expect("users")).expect("good");
    assert!(passwords.contains("alice"));
    assert_eq!(imported.report.count(Kind::Lost), 0, "{}", imported.report);
}

#[test]
fn a_broker_for_this_machine_alone_stays_one() {
    let scratch = Scratch::new();
    let imported = import(&scratch, "persistence true\n");
    let config = config(&imported);
    assert_eq!(config.listeners.len(), 1);
    assert_eq!(config.listeners[0].bind.to_string(), "127.0.0.1:1883");
    assert!(config.listeners[0].anonymous);
    assert_eq!(imported.report.count(Kind::Lost), 1, "{}", imported.report);
}

#[test]
fn port_and_address_are_the_default_listeners_wherever_they_stand() {
    let scratch = Scratch::new();
    let conf = "listener 1884\nport 1885\nbind_address 127.0.0.2\nallow_anonymous true\n";
    let binds: Vec<_> = config(&import(&scratch, conf)).listeners;
    let binds: Vec<_> = binds.iter().map(|listener| listener.bind.to_string()).collect();
    assert_eq!(binds, ["[::]:1884", "127.0.0.2:1885"]);
}

#[test]
fn rules_say_what_mosquitto_would() {
    let scratch = Scratch::new();
    scratch.write(
        "rules",
        "\
topic read public/#
pattern readwrite clients/%c/#
pattern deny %u/private
user alice
topic a/#
topic deny a/secret
topic write 100%c/x
topic readwrite $SYS/#
user bob the builder
topic readwrite with space/#
user alice
topic read b/#
topic sideways x
topic read a/#/b
nonsense
",
    );
    let imported = import(&scratch, "acl_file rules\npassword_file none\nlistener 1883\n");
    let acl = Acl::parse(imported.acl.expect("rules")).expect("good rules");
    let alice = who("c1", Some("alice"));
    // The deny comes first, wherever it stands; `topic` alone is both ways.
    assert!(acl.publish(alice, "a/x") && acl.subscribe(alice, "a/x"));
    assert!(!acl.publish(alice, "a/secret") && !acl.subscribe(alice, "a/#"));
    assert!(acl.subscribe(alice, "b/#") && !acl.publish(alice, "b/x"));
    // %c is only a value in a pattern.
    assert!(acl.publish(alice, "100%c/x") && !acl.publish(alice, "100c1/x"));
    assert!(acl.publish(alice, "clients/c1/x") && !acl.publish(alice, "clients/c2/x"));
    // A user's own rules come before any pattern.
    assert!(acl.publish(who("c1", Some("bob the builder")), "with space/x"));
    // What mosquitto refuses whatever its rules say.
    assert!(!acl.publish(alice, "$SYS/x") && acl.subscribe(alice, "$SYS/#"));
    // The first rules are for who has no name, and for them alone.
    assert!(acl.subscribe(who("c1", None), "public/#"));
    assert!(!acl.subscribe(alice, "public/#"));
    let report = imported.report.to_string();
    for line in ["rules:13", "rules:14", "rules:15"] {
        assert!(report.contains(line), "{report}");
    }
    assert!(report.contains("`read` became `allow subscribe`"), "{report}");
}

#[test]
fn a_deny_of_all_patterns_does_not_reach_a_users_own_rules() {
    let scratch = Scratch::new();
    scratch.write("rules", "pattern deny x/#\npattern write x/y\nuser alice\ntopic write x/#\n");
    let imported = import(&scratch, "acl_file rules\n");
    let acl = Acl::parse(imported.acl.expect("rules")).expect("good rules");
    assert!(acl.publish(who("c", Some("alice")), "x/y"));
    assert!(!acl.publish(who("c", Some("bob")), "x/y"));
}

#[test]
fn users_keep_their_passwords_and_secrets_stay_out_of_the_report() {
    let scratch = Scratch::new();
    scratch.write(
        "users",
        &format!("{ALICE}bob:$6$hunter2$x==\ncarol:hunter2\nhunter2\n{ALICE}# end\n"),
    );
    let imported = import(
        &scratch,
        "listener 1883\npassword_file users\nconnection north\nremote_password hunter2\n\
         password hunter2\nbridge_psk hunter2\nauth_opt_secret hunter2\nplugin_opt_x hunter2\n",
    );
    let text = imported.passwords.as_deref().expect("users");
    assert_eq!(Passwords::parse(text).expect("good").len(), 1);
    let report = imported.report.to_string();
    for name in ["bob:…", "carol:…", "users:5: alice:…"] {
        assert!(report.contains(name), "{report}");
    }
    assert!(!report.replace("hunter2:…", "").contains("hunter2"), "{report}");
    assert!(!imported.config.contains("hunter2") && !text.contains("hunter2"));
}

#[test]
fn what_kept_clients_out_never_lets_more_in() {
    let scratch = Scratch::new();
    for (conf, open) in [
        ("listener 1883\nmount_point a/\nallow_anonymous true\n", 0),
        ("listener 8883\npsk_hint x\nallow_anonymous true\n", 0),
        ("listener 8883\ncertfile x\nallow_anonymous true\n", 0),
        ("listener 1883\nuse_username_as_clientid true\nallow_anonymous true\n", 0),
        ("listener 1883 broker.example\nallow_anonymous true\n", 0),
        ("listener 1883\nbind_interface eth1\nallow_anonymous true\n", 0),
        ("listener x\nallow_anonymous true\n", 0),
        ("port 1883\nbind_address broker.example\nallow_anonymous true\n", 0),
        ("listener 1883\n", 0),
        ("port 1883\n", 0),
        ("listener 1883\nallow_anonymous true\n", 1),
    ] {
        let imported = import(&scratch, conf);
        // A config that does not load lets nobody in.
        let listeners = load(&imported.config, &Overlay::default()).map(|config| config.listeners);
        let listeners = listeners.unwrap_or_default();
        let wide = listeners.iter().filter(|l| l.anonymous && !l.bind.is_local()).count();
        assert_eq!(wide, open, "{conf}\n{}", imported.config);
    }
    // Rules that cannot be read deny everything.
    let imported = import(&scratch, "acl_file nowhere\n");
    assert!(Acl::parse(imported.acl.expect("rules")).expect("good").is_empty());
    // So do rules that differ by listener.
    let imported = import(
        &scratch,
        "per_listener_settings true\nlistener 1\nacl_file a\nallow_anonymous true\nlistener 2\n\
         allow_anonymous true\n",
    );
    assert!(Acl::parse(imported.acl.expect("rules")).expect("good").is_empty());
    // And users that cannot be read are none.
    let imported = import(&scratch, "listener 1883\npassword_file nowhere\n");
    assert!(Passwords::parse(imported.passwords.expect("users")).expect("good").is_empty());
}

#[test]
fn files_of_the_listeners_are_taken_if_they_agree() {
    let scratch = Scratch::new();
    scratch.write("users", ALICE);
    let imported = import(
        &scratch,
        "per_listener_settings true\nlistener 1\npassword_file users\nlistener 2\n\
         password_file users\nallow_anonymous true\n",
    );
    let config = config(&imported);
    assert!(config.auth.password_file.is_some());
    let anonymous: Vec<_> = config.listeners.iter().map(|listener| listener.anonymous).collect();
    assert_eq!(anonymous, [false, true]);
    assert_eq!(imported.report.count(Kind::Lost), 0, "{}", imported.report);
}

#[test]
fn included_files_are_read_in_mosquittos_order() {
    let scratch = Scratch::new();
    scratch.write("conf.d/b.conf", "max_keepalive 30\n");
    scratch.write("conf.d/a.conf", "max_keepalive 20\nlistener 1883\nallow_anonymous true\n");
    scratch.write("conf.d/c.txt", "max_keepalive 40\n");
    let imported = import(&scratch, "max_keepalive 10\ninclude_dir conf.d\n");
    assert_eq!(config(&imported).settings.keep_alive_max_seconds, 30);
    let imported = import(&scratch, "include_dir nowhere\n");
    assert_eq!(imported.report.count(Kind::Lost), 1);
}

#[test]
fn files_are_written_and_nothing_is_replaced() {
    let scratch = Scratch::new();
    scratch.write("users", ALICE);
    scratch.write("rules", "topic read #\n");
    let conf = scratch.write(
        "mosquitto.conf",
        "listener 1883\nallow_anonymous true\npassword_file users\nacl_file rules\nhttp_dir x\n",
    );
    let out = scratch.path("out/new");
    let said = mosquitto(&conf, Some(&out)).expect("is written");
    assert!(said.contains("wrote ") && said.contains("mosquitto.conf:5: http_dir x"), "{said}");
    let mode = |name| fs::metadata(out.join(name)).expect(name).permissions().mode() & 0o777;
    assert_eq!(mode("passwords") & 0o077, 0);
    let text = fs::read_to_string(out.join("tidegate.toml")).expect("the config");
    let config = load(&text, &Overlay::default()).expect("a good config");
    let doorman = tidegate::auth::Doorman::open(&config.auth).expect("good files");
    assert!(doorman.has_passwords());
    assert!(fs::read_to_string(out.join("import-report.txt")).expect("it").contains("http_dir x"));

    let error = mosquitto(&conf, Some(&out)).expect_err("they are there").to_string();
    assert!(
        error.contains("has tidegate.toml, passwords, acl, import-report.txt already"),
        "{error}"
    );
    // Without a directory all is told and nothing written.
    let before = scratch.names();
    let said = mosquitto(&conf, None).expect("is told");
    assert!(said.contains("[listener.mqtt_1883]") && said.contains("# "), "{said}");
    load(&said, &Overlay::default()).expect("what is printed is a config");
    assert_eq!(scratch.names(), before);
}

/// The keys of mosquitto.conf(5) of 2.0.11, each with a value that it takes.
const KEYS: &str = "\
acl_file rules;allow_anonymous true;allow_duplicate_messages true;allow_zero_length_clientid false
auth_opt_x y;auth_plugin /p.so;auth_plugin_deny_special_chars true;auto_id_prefix a
autosave_interval 10;autosave_on_changes true;check_retain_source true;clientid_prefixes s-
connection_messages true;log_dest file /var/log/m.log;log_dest stderr;log_facility 5
log_timestamp true;log_timestamp_format %Y;log_type all;log_type none;max_inflight_bytes 10
max_inflight_messages 0;max_keepalive 60;max_packet_size 20;max_queued_bytes 0;max_queued_bytes 9
max_queued_messages 0;memory_limit 99999;message_size_limit 0;message_size_limit 100
password_file users;per_listener_settings false;persistence false;persistence_file f
persistence_location /p;persistent_client_expiration 2m;persistent_client_expiration x;pid_file /p
psk_file /p;queue_qos0_messages true;retain_available true;set_tcp_nodelay true;sys_interval 10
upgrade_outgoing_qos true;user mosquitto;bind_address 127.0.0.1;bind_interface lo;http_dir /d
listener 1884;listener 0 /s;listener x;listener x y;listener 1885 host.example;max_connections -1
max_connections 5;max_qos 1;max_topic_alias 3;mount_point m;port 1886;protocol mqtt
protocol websockets;protocol x;socket_domain ipv4;use_username_as_clientid false
websockets_log_level 3;websockets_headers_size 99;cafile /c;capath /c;certfile /c;keyfile /k
ciphers x;ciphers_tls1.3 x;crlfile /c;dhparamfile /d;require_certificate true
require_certificate false;tls_engine e;tls_engine_kpass_sha1 x;tls_keyform pem;tls_version tlsv1.1
tls_version tlsv1.2;use_identity_as_username true;use_subject_as_username true;psk_hint x
address a;addresses a;bridge_attempt_unsubscribe true;bridge_bind_address a
bridge_max_packet_size 1;bridge_outgoing_retain true;bridge_protocol_version mqttv50
cleansession true;local_cleansession true;connection c;keepalive_interval 9;idle_timeout 9
local_clientid a;local_password a;local_username a;notifications true;notifications_local_only true
notification_topic t;remote_clientid a;remote_password a;remote_username a;restart_timeout 10 30
round_robin true;start_type lazy;threshold 9;topic # both;try_private true;bridge_alpn a
bridge_cafile a;bridge_capath a;bridge_certfile a;bridge_identity a;bridge_insecure true
bridge_keyfile a;bridge_psk a;bridge_require_ocsp true;bridge_tls_version a;plugin /p;plugin_opt_x y
include_dir /nowhere;max_keepalive x;something_new 1";

#[test]
fn every_line_is_carried_over_or_in_the_report() {
    let scratch = Scratch::new();
    scratch.write("users", "");
    scratch.write("rules", "");
    let keys: Vec<&str> = KEYS.split([';', '\n']).collect();
    let accounted = |conf: &str| {
        let imported = import(&scratch, conf);
        let of_lines =
            imported.report.of_lines(Kind::Lost) + imported.report.of_lines(Kind::Unneeded);
        let lines = conf.lines().count();
        assert_eq!(imported.report.carried() + of_lines, lines, "{conf}\n{}", imported.report);
    };
    for key in &keys {
        accounted(&format!("{key}\n"));
        accounted(&format!("listener 1883\n{key}\n"));
        accounted(&format!("{key}\n{key}\n"));
        accounted(&format!("per_listener_settings true\n{key}\nlistener 1883\n{key}\n"));
        accounted(&format!(
            "listener 8883\ncertfile /c\nkeyfile /k\nrequire_certificate true\n{key}\n"
        ));
    }
    accounted(&(keys.join("\n") + "\n"));
}
