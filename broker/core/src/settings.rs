//! What a node offers its clients; the shell fills it from the config.

use crate::limits::Limits;

/// The protocol settings of a node, one copy shared by all shards.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Settings {
    /// The bounds.
    pub limits: Limits,
    /// The highest QoS a client may publish with (0 or 1 announces Maximum QoS).
    pub qos_max: u8,
    /// Whether retained messages are kept (false announces Retain Available 0).
    pub retain_available: bool,
    /// Whether filters may hold wildcards (false: 0xA2).
    pub wildcard_subscription_available: bool,
    /// Whether subscription identifiers are taken (false: 0xA1).
    pub subscription_identifier_available: bool,
    /// Whether `$share` is offered (false: 0x9E).
    pub shared_subscription_available: bool,
    /// The highest topic alias a client may set (0: none).
    pub topic_alias_in_max: u16,
    /// The highest topic alias used towards a client (never above its own maximum).
    pub topic_alias_out_max: u16,
    /// The longest keep alive in seconds; 0: no limit. 5.0 clients above it, or
    /// with 0, are told Server Keep Alive.
    pub keep_alive_max_seconds: u16,
    /// Whether a 3.x client above the limit is refused (0x02) instead of honoured.
    pub keep_alive_strict: bool,
    /// Whether a payload that claims to be UTF-8 is checked (0x99).
    pub payload_format_check: bool,
    /// Whether a QoS 1 message of a shared subscription goes to another member
    /// when its member disconnects (true) or when its session ends (false).
    pub share_redispatch_on_disconnect: bool,
    /// A publish that is not allowed closes a 3.x connection (true) or is
    /// acknowledged and dropped (false) [MQTT-3.3.5-2].
    pub refused_publish_closes: bool,
    /// Response Information for clients that ask; empty: never sent.
    pub response_information: String,
    /// Whether a DISCONNECT to a 5.0 client carries a reason string (it may,
    /// whatever the client said about problem information [MQTT-3.1.2-29]).
    /// Off: the fewest bytes.
    pub reason_strings: bool,
    /// Seconds between two publications of the `$SYS` topics; 0: none.
    pub sys_interval_seconds: u32,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            limits: Limits::default(),
            qos_max: 2,
            retain_available: true,
            wildcard_subscription_available: true,
            subscription_identifier_available: true,
            shared_subscription_available: true,
            topic_alias_in_max: 32,
            topic_alias_out_max: 32,
            keep_alive_max_seconds: 0,
            keep_alive_strict: false,
            payload_format_check: false,
            share_redispatch_on_disconnect: false,
            refused_publish_closes: false,
            response_information: String::new(),
            reason_strings: false,
            sys_interval_seconds: 10,
        }
    }
}
