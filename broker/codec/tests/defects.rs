//! `DEFECTS.md` lists the planted defects, all of them and no others.
#![allow(clippy::disallowed_methods, reason = "a test may read files")]

use std::collections::BTreeSet;
use std::path::Path;

#[test]
fn the_list_names_what_is_planted() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut planted = BTreeSet::new();
    for file in std::fs::read_dir(root.join("src")).unwrap() {
        let path = file.unwrap().path();
        if path.file_name().is_some_and(|name| name != "defect.rs") {
            let text = std::fs::read(&path).unwrap();
            planted.extend(ids(&String::from_utf8(text).unwrap(), '"'));
        }
    }
    let list = std::fs::read(root.join("DEFECTS.md")).unwrap();
    let listed: BTreeSet<_> = ids(&String::from_utf8(list).unwrap(), '`').collect();
    assert!(planted.len() >= 25);
    assert_eq!(planted, listed);
}

/// What stands between quotes and looks like `5:3.3.1-2`.
fn ids(text: &str, quote: char) -> impl Iterator<Item = String> {
    let is_id = |part: &&str| {
        part.strip_prefix("5:").or(part.strip_prefix("3:")).is_some_and(|rest| {
            rest.contains('-') && rest.chars().all(|c| c.is_ascii_digit() || ".-".contains(c))
        })
    };
    text.split(quote).filter(is_id).map(str::to_owned).collect::<Vec<_>>().into_iter()
}
