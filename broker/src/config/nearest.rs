//! The known name that a mistyped one most likely meant.

/// The candidate with the fewest edits from `typed`, if that is few enough to
/// be a slip of the hand: a third of its letters, at least one.
pub fn nearest<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let typed = typed.to_ascii_lowercase();
    let allowed = (typed.chars().count() / 3).max(1);
    known
        .into_iter()
        .map(|name| (edits(&typed, name), name))
        .filter(|&(edits, name)| edits <= allowed && edits < name.chars().count())
        .min_by_key(|&(edits, _)| edits)
        .map(|(_, name)| name)
}

/// Insertions, deletions, replacements and swaps of neighbours between two
/// words (optimal string alignment). Names are short; longer input is cut.
fn edits(a: &str, b: &str) -> usize {
    const LEN_MAX: usize = 64;
    let a: Vec<char> = a.chars().take(LEN_MAX).collect();
    let b: Vec<char> = b.chars().take(LEN_MAX).collect();
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let differs = usize::from(a[i - 1] != b[j - 1]);
            row[j] = (rows[i - 1][j] + 1).min(row[j - 1] + 1).min(rows[i - 1][j - 1] + differs);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(rows[i - 2][j - 2] + 1);
            }
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_the_name_and_a_stranger_finds_none() {
        let known = ["packet_bytes_max", "queue_bytes_max", "bind", "backlog"];
        assert_eq!(nearest("packet_byte_max", known), Some("packet_bytes_max"));
        assert_eq!(nearest("bnid", known), Some("bind"));
        assert_eq!(nearest("BACKLOG", known), Some("backlog"));
        assert_eq!(nearest("max_packet_size", known), None);
        assert_eq!(nearest("x", known), None);
    }

    #[test]
    fn edits_count_each_kind_once() {
        for (a, b, n) in [("", "", 0), ("", "ab", 2), ("abc", "abd", 1), ("ab", "ba", 1)] {
            assert_eq!((edits(a, b), edits(b, a)), (n, n), "{a} {b}");
        }
    }
}
