//! The block list as the kernel needs it: one value a prefix, in which the
//! longest match has the bits of all that cover it.

use std::collections::BTreeMap;

use ipnet::IpNet;

/// For each prefix the listeners that are closed to it, a bit each.
///
/// The kernel finds the longest prefix alone, so each has what shorter ones
/// say as well. IPv4-mapped networks count as IPv4, as they come in the kernel.
#[must_use]
pub fn flatten(lists: &[Vec<IpNet>]) -> BTreeMap<IpNet, u32> {
    let mut closed: BTreeMap<IpNet, u32> = BTreeMap::new();
    for (listener, networks) in lists.iter().enumerate().take(32) {
        for network in networks {
            *closed.entry(canonical(*network)).or_default() |= 1 << listener;
        }
    }
    // Shorter ones first: whoever is covered takes over what is final already.
    let mut order: Vec<IpNet> = closed.keys().copied().collect();
    order.sort_by_key(IpNet::prefix_len);
    for network in &order {
        let covering = (0..network.prefix_len()).filter_map(|bits| {
            let shorter = IpNet::new(network.addr(), bits).ok()?.trunc();
            closed.get(&shorter).copied()
        });
        let bits = covering.fold(0, |all, bits| all | bits);
        if let Some(own) = closed.get_mut(network) {
            *own |= bits;
        }
    }
    closed
}

fn canonical(network: IpNet) -> IpNet {
    use std::net::IpAddr;
    match network.addr().to_canonical() {
        IpAddr::V4(address) if network.prefix_len() >= 96 && network.addr().is_ipv6() => {
            IpNet::new(address.into(), network.prefix_len() - 96).unwrap_or(network).trunc()
        }
        IpAddr::V4(_) | IpAddr::V6(_) => network.trunc(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().expect("a network")).collect()
    }

    #[test]
    fn a_longer_prefix_has_what_shorter_ones_say() {
        let found = flatten(&[
            nets(&["10.0.0.0/8", "2001:db8::/32"]),
            nets(&["10.1.0.0/16", "2001:db8:1::/48"]),
            nets(&["10.1.2.3/32"]),
        ]);
        let at = |text: &str| found[&text.parse::<IpNet>().expect("a network")];
        assert_eq!(at("10.0.0.0/8"), 0b001);
        assert_eq!(at("10.1.0.0/16"), 0b011);
        assert_eq!(at("10.1.2.3/32"), 0b111);
        assert_eq!(at("2001:db8:1::/48"), 0b011);
    }

    #[test]
    fn hosts_bits_and_mapped_forms_make_no_difference() {
        let found = flatten(&[nets(&["10.9.9.9/8", "::ffff:10.0.0.0/104"])]);
        assert_eq!(found.into_iter().collect::<Vec<_>>(), [(nets(&["10.0.0.0/8"])[0], 1)]);
    }

    #[test]
    fn the_default_route_covers_its_family_alone() {
        let found = flatten(&[nets(&["0.0.0.0/0"]), nets(&["10.0.0.0/8", "::/0"])]);
        let at = |text: &str| found[&text.parse::<IpNet>().expect("a network")];
        assert_eq!((at("10.0.0.0/8"), at("::/0")), (0b11, 0b10));
    }
}
