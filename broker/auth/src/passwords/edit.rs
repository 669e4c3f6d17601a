//! Changes to the text of a file that leave every other byte as it is: comments,
//! order and line ends belong to whoever wrote them.

use super::hash::{Cpu, Derive, HASH_BYTES, Scheme, phc};
use super::{NameProblem, check_name, is_comment, without_end};

/// What [`add`] did.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Added {
    /// The user is new; the text with it.
    New(String),
    /// The user has another hash now; the text with it.
    Replaced(String),
}

/// The line of a user, `NAME:HASH`, without its end. Takes some 20 ms and
/// 19 MiB; the salt must be random, and used once.
pub fn line(user: &str, password: &[u8], salt: &[u8; 16]) -> Result<String, NameProblem> {
    check_name(user)?;
    let Scheme::Argon2id { memory_kib, passes, lanes } = Scheme::default() else {
        unreachable!("the default scheme is Argon2id")
    };
    let mut hash = [0; HASH_BYTES];
    let derived = Cpu.derive(Scheme::default(), password, salt, &mut hash);
    // Else the hash would be known to everybody.
    assert!(derived, "no memory for a hash of {memory_kib} KiB");
    Ok(format!("{user}:{}", phc(memory_kib, passes, lanes, salt, &hash)))
}

/// Sets a user's line (of [`line()`]): in the place of the old one, or at the end.
pub fn add(text: &str, line: &str) -> Added {
    let user = name(line);
    let mut edited = String::with_capacity(text.len() + line.len() + 2);
    let mut replaced = false;
    for old in text.split_inclusive('\n') {
        if replaced || !is_user(old, user) {
            edited.push_str(old);
            continue;
        }
        edited.push_str(line);
        edited.push_str(&old[without_end(old).len()..]);
        replaced = true;
    }
    if replaced {
        return Added::Replaced(edited);
    }
    if !edited.is_empty() && !edited.ends_with('\n') {
        edited.push('\n');
    }
    edited.push_str(line);
    edited.push('\n');
    Added::New(edited)
}

/// The text without the user; none: there is no such user.
pub fn delete(text: &str, user: &str) -> Option<String> {
    let kept: String = text.split_inclusive('\n').filter(|line| !is_user(line, user)).collect();
    (kept.len() < text.len()).then_some(kept)
}

fn is_user(line: &str, user: &str) -> bool {
    !is_comment(without_end(line)) && name(line) == user
}

fn name(line: &str) -> &str {
    line.split(':').next().unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# people\r\n\r\nalice:old\r\n#bob:old\nbob:old\n  \n# end";

    #[test]
    fn a_replaced_user_leaves_every_other_byte() {
        let Added::Replaced(text) = add(FILE, "alice:new") else { panic!("alice is there") };
        assert_eq!(text, FILE.replace("alice:old", "alice:new"));
        let Added::Replaced(text) = add(FILE, "bob:new") else { panic!("bob is there") };
        assert_eq!(text, "# people\r\n\r\nalice:old\r\n#bob:old\nbob:new\n  \n# end");
    }

    #[test]
    fn a_new_user_stands_at_the_end() {
        assert_eq!(add(FILE, "carol:new"), Added::New(format!("{FILE}\ncarol:new\n")));
        assert_eq!(add("", "carol:new"), Added::New("carol:new\n".into()));
        assert_eq!(add("a:b\n", "c:d"), Added::New("a:b\nc:d\n".into()));
    }

    #[test]
    fn a_deleted_user_leaves_every_other_byte() {
        assert_eq!(delete(FILE, "alice"), Some(FILE.replace("alice:old\r\n", "")));
        assert_eq!(delete(FILE, "carol"), None);
        assert_eq!(delete(FILE, "# people\r\n"), None);
        assert_eq!(delete("alice:x", "alice"), Some(String::new()));
    }

    #[test]
    fn a_line_is_salted() {
        let one = line("alice", b"secret", &[1; 16]).expect("a good name");
        let two = line("alice", b"secret", &[2; 16]).expect("a good name");
        assert!(one.starts_with("alice:$argon2id$v=19$m=19456,t=2,p=1$AQEBAQEBAQEBAQEBAQEBAQ$"));
        assert_ne!(one.rsplit('$').next(), two.rsplit('$').next());
        assert_eq!(line("a:b", b"secret", &[1; 16]), Err(NameProblem::Colon));
    }
}
