//! Source addresses.
//!
//! A source address holds as many connections to one target as the kernel has
//! ephemeral ports, some 28,000. Loopback is a whole /8, so there a load takes
//! as many addresses as it likes; elsewhere they are named by the user.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Where connections come from.
#[derive(Clone, Debug)]
pub(crate) struct Sources {
    named: Vec<IpAddr>,
    clients_each: u32,
}

impl Sources {
    /// `named` in turn, or for targets on IPv4 loopback an address for each `clients_each`.
    pub(crate) fn new(named: Vec<IpAddr>, clients_each: u32) -> Self {
        Self { named, clients_each: clients_each.max(1) }
    }

    /// The address of a client, by its number in the whole load; none is the kernel's choice.
    pub(crate) fn of(&self, client: u32, target: SocketAddr) -> Option<IpAddr> {
        if !self.named.is_empty() {
            let fit = || self.named.iter().filter(|named| named.is_ipv4() == target.is_ipv4());
            let count = fit().count();
            return fit().nth(client as usize % count.max(1)).copied();
        }
        match target.ip() {
            IpAddr::V4(ip) if ip.is_loopback() => Some(loopback(client / self.clients_each)),
            IpAddr::V4(_) | IpAddr::V6(_) => None,
        }
    }
}

/// 127.1.0.1 and on.
fn loopback(number: u32) -> IpAddr {
    let [_, high, middle, low] = (number % 0x00FD_FFFE + 1).to_be_bytes();
    Ipv4Addr::new(127, high + 1, middle, low).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_clients_spread_over_addresses() {
        let sources = Sources::new(Vec::new(), 1_000);
        let target = SocketAddr::from(([127, 0, 0, 1], 1883));
        assert_eq!(sources.of(999, target), Some([127, 1, 0, 1].into()));
        assert_eq!(sources.of(1_000, target), Some([127, 1, 0, 2].into()));
        assert_eq!(sources.of(u32::MAX, target).map(|ip| ip.is_loopback()), Some(true));
    }

    #[test]
    fn named_addresses_take_turns_and_fit_the_target() {
        let named = ["::1", "10.0.0.1", "10.0.0.2"].map(|ip| ip.parse().expect("an address"));
        let sources = Sources::new(named.to_vec(), 1);
        let target = SocketAddr::from(([10, 0, 0, 9], 1883));
        assert_eq!(sources.of(0, target), Some([10, 0, 0, 1].into()));
        assert_eq!(sources.of(1, target), Some([10, 0, 0, 2].into()));
    }
}
