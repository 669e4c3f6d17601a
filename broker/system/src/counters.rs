//! `/proc/net/netstat` and `/proc/net/snmp`: a line of names, a line of values.
//!
//! Each table is two lines that begin with its name and a colon. New kernels
//! add columns anywhere, so a value is found by its name alone.

/// The value of `name` in `table`; none if it is not there, negative, or the
/// two lines do not belong together.
pub fn value(text: &str, table: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines();
    while let Some(heads) = lines.next() {
        let Some(heads) = row(heads, table) else { continue };
        let values = row(lines.next()?, table)?;
        let at = heads.split_ascii_whitespace().position(|head| head == name);
        // A table may come in several parts.
        let Some(at) = at else { continue };
        return values.split_ascii_whitespace().nth(at)?.parse().ok();
    }
    None
}

fn row<'a>(line: &'a str, table: &str) -> Option<&'a str> {
    line.strip_prefix(table)?.strip_prefix(':')
}

#[cfg(test)]
mod tests {
    use super::*;

    // Linux 6.18, shortened to some columns of each.
    const NETSTAT: &str = "\
TcpExt: SyncookiesSent SyncookiesRecv DelayedACKLost ListenOverflows ListenDrops TCPHPHits
TcpExt: 18485 42310 173607 338978 338979 75547071
IpExt: InNoRoutes InTruncatedPkts InMcastPkts OutMcastPkts
IpExt: 0 0 12 4
";
    const SNMP: &str = "\
IcmpMsg: InType3
IcmpMsg: 3
Tcp: RtoAlgorithm RtoMin RtoMax MaxConn ActiveOpens EstabResets RetransSegs InErrs OutRsts
Tcp: 1 200 120000 -1 6902834 3104673 504919 1 3621723
Udp: InDatagrams NoPorts InErrors
Udp: 652 0 7
UdpLite: InDatagrams NoPorts InErrors
UdpLite: 0 0 0
";

    #[test]
    fn values_are_found_by_table_and_name() {
        assert_eq!(value(NETSTAT, "TcpExt", "ListenOverflows"), Some(338_978));
        assert_eq!(value(NETSTAT, "TcpExt", "ListenDrops"), Some(338_979));
        assert_eq!(value(SNMP, "Tcp", "RetransSegs"), Some(504_919));
        assert_eq!(value(SNMP, "Tcp", "OutRsts"), Some(3_621_723));
        // The same name in another table.
        assert_eq!(value(SNMP, "Tcp", "InErrs"), Some(1));
        assert_eq!(value(SNMP, "Udp", "InErrors"), Some(7));
    }

    #[test]
    fn what_is_not_there_or_negative_is_none() {
        assert_eq!(value(SNMP, "Tcp", "MaxConn"), None);
        assert_eq!(value(SNMP, "Tcp", "ListenDrops"), None);
        assert_eq!(value(SNMP, "Sctp", "InErrs"), None);
        assert_eq!(value("", "Tcp", "InErrs"), None);
    }

    #[test]
    fn halves_and_nonsense_are_none() {
        for text in [
            "Tcp: A B",
            "Tcp: A B\n",
            "Tcp: A B\nUdp: 1 2\n",
            "Tcp: A B\nTcp: 1\n",
            "Tcp: A B\nTcp: 1 x\n",
            "Tcp: A B\nTcp: 1 18446744073709551616\n",
            "Tcp A B\nTcp 1 2\n",
        ] {
            assert_eq!(value(text, "Tcp", "B"), None, "{text:?}");
        }
    }
}
