//! The outcome as JSON: what `compare` and other programs read.

use crate::outcome::Outcome;

/// The outcome on one line, with a newline at its end.
///
/// Not indented: a minute has 600 samples and some thousand buckets, which are
/// five times as long with a line for each number.
pub fn json(outcome: &Outcome) -> String {
    // The type is plain data without maps keyed by anything but strings, and
    // floats that are no numbers become null.
    let mut text = serde_json::to_string(outcome).expect("plain data");
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faces::html::tests::invented;

    #[test]
    fn what_is_written_is_read_back() {
        let outcome = invented("one", 1.0);
        assert_eq!(Outcome::parse(&json(&outcome)).expect("our own"), outcome);
    }
}
