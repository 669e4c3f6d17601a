//! Limits of a cgroup: `cpu.max` and `memory.max`, and their elders of v1.

use crate::process::Limit;

/// What a group may use of the CPUs, in thousandths of one.
pub type Millicores = u64;

/// `cpu.max` of v2: `QUOTA PERIOD`, or `max PERIOD`.
pub fn cpu_max(text: &str) -> Option<Limit> {
    let mut words = text.split_ascii_whitespace();
    let (quota, period) = (words.next()?, words.next()?.parse().ok()?);
    match quota {
        "max" => Some(Limit::Unlimited),
        quota => share(quota.parse().ok()?, period),
    }
}

/// `cpu.cfs_quota_us` (-1: none) and `cpu.cfs_period_us` of v1.
pub fn cfs(quota: &str, period: &str) -> Option<Limit> {
    match quota.trim() {
        "-1" => Some(Limit::Unlimited),
        quota => share(quota.parse().ok()?, period.trim().parse().ok()?),
    }
}

fn share(quota: u64, period: u64) -> Option<Limit> {
    Some(Limit::At(quota.checked_mul(1_000)?.checked_div(period)?))
}

/// `memory.max` of v2 or `memory.limit_in_bytes` of v1, which says "none" with a
/// number near 2^63.
pub fn memory_max(text: &str) -> Option<Limit> {
    const NONE_FROM: u64 = 1 << 60;
    match text.trim() {
        "max" => Some(Limit::Unlimited),
        number => {
            let bytes = number.parse().ok()?;
            Some(if bytes >= NONE_FROM { Limit::Unlimited } else { Limit::At(bytes) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_is_a_share_of_its_period() {
        assert_eq!(cpu_max("150000 100000\n"), Some(Limit::At(1_500)));
        assert_eq!(cpu_max("max 100000\n"), Some(Limit::Unlimited));
        assert_eq!(cfs("250000\n", "100000\n"), Some(Limit::At(2_500)));
        assert_eq!(cfs("-1\n", "100000\n"), Some(Limit::Unlimited));
    }

    #[test]
    fn memory_is_bytes_or_none() {
        assert_eq!(memory_max("536870912\n"), Some(Limit::At(512 << 20)));
        assert_eq!(memory_max("max\n"), Some(Limit::Unlimited));
        assert_eq!(memory_max("9223372036854771712\n"), Some(Limit::Unlimited));
    }

    #[test]
    fn nonsense_is_none() {
        for text in ["", "max", "1", "1 0", "x 1", "-5 100000", "18446744073709551615 1"] {
            assert_eq!(cpu_max(text), None, "{text:?}");
        }
        assert_eq!(cfs("-2", "100000"), None);
        assert_eq!(memory_max("12 kB"), None);
    }
}
