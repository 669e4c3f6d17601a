//! Certificates as an operator reads them: `tidegate tls show` and `check`.

use std::fmt::Write as _;

use serde::Serialize;

use super::certificate::CertificateInfo;
use super::material::Loaded;

const DAY: i64 = 86_400;

/// A table of what is presented, whom the listener trusts, and what needs
/// attention. `now` is in seconds of Unix time.
pub fn show(loaded: &Loaded, now: i64) -> String {
    let mut rows =
        vec![["SERVER NAME", "NAMES", "ISSUER", "EXPIRES", "LEFT", "FILE"].map(str::to_owned)];
    rows.extend(loaded.certificates.iter().map(|one| row(one, now)));
    let mut text = table(&rows);
    // Writing to a String cannot fail.
    for ca in &loaded.client_cas {
        let _ = writeln!(text, "client CA: {ca}");
    }
    if let Some(next) = loaded.crl_next_update {
        let _ = writeln!(text, "revocation list: next update {}, {}", date(next), left(next, now));
    }
    for warning in &loaded.warnings {
        let _ = writeln!(text, "warning: {warning}");
    }
    text
}

/// The same for machines.
pub fn show_json(loaded: &Loaded, now: i64) -> String {
    let report = Report {
        certificates: loaded.certificates.iter().map(|one| Certificate::of(one, now)).collect(),
        client_cas: &loaded.client_cas,
        crl_next_update: loaded.crl_next_update,
        warnings: loaded.warnings.iter().map(ToString::to_string).collect(),
    };
    serde_json::to_string_pretty(&report).expect("strings and numbers serialize")
}

#[derive(Serialize)]
struct Report<'a> {
    certificates: Vec<Certificate<'a>>,
    client_cas: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    crl_next_update: Option<i64>,
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct Certificate<'a> {
    server_name: Option<&'a str>,
    subject: &'a str,
    names: &'a [String],
    issuer: &'a str,
    not_before: i64,
    not_after: i64,
    chain_not_after: i64,
    chain_length: usize,
    days_left: i64,
    fingerprint_sha256: &'a str,
    path: String,
}

impl<'a> Certificate<'a> {
    fn of(info: &'a CertificateInfo, now: i64) -> Self {
        Self {
            server_name: info.server_name.as_deref(),
            subject: &info.subject,
            names: &info.names,
            issuer: &info.issuer,
            not_before: info.not_before,
            not_after: info.not_after,
            chain_not_after: info.chain_not_after,
            chain_length: info.chain_length,
            days_left: (info.chain_not_after - now).div_euclid(DAY),
            fingerprint_sha256: &info.fingerprint_sha256,
            path: info.path.display().to_string(),
        }
    }
}

fn row(info: &CertificateInfo, now: i64) -> [String; 6] {
    let names = if info.names.is_empty() { info.subject.clone() } else { info.names.join(",") };
    [
        info.server_name.clone().unwrap_or_else(|| "(default)".to_owned()),
        names,
        info.issuer.clone(),
        date(info.chain_not_after),
        left(info.chain_not_after, now),
        info.path.display().to_string(),
    ]
}

/// Columns as wide as their widest cell, without spaces at the ends of lines.
fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (width, cell) in widths.iter().zip(row) {
            let _ = write!(line, "{cell:width$}  ");
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

fn left(moment: i64, now: i64) -> String {
    let days = (moment - now).div_euclid(DAY);
    match moment - now {
        ..0 => format!("expired {} days ago", (now - moment) / DAY),
        0..DAY => "less than a day".to_owned(),
        _ => format!("{days} days"),
    }
}

/// `2026-03-01`, in UTC. After Howard Hinnant's `civil_from_days`.
fn date(seconds: i64) -> String {
    let days = seconds.div_euclid(DAY) + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // Months are counted from March, so that the leap day is the last.
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_follow_the_calendar() {
        assert_eq!(date(0), "1970-01-01");
        assert_eq!(date(-1), "1969-12-31");
        assert_eq!(date(951_782_400), "2000-02-29");
        assert_eq!(date(1_772_323_200), "2026-03-01");
        assert_eq!(date(4_102_444_799), "2099-12-31");
    }

    #[test]
    fn days_left_are_whole_days() {
        assert_eq!(left(10 * DAY, 0), "10 days");
        assert_eq!(left(DAY - 1, 0), "less than a day");
        assert_eq!(left(0, 3 * DAY), "expired 3 days ago");
    }
}
