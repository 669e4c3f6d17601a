//! Who may speak for other addresses.

use std::net::IpAddr;

use ipnet::IpNet;

/// Networks of proxies.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Trusted(Vec<IpNet>);

impl Trusted {
    /// These networks. One of IPv4-mapped IPv6 addresses counts as IPv4.
    pub fn new(networks: Vec<IpNet>) -> Trusted {
        Trusted(networks.into_iter().map(canonical).collect())
    }

    /// Whether `address` is in one of them; an IPv4-mapped one counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// Whether nobody is trusted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn canonical(network: IpNet) -> IpNet {
    match network.addr().to_canonical() {
        IpAddr::V4(address) if network.prefix_len() >= 96 && network.addr().is_ipv6() => {
            IpNet::new(address.into(), network.prefix_len() - 96).unwrap_or(network)
        }
        IpAddr::V4(_) | IpAddr::V6(_) => network,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trusted(networks: &[&str]) -> Trusted {
        Trusted::new(networks.iter().map(|text| text.parse().expect("a network")).collect())
    }

    #[test]
    fn addresses_are_held_against_each_network() {
        let trusted = trusted(&["10.0.0.0/8", "::1/128"]);
        let contains = |text: &str| trusted.contains(text.parse().expect("an address"));
        assert!(contains("10.9.8.7") && contains("::1") && contains("::ffff:10.1.1.1"));
        assert!(!contains("11.0.0.1") && !contains("::2") && !contains("127.0.0.1"));
    }

    #[test]
    fn a_mapped_network_is_one_of_ipv4() {
        let trusted = trusted(&["::ffff:10.0.0.0/104"]);
        assert!(trusted.contains("10.2.3.4".parse().expect("an address")));
        assert!(!trusted.contains("11.2.3.4".parse().expect("an address")));
    }
}
