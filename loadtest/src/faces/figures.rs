//! Numbers as people read them: three digits that matter, and a unit.

use crate::outcome::LedgerReport;

/// Nanoseconds as a time.
pub fn time(ns: f64) -> String {
    match ns.abs() {
        size if size < 1e3 => format!("{} ns", digits(ns)),
        size if size < 1e6 => format!("{} µs", digits(ns / 1e3)),
        size if size < 1e9 => format!("{} ms", digits(ns / 1e6)),
        _ => format!("{} s", digits(ns / 1e9)),
    }
}

/// Microseconds of CPU, always in that unit, so that columns compare.
pub fn cpu_us(us: f64) -> String {
    format!("{} µs", digits(us))
}

/// A rate or another large number, shortened.
pub fn short(n: f64) -> String {
    match n.abs() {
        size if size < 1e4 => digits(n),
        size if size < 1e6 => format!("{} k", digits(n / 1e3)),
        size if size < 1e9 => format!("{} M", digits(n / 1e6)),
        _ => format!("{} G", digits(n / 1e9)),
    }
}

/// Bytes in binary units.
pub fn bytes(n: f64) -> String {
    const KIB: f64 = 1024.0;
    match n.abs() {
        size if size < 10.0 * KIB => format!("{} B", digits(n)),
        size if size < KIB * KIB => format!("{} KiB", digits(n / KIB)),
        size if size < KIB * KIB * KIB => format!("{} MiB", digits(n / KIB / KIB)),
        _ => format!("{} GiB", digits(n / KIB / KIB / KIB)),
    }
}

/// A count, exact, with separators.
pub fn count(n: u64) -> String {
    let plain = n.to_string();
    let mut grouped = String::with_capacity(plain.len() + plain.len() / 3);
    for (at, digit) in plain.chars().enumerate() {
        if at > 0 && (plain.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// A moment as date and time in UTC.
pub fn moment(unix_ms: u64) -> String {
    let seconds = unix_ms / 1_000;
    let (hour, minute) = (seconds / 3_600 % 24, seconds / 60 % 60);
    // Days since 1 March of the year 0, in eras of 400 years, so that a leap
    // day is the last of its year.
    let days = seconds / 86_400 + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, year) = if month < 10 { (month + 3, year) } else { (month - 9, year + 1) };
    format!("{:04}-{month:02}-{day:02} {hour:02}:{minute:02} UTC", year + era * 400)
}

/// A share of 1 as per cent.
pub fn percent(share: f64) -> String {
    format!("{} %", digits(share * 100.0))
}

/// Three digits that matter, without an exponent and without trailing zeros
/// after the point.
pub fn digits(n: f64) -> String {
    if !n.is_finite() {
        return "-".to_owned();
    }
    let text = match n.abs() {
        size if size >= 99.95 => return signed_count(n.round()),
        size if size >= 9.995 => format!("{n:.1}"),
        size if size >= 0.9995 || size == 0.0 => format!("{n:.2}"),
        _ => format!("{n:.3}"),
    };
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn signed_count(n: f64) -> String {
    let sign = if n < 0.0 { "-" } else { "" };
    format!("{sign}{}", count(n.abs() as u64))
}

/// What some scenarios alone look at: a name and what was found.
pub fn findings(ledger: &LedgerReport) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    let kept = &ledger.retained;
    if kept.looks + kept.empty_looks > 0 {
        let text = format!(
            "{} set, {} cleared; {} looks: {} right, {} stale, {} missing, {} unmarked, {} strange; \
             {} looks after a clear: {} found something",
            count(kept.set),
            count(kept.cleared),
            count(kept.looks),
            count(kept.right),
            count(kept.stale),
            count(kept.missing),
            count(kept.unmarked),
            count(kept.strange),
            count(kept.empty_looks),
            count(kept.ghosts),
        );
        found.push(("retained", text));
    }
    let taken = &ledger.takeovers;
    if taken.done > 0 {
        let text = format!(
            "{}; {} first connections lived on, {} ended without 0x8E",
            count(taken.done),
            count(taken.lived_on),
            count(taken.untold)
        );
        found.push(("takeovers", text));
    }
    if ledger.shared_twice > 0 {
        found.push(("shared", format!("{} went to two members", count(ledger.shared_twice))));
    }
    if ledger.forgotten > 0 {
        found.push(("sessions", format!("{} forgotten", count(ledger.forgotten))));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_take_the_unit_that_fits() {
        assert_eq!(time(0.0), "0 ns");
        assert_eq!(time(812.0), "812 ns");
        assert_eq!(time(4_310.0), "4.31 µs");
        assert_eq!(time(12_600_000.0), "12.6 ms");
        assert_eq!(time(3_400_000_000.0), "3.4 s");
    }

    #[test]
    fn counts_are_exact_and_grouped() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_000), "1,000");
        assert_eq!(count(u64::MAX), "18,446,744,073,709,551,615");
    }

    #[test]
    fn large_numbers_keep_three_digits() {
        assert_eq!(short(9_400.0), "9,400");
        assert_eq!(short(20_000.0), "20 k");
        assert_eq!(short(1_280_982.0), "1.28 M");
        assert_eq!(bytes(217.4), "217 B");
        assert_eq!(bytes(1_500_000.0), "1.43 MiB");
        assert_eq!(digits(0.0183), "0.018");
        assert_eq!(digits(-1_234.5), "-1,235");
    }

    #[test]
    fn moments_are_dates_through_leap_years() {
        assert_eq!(moment(0), "1970-01-01 00:00 UTC");
        assert_eq!(moment(951_782_400_000), "2000-02-29 00:00 UTC");
        assert_eq!(moment(1_767_225_599_999), "2025-12-31 23:59 UTC");
    }

    #[test]
    fn what_is_no_number_is_a_dash() {
        assert_eq!(digits(f64::NAN), "-");
        assert_eq!(percent(f64::INFINITY), "- %");
    }
}
