//! A file of any text never panics, and editing keeps what it does not touch.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_auth::Passwords;
use tidegate_auth::passwords::{Added, add, delete};

const LINE: &str = "new:$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHRzb21lc2FsdA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

fuzz_target!(|text: &str| {
    let parsed = Passwords::parse(text);
    let added = match add(text, LINE) {
        Added::New(added) => {
            let back = delete(&added, "new").expect("it was added");
            assert_eq!(back.strip_prefix(text).map(|end| end.trim_matches('\n')), Some(""));
            added
        }
        Added::Replaced(added) => added,
    };
    match parsed {
        Ok(passwords) => {
            let with = Passwords::parse(added).expect("a good file and a good line");
            assert!(with.contains("new"));
            assert_eq!(with.len(), passwords.len() + usize::from(!passwords.contains("new")));
        }
        Err(faults) => assert!(faults.count() > 0 && !faults.to_string().is_empty()),
    }
});
