//! Files of `/proc/sys` and the like: one value, or a few in a line.

/// A file of one number.
pub fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// A file of `N` numbers in a line, and no more.
pub fn numbers<const N: usize>(text: &str) -> Option<[u64; N]> {
    let mut words = text.split_ascii_whitespace();
    let mut numbers = [0; N];
    for number in &mut numbers {
        *number = words.next()?.parse().ok()?;
    }
    words.next().is_none().then_some(numbers)
}

/// A file of a choice, such as `always [madvise] never`: the one in brackets.
pub fn chosen(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once('[')?;
    let (chosen, _) = rest.split_once(']')?;
    Some(chosen).filter(|chosen| !chosen.is_empty())
}

/// The first two numbers of a kernel's release, such as `6.1.0-25-cloud-amd64`.
pub fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.trim().split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// A line of `/proc/meminfo`, in bytes.
pub fn memory(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let mut words = line.split_ascii_whitespace();
    let kib: u64 = words.next()?.parse().ok()?;
    (words.next() == Some("kB")).then(|| kib.checked_mul(1_024)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_as_many_as_asked_for() {
        assert_eq!(number("4096\n"), Some(4_096));
        assert_eq!(number("-1\n"), None);
        assert_eq!(number(""), None);
        assert_eq!(numbers("284373\t379164\t568746\n"), Some([284_373, 379_164, 568_746]));
        assert_eq!(numbers::<2>("1 2 3"), None);
        assert_eq!(numbers::<2>("1"), None);
    }

    #[test]
    fn the_choice_is_in_brackets() {
        assert_eq!(chosen("always [madvise] never\n"), Some("madvise"));
        for text in ["", "always", "[", "]x[", "[]"] {
            assert_eq!(chosen(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_release_begins_with_its_version() {
        assert_eq!(version("6.1.0-25-cloud-amd64\n"), Some((6, 1)));
        assert_eq!(version("6.18.44-fc-v445"), Some((6, 18)));
        for text in ["", "6", "six.one", "99999999999.1"] {
            assert_eq!(version(text), None, "{text:?}");
        }
    }

    #[test]
    fn memory_is_told_in_kib() {
        let text =
            "MemTotal:       24682416 kB\nMemFree:         7472980 kB\nHugePages_Total:       0\n";
        assert_eq!(memory(text, "MemTotal"), Some(24_682_416 * 1_024));
        assert_eq!(memory(text, "HugePages_Total"), None);
        assert_eq!(memory(text, "Mem"), None);
        assert_eq!(memory("MemTotal: 18446744073709551615 kB", "MemTotal"), None);
    }
}
