//! `/proc/net/stat/nf_conntrack`: what connection tracking did, a line a CPU.

/// The operations that are told, by the column's name.
pub const OPERATIONS: [&str; 9] = [
    "found",
    "invalid",
    "insert",
    "insert_failed",
    "drop",
    "early_drop",
    "search_restart",
    "clashres",
    "chaintoolong",
];

/// Lines that are looked at: more CPUs than Linux has anywhere.
const CPUS_MAX: usize = 16_384;

/// How often each of [`OPERATIONS`] happened, over all CPUs; none for what this
/// kernel does not count. The kernel's counters have 32 bits and wrap.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Operations(pub [Option<u64>; OPERATIONS.len()]);

impl Operations {
    /// Name and number of those that are counted.
    pub fn counted(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        OPERATIONS.into_iter().zip(self.0).filter_map(|(name, n)| Some((name, n?)))
    }

    /// The number of one, by its name.
    pub fn of(&self, name: &str) -> Option<u64> {
        self.counted().find_map(|(other, n)| (other == name).then_some(n))
    }
}

/// Sums the columns of all CPUs; none if there is no line of a CPU or one of
/// them is not as the head says.
pub fn operations(text: &str) -> Option<Operations> {
    let mut lines = text.lines();
    let heads: Vec<&str> = lines.next()?.split_ascii_whitespace().collect();
    let mut columns = [None; OPERATIONS.len()];
    for (column, name) in columns.iter_mut().zip(OPERATIONS) {
        *column = heads.iter().position(|head| *head == name);
    }
    let mut sums = columns.map(|column| column.map(|_| 0u64));
    let mut cpus = 0;
    for line in lines.take(CPUS_MAX) {
        let mut values = 0;
        for (at, word) in line.split_ascii_whitespace().enumerate() {
            let value = u64::from(u32::from_str_radix(word, 16).ok()?);
            values += 1;
            if let Some(which) = columns.iter().position(|column| *column == Some(at)) {
                sums[which] = sums[which].map(|sum| sum + value);
            }
        }
        if values != heads.len() {
            return None;
        }
        cpus += 1;
    }
    (cpus > 0 && heads.first() == Some(&"entries")).then_some(Operations(sums))
}

/// Share of the table that is taken when `connections_max` connections are
/// open, of which `connections` are now: what is there besides them stays. It
/// takes each for tracked, as they are where any rule or Service looks at
/// connections.
pub fn predicted_entries(entries: u64, connections: u64, connections_max: u64) -> u64 {
    entries.saturating_sub(connections).saturating_add(connections_max)
}

/// `part` of `whole`; none of nothing.
pub fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    // Linux 6.18, two CPUs.
    const STAT: &str = "\
entries  clashres found new invalid ignore delete chainlength insert insert_failed drop early_drop icmp_error  expect_new expect_create expect_delete search_restart
0000001c  00000001 00000000 00000000 00000010 00000000 00000000 00000000 00000000 00000003 0000000a 00000002 00000000  00000000 00000000 00000000 000000ff
0000001c  00000000 00000000 00000000 00000002 00000000 00000000 00000000 00000000 00000001 00000000 ffffffff 00000000  00000000 00000000 00000000 00000001
";

    #[test]
    fn the_columns_of_all_cpus_are_summed_by_name() {
        let told = operations(STAT).expect("as a kernel wrote it");
        assert_eq!(told.of("drop"), Some(10));
        assert_eq!(told.of("insert_failed"), Some(4));
        assert_eq!(told.of("early_drop"), Some(0x1_0000_0001));
        assert_eq!(told.of("invalid"), Some(0x12));
        assert_eq!(told.of("search_restart"), Some(0x100));
        assert_eq!(told.of("clashres"), Some(1));
    }

    #[test]
    fn a_column_that_this_kernel_has_not_is_none_and_not_0() {
        let told = operations(STAT).expect("as a kernel wrote it");
        assert_eq!(told.of("chaintoolong"), None);
        assert_eq!(told.counted().count(), OPERATIONS.len() - 1);
    }

    #[test]
    fn what_is_not_such_a_file_is_none() {
        for text in [
            "",
            "entries found\n",
            "entries found\n00000001\n",
            "entries found\n00000001 0000000g\n",
            "entries found\n00000001 100000000\n",
            "entries found\n00000001 00000002 00000003\n",
            "found entries\n00000001 00000002\n",
        ] {
            assert_eq!(operations(text), None, "{text:?}");
        }
    }

    #[test]
    fn what_is_predicted_counts_no_connection_twice() {
        assert_eq!(predicted_entries(1_500, 1_000, 10_000), 10_500);
        // Connections that are not tracked are not taken away from others'.
        assert_eq!(predicted_entries(10, 1_000, 10_000), 10_000);
        assert_eq!(predicted_entries(u64::MAX, 0, 1), u64::MAX);
        assert_eq!(ratio(1_200_000, 262_144).map(|r| (r * 10.0).round()), Some(46.0));
        assert_eq!(ratio(1, 0), None);
    }
}
