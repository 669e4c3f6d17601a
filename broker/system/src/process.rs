//! `/proc/<pid>/limits` and the capability masks of `/proc/<pid>/status`.

/// A limit: so much, or none.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Limit {
    /// At most this.
    At(u64),
    /// No limit.
    Unlimited,
}

impl Limit {
    /// Whether `needed` fits.
    pub fn allows(self, needed: u64) -> bool {
        match self {
            Limit::At(most) => needed <= most,
            Limit::Unlimited => true,
        }
    }
}

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Limit::At(most) => most.fmt(f),
            Limit::Unlimited => f.write_str("unlimited"),
        }
    }
}

/// Soft and hard limit by its name in the file, such as `Max open files`.
pub fn limits(text: &str, name: &str) -> Option<(Limit, Limit)> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    // A longer name that begins the same is another limit.
    let mut words = line.strip_prefix(' ')?.split_ascii_whitespace();
    Some((limit(words.next()?)?, limit(words.next()?)?))
}

fn limit(word: &str) -> Option<Limit> {
    match word {
        "unlimited" => Some(Limit::Unlimited),
        number => number.parse().ok().map(Limit::At),
    }
}

/// Capabilities as the kernel numbers them.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Capabilities(pub u64);

impl Capabilities {
    /// What the kernel side of a node wants: number and name.
    pub const WANTED: [(u32, &'static str); 3] = [(39, "BPF"), (38, "PERFMON"), (12, "NET_ADMIN")];

    /// Of [`Capabilities::WANTED`], those that are missing. CAP_SYS_ADMIN (21)
    /// has the first two in it.
    pub fn missing(self) -> impl Iterator<Item = &'static str> {
        let has = move |bit: u32| self.0 >> bit & 1 == 1;
        Self::WANTED.into_iter().filter_map(move |(bit, name)| {
            let present = has(bit) || (bit >= 38 && has(21));
            (!present).then_some(name)
        })
    }
}

/// A mask of `/proc/<pid>/status` by its name, such as `CapEff`.
pub fn capabilities(status: &str, name: &str) -> Option<Capabilities> {
    let mask = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    u64::from_str_radix(mask.trim(), 16).ok().map(Capabilities)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: &str = "\
Limit                     Soft Limit           Hard Limit           Units     
Max cpu time              unlimited            unlimited            seconds   
Max open files            1024                 524288               files     
Max locked memory         8388608              unlimited            bytes     
Max realtime timeout      unlimited            unlimited            us        
";

    #[test]
    fn limits_are_numbers_or_none() {
        assert_eq!(limits(LIMITS, "Max open files"), Some((Limit::At(1_024), Limit::At(524_288))));
        let locked = Some((Limit::At(8_388_608), Limit::Unlimited));
        assert_eq!(limits(LIMITS, "Max locked memory"), locked);
        assert!(Limit::Unlimited.allows(u64::MAX) && Limit::At(5).allows(5));
        assert!(!Limit::At(5).allows(6));
    }

    #[test]
    fn what_is_no_limit_is_none() {
        assert_eq!(limits(LIMITS, "Max processes"), None);
        assert_eq!(limits(LIMITS, "Max open fil"), None);
        for text in ["", "Max open files", "Max open files 5", "Max open files -1 5 files"] {
            assert_eq!(limits(text, "Max open files"), None, "{text:?}");
        }
    }

    #[test]
    fn masks_of_capabilities_tell_what_is_missing() {
        let status = "CapInh:\t0000000000000000\nCapPrm:\t000001fffeffffff\n\
                      CapEff:\t000000c000001000\nCapBnd:\t000001fffeffffff\n";
        let effective = capabilities(status, "CapEff").expect("a mask");
        assert_eq!(effective.missing().count(), 0);
        let none = capabilities(status, "CapInh").expect("a mask");
        assert_eq!(none.missing().collect::<Vec<_>>(), ["BPF", "PERFMON", "NET_ADMIN"]);
        // An older kernel's root: all but those it does not know.
        let old = Capabilities(0x3f_ffff_ffff);
        assert_eq!(old.missing().count(), 0);
        assert_eq!(Capabilities(1 << 21).missing().collect::<Vec<_>>(), ["NET_ADMIN"]);
    }

    #[test]
    fn what_is_no_mask_is_none() {
        for text in ["", "CapEff:", "CapEff: x", "CapEff:\t00000000000000000001ffffffffffffffff"] {
            assert_eq!(capabilities(text, "CapEff"), None, "{text:?}");
        }
    }
}
