//! What the load balancer's idle timeout asks of both keep alives.
//!
//! A load balancer forgets a connection that was silent for its idle timeout,
//! and often tells neither side. One key states that timeout; TCP keepalive
//! probes and MQTT's Server Keep Alive are derived from it, so that something
//! always passes well before.

use std::time::Duration;

/// The three socket options of TCP keepalive (`TCP_KEEPIDLE`, `TCP_KEEPINTVL`,
/// `TCP_KEEPCNT`), set on each accepted socket.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TcpKeepalive {
    /// Silence before the first probe.
    pub idle: Duration,
    /// Time between probes that are not answered.
    pub interval: Duration,
    /// Unanswered probes after which the connection is dead.
    pub count: u32,
}

impl Default for TcpKeepalive {
    /// What operators of brokers set as node sysctls (requirement N8).
    fn default() -> TcpKeepalive {
        TcpKeepalive {
            idle: Duration::from_secs(300),
            interval: Duration::from_secs(300),
            count: 2,
        }
    }
}

impl TcpKeepalive {
    /// Probes for a load balancer that forgets after `timeout_seconds`: the
    /// first after 6/10 of it, and a lost one is repeated while there is time.
    pub fn below(timeout_seconds: u32) -> TcpKeepalive {
        let tenths = |n: u64, max: u64| {
            Duration::from_secs((u64::from(timeout_seconds) * n / 10).clamp(1, max))
        };
        TcpKeepalive { idle: tenths(6, 300), interval: tenths(2, 60), count: 3 }
    }
}

/// The longest MQTT keep alive that still talks before `timeout_seconds`.
pub fn keep_alive_below(timeout_seconds: u32) -> u16 {
    let seconds = (u64::from(timeout_seconds) * 6 / 10).max(1);
    u16::try_from(seconds).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_probes_go_out_before_any_timeout() {
        for timeout in [5, 10, 60, 240, 350, 600, 3_600, 86_400] {
            let keepalive = TcpKeepalive::below(timeout);
            let second = keepalive.idle + keepalive.interval;
            assert!(second < Duration::from_secs(timeout.into()), "{timeout}: {keepalive:?}");
            assert!(keepalive.idle >= Duration::from_secs(1));
            assert!((2..=3).contains(&keepalive.count));
            assert!(u32::from(keep_alive_below(timeout)) < timeout);
        }
    }

    #[test]
    fn a_350_second_balancer_gets_210() {
        let keepalive = TcpKeepalive::below(350);
        assert_eq!(keepalive.idle.as_secs(), 210);
        assert_eq!(keepalive.interval.as_secs(), 60);
        assert_eq!(keep_alive_below(350), 210);
    }
}
