//! `/proc/net/sockstat`: how many sockets there are and what they hold.

/// What the kernel tells of TCP.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Tcp {
    /// IPv4 sockets in use.
    pub in_use: Option<u64>,
    /// Sockets that no process has any more.
    pub orphans: Option<u64>,
    /// Sockets in TIME_WAIT.
    pub time_wait: Option<u64>,
    /// Sockets allocated, of both families.
    pub allocated: Option<u64>,
    /// Pages that buffers of all of them take, to be held against `tcp_mem`.
    pub memory_pages: Option<u64>,
}

/// Reads the line of TCP; none without one.
pub fn tcp(text: &str) -> Option<Tcp> {
    let line = text.lines().find_map(|line| line.strip_prefix("TCP:"))?;
    let mut words = line.split_ascii_whitespace();
    let mut tcp = Tcp::default();
    while let (Some(name), Some(value)) = (words.next(), words.next()) {
        let value = value.parse().ok();
        match name {
            "inuse" => tcp.in_use = value,
            "orphan" => tcp.orphans = value,
            "tw" => tcp.time_wait = value,
            "alloc" => tcp.allocated = value,
            "mem" => tcp.memory_pages = value,
            _ => {}
        }
    }
    Some(tcp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_tcp_is_read() {
        let text =
            "sockets: used 16\nTCP: inuse 1 orphan 2 tw 3 alloc 4 mem 5\nUDP: inuse 0 mem 9\n";
        let told = Tcp {
            in_use: Some(1),
            orphans: Some(2),
            time_wait: Some(3),
            allocated: Some(4),
            memory_pages: Some(5),
        };
        assert_eq!(tcp(text), Some(told));
    }

    #[test]
    fn what_is_missing_or_no_number_is_none() {
        assert_eq!(tcp("sockets: used 16\nTCP6: inuse 1\n"), None);
        let told = tcp("TCP: inuse x orphan 2 tw").expect("a line of TCP");
        assert_eq!(told, Tcp { orphans: Some(2), ..Tcp::default() });
    }
}
