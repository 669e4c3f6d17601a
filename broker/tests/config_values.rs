//! What a good config means.

use std::path::Path;
use std::time::Duration;

use tidegate::config::key::{Fallback, Shape};
use tidegate::config::{Config, Flags, Overlay, TcpKeepalive, Transport, Warning};
use tidegate::config::{file, load, read, reference};
use tidegate::telemetry::log::{LogFormat, LogLevel};
use tidegate_core::limits::QueuePolicy;
use tidegate_core::settings::Settings;

fn good(text: &str) -> Config {
    load(text, &Overlay::default()).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn env(variables: &[(&str, &str)]) -> Overlay {
    let variables = variables.iter().map(|(name, value)| (name.into(), value.into())).collect();
    Overlay { variables, flags: Flags::default() }
}

#[test]
fn the_defaults_run_on_loopback() {
    let config = Config::default();
    let [default] = &config.listeners[..] else { panic!("{:?}", config.listeners) };
    assert_eq!(
        (default.name.as_str(), default.bind.to_string()),
        ("default", "127.0.0.1:1883".into())
    );
    assert_eq!((default.transport, default.backlog), (Transport::Tcp, 1_024));
    assert!(default.is_open() && default.tls.is_none());
    assert_eq!(config.admin_bind.to_string(), "127.0.0.1:8888");
    assert_eq!(config.data_dir, Path::new("./tidegate-data"));
    assert_eq!(config.shards, None);
    assert_eq!(config.drain, Duration::from_secs(25));
    let mut settings = Settings::default();
    // They follow from the memory and the volume, when the node starts.
    (settings.limits.queue_node_messages_max, settings.limits.queue_node_bytes_max) = (0, 0);
    assert_eq!(config.settings, settings);
    let five_minutes = Duration::from_secs(300);
    let keepalive = TcpKeepalive { idle: five_minutes, interval: five_minutes, count: 2 };
    assert_eq!(config.keepalive, keepalive);
    assert_eq!((config.log.level, config.log.format), (LogLevel::Info, LogFormat::Plain));
    assert_eq!(config.warnings, []);
}

#[test]
fn every_key_of_limits_and_mqtt_reaches_the_core() {
    let mut text = String::new();
    for (title, _, keys) in file::TABLES.iter().filter(|t| ["mqtt", "limits"].contains(&t.0)) {
        text += &format!("[{title}]\n");
        for key in *keys {
            let Fallback::Value(default) = (key.default)() else { panic!("{} has one", key.name) };
            let other = match key.shape {
                Shape::Number => {
                    let (min, max) = key.range.expect("a range");
                    let default: u64 = default.parse().expect("a number");
                    (if default == max { (min + max) / 2 } else { default + 1 })
                        .min(max)
                        .to_string()
                }
                Shape::Switch => (default == "false").to_string(),
                Shape::Text => "\"other\"".into(),
                Shape::Choice(words) => format!("{:?}", words.last().expect("words")),
                Shape::Address
                | Shape::Path
                | Shape::Networks
                | Shape::Discovery
                | Shape::Weights => {
                    panic!("{}: none there", key.name)
                }
            };
            // The greatest QoS is the default, and has nothing above.
            let other = if key.name == "qos_max" { "1".into() } else { other };
            assert_ne!(other, default, "{}", key.name);
            text += &format!("{} = {other}\n", key.name);
        }
    }
    let (ours, theirs) = (good(&text).settings, Settings::default());
    let (ours, theirs) = (format!("{ours:#?}"), format!("{theirs:#?}"));
    assert_eq!(ours.lines().count(), theirs.lines().count());
    for (ours, theirs) in ours.lines().zip(theirs.lines()) {
        let a_value = ours.contains(": ") && !ours.ends_with('{');
        assert!(!a_value || ours != theirs, "no key changes {ours}");
    }
}

#[test]
fn every_default_is_within_its_own_range() {
    for (title, doc, keys) in file::TABLES {
        assert!(!doc.trim().is_empty());
        for key in *keys {
            let numbers = matches!(key.shape, Shape::Number | Shape::Weights);
            assert_eq!(key.range.is_some(), numbers, "{title}.{}", key.name);
            assert!(key.doc.trim().ends_with('.'), "{title}.{}: a sentence", key.name);
            assert!(!key.doc.contains('|'), "{title}.{}: would break the table", key.name);
            let timed = key.name.ends_with("_seconds");
            assert_eq!(timed, key.unit == Some("seconds"), "{title}.{}", key.name);
            if let (Some((min, max)), Fallback::Value(value)) = (key.range, (key.default)()) {
                let value: u64 = value.parse().expect("a number");
                assert!((min..=max).contains(&value), "{title}.{}: {value}", key.name);
            }
        }
    }
}

#[test]
fn one_key_states_the_balancers_timeout() {
    let config = good("[node]\nlb_idle_timeout_seconds = 350");
    assert_eq!(config.keepalive.idle, Duration::from_secs(210));
    assert_eq!(config.keepalive.interval, Duration::from_secs(60));
    assert_eq!(config.keepalive.count, 3);
    assert_eq!(config.settings.keep_alive_max_seconds, 210);

    let text = "[node]\nlb_idle_timeout_seconds = 350\n[mqtt]\nkeep_alive_max_seconds = 100";
    let config = good(text);
    assert_eq!(config.settings.keep_alive_max_seconds, 100, "what is set wins");
    assert_eq!(config.warnings, []);

    for keep_alive in [0, 350, 1_000] {
        let text = format!(
            "[node]\nlb_idle_timeout_seconds = 350\n[mqtt]\nkeep_alive_max_seconds = {keep_alive}"
        );
        let warning = Warning::KeepAliveAboveBalancer { keep_alive, timeout: 350, most: 210 };
        assert_eq!(good(&text).warnings, [warning]);
    }
}

#[test]
fn a_listener_may_leave_loopback_when_it_says_anonymous() {
    let text = "[listener.open]\nbind = '0.0.0.0:1883'\nanonymous = true\nbacklog = 64";
    let config = good(text);
    assert_eq!(config.listeners.len(), 1, "no default beside named ones");
    assert_eq!(config.listeners[0].backlog, 64);
    let said = config.warnings[0].to_string();
    assert_eq!(said, "listener.open: anybody who reaches 0.0.0.0:1883 can publish and subscribe");
    let text = "[listener.a]\nbind = '127.0.0.2:1883'\n[listener.b]\nbind = '[::1]:1883'";
    assert_eq!(good(text).listeners.len(), 2);
    let text = "[listener.a]\nbind = '127.0.0.1:0'\n[listener.b]\nbind = '127.0.0.1:0'";
    assert_eq!(good(text).listeners.len(), 2, "the kernel gives each its own port");
}

#[test]
fn the_environment_overrides_the_file_and_flags_override_both() {
    let file = "[node]\nshards = 1\nname = 'file'\n[listener.default]\nbind = '127.0.0.1:1'";
    let overlay = env(&[
        ("TIDEGATE__NODE__SHARDS", "2"),
        ("tidegate__listener__DEFAULT__bind", "127.0.0.1:2"),
        ("TIDEGATE__LISTENER__SECOND__BIND", "127.0.0.1:22"),
        ("TIDEGATE__MQTT__RETAIN_AVAILABLE", "false"),
        ("TIDEGATE__LIMITS__QUEUE_POLICY", "drop_new"),
        ("TIDEGATE__MQTT__RESPONSE_INFORMATION", "17"),
        // Kubernetes sets these for a Service named tidegate.
        ("TIDEGATE_PORT", "tcp://10.0.0.1:1883"),
        ("TIDEGATE_SERVICE_HOST", "10.0.0.1"),
    ]);
    let config = load(file, &overlay).expect("good");
    assert_eq!((config.name.as_str(), config.shards), ("file", Some(2)));
    let binds: Vec<_> = config.listeners.iter().map(|l| (l.name.as_str(), l.bind.port())).collect();
    assert_eq!(binds, [("default", Some(2)), ("second", Some(22))]);
    assert!(!config.settings.retain_available);
    assert_eq!(config.settings.limits.queue_policy, QueuePolicy::DropNew);
    assert_eq!(config.settings.response_information, "17", "text that looks like a number");

    let flags = Flags {
        listen: Some("127.0.0.1:3".parse().expect("an address")),
        admin: Some("127.0.0.1:33".parse().expect("an address")),
        data_dir: Some("/data".into()),
        shards: Some(3),
    };
    let config = load(file, &overlay.with_flags(flags)).expect("good");
    assert_eq!((config.shards, config.listeners[0].bind.port()), (Some(3), Some(3)));
    assert_eq!((config.admin_bind.port(), config.data_dir.as_path()), (33, Path::new("/data")));
}

#[test]
fn the_summary_is_a_config_that_means_the_same() {
    for text in [
        "",
        "[node]\nlb_idle_timeout_seconds = 60\nname = 'n-1.a'\nshards = 3\ndata_dir = 'a\"b\\\\c'",
        "[listener.x]\nbind = '[::]:1'\nanonymous = true\n[mqtt]\nresponse_information = 'a/b \"é\"'",
    ] {
        let (file, config) = read(text, &Overlay::default()).expect(text);
        let summary = reference::effective(&file, &config);
        let again = load(&summary, &Overlay::default()).expect(&summary);
        assert_eq!(format!("{config:?}"), format!("{again:?}"), "{summary}");
    }
}
