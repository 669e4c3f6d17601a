//! Users and the hashes of their passwords.
//!
//! One user a line, `NAME:HASH`, as `tidegate passwd` writes it:
//!
//! ```text
//! # The plant in the north.
//! alice:$argon2id$v=19$m=19456,t=2,p=1$9mQ3…$3Zt1…
//! bob:$7$101$C9js…$G85d…==
//! ```
//!
//! Empty lines and lines that begin with `#` are skipped. A name has 1 to 256
//! bytes without `:` and control characters, does not begin with `#`, and
//! neither begins nor ends with white space. The hash is Argon2id in the PHC
//! string format, or mosquitto's `$7$`, so that imported users keep their
//! passwords.
//!
//! An attempt with an unknown name costs what one with a known name does:
//! otherwise the time of the answer tells which names exist. So each attempt
//! runs one hash of each family (Argon2id, PBKDF2) that the file holds: the
//! user's own, and a decoy for what the user has not. The decoy has the file's
//! commonest parameters; users whose hashes have rarer ones can still be told
//! apart, until their passwords are set anew.

mod edit;
mod hash;

use std::fmt;

pub use edit::{Added, add, delete, line};
use hash::{Cpu, Derive, Family, HASH_BYTES, Stored};
pub use hash::{HashProblem, LANES_MAX, MEMORY_KIB_MAX, PASSES_MAX, ROUNDS_MAX, Scheme};

use crate::faults;

/// Users of one file.
pub const USERS_MAX: usize = 1_000_000;
/// Bytes of one file.
pub const FILE_BYTES_MAX: usize = 256 << 20;
/// Bytes of a user name.
pub const NAME_BYTES_MAX: usize = 256;

/// What is wrong with a file of passwords.
pub type Faults = faults::Faults<Problem>;

/// What is wrong with a line.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[allow(missing_docs)]
pub enum Problem {
    #[error("the file has {len} bytes, above {max}; split the users", max = FILE_BYTES_MAX)]
    FileTooLong { len: usize },
    #[error("the file has more than {USERS_MAX} users; split them")]
    TooManyUsers,
    #[error("no ':' after the user name; a line is NAME:HASH, as `tidegate passwd add` writes it")]
    NoColon,
    #[error("the user name {0}")]
    Name(#[from] NameProblem),
    #[error("user {name:?} stands on line {first} already; keep one of the two")]
    Duplicate { name: String, first: usize },
    #[error("user {name:?}: {problem}")]
    Hash { name: String, problem: HashProblem },
}

/// Why a text is not the name of a user.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[allow(missing_docs)]
pub enum NameProblem {
    #[error("is empty; use 1 to {NAME_BYTES_MAX} bytes")]
    Empty,
    #[error("has {len} bytes; use 1 to {NAME_BYTES_MAX}")]
    TooLong { len: usize },
    #[error("holds ':', which ends it in the file; use another")]
    Colon,
    #[error("holds a control character; use another")]
    Control,
    #[error("begins with '#', as a comment does; use another")]
    Comment,
    #[error("begins or ends with white space; use another")]
    Space,
}

/// What came of an attempt.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use]
pub enum Verified {
    /// The user exists and the password is the user's.
    Right,
    /// Anything else.
    Wrong,
}

/// A file of passwords.
///
/// Holds the text itself and the places of the users in it, so that a million
/// of them cost little more than the file; what an attempt needs of it is read
/// again, which is nothing beside the hash.
pub struct Passwords {
    text: Box<str>,
    /// Sorted by name.
    users: Box<[Place]>,
    decoys: Decoys,
}

/// A user's line.
#[derive(Clone, Copy)]
struct Place {
    start: u32,
    colon: u32,
    end: u32,
    line: u32,
}

/// What is hashed for those who have nothing to compare with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Decoys {
    argon2id: Option<Scheme>,
    pbkdf2: Option<Scheme>,
}

impl Passwords {
    /// Reads the text of a file.
    pub fn parse(text: impl Into<Box<str>>) -> Result<Passwords, Faults> {
        let text = text.into();
        if text.len() > FILE_BYTES_MAX {
            return Err(Problem::FileTooLong { len: text.len() }.into());
        }
        let mut faults = Faults::default();
        let mut users = Vec::new();
        let mut schemes = Vec::new();
        for (number, at, line) in lines(&text) {
            let Some((name, hash)) = line.split_once(':') else {
                faults.push(number, Problem::NoColon);
                continue;
            };
            if let Err(problem) = check_name(name) {
                faults.push(number, problem.into());
                continue;
            }
            if users.len() == USERS_MAX {
                faults.push(number, Problem::TooManyUsers);
                break;
            }
            // All within FILE_BYTES_MAX, so within a u32.
            let start = at as u32;
            let (colon, end) = (start + name.len() as u32, start + line.len() as u32);
            users.push(Place { start, colon, end, line: number as u32 });
            match Stored::parse(hash) {
                Ok(stored) => schemes.push(stored.scheme),
                Err(problem) => faults.push(number, Problem::Hash { name: name.into(), problem }),
            }
        }
        users.sort_by(|a, b| a.name(&text).cmp(b.name(&text)).then(a.line.cmp(&b.line)));
        for pair in users.windows(2) {
            let name = pair[1].name(&text);
            if pair[0].name(&text) == name {
                let first = pair[0].line as usize;
                let problem = Problem::Duplicate { name: name.into(), first };
                faults.push(pair[1].line as usize, problem);
            }
        }
        let decoys = Decoys::of(schemes);
        faults.or(Passwords { text, users: users.into(), decoys })
    }

    /// How many users there are.
    pub fn len(&self) -> usize {
        self.users.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    /// Whether there is a user of that name.
    pub fn contains(&self, user: &str) -> bool {
        self.find(user).is_some()
    }

    /// Whether the password is the user's. Takes as long as the hash does, some
    /// 20 ms and 19 MiB, whether the user exists or not.
    pub fn verify(&self, user: &str, password: &[u8]) -> Verified {
        self.verify_with(&Cpu, user, password)
    }

    fn verify_with(&self, with: &impl Derive, user: &str, password: &[u8]) -> Verified {
        let stored = self.find(user).and_then(|place| {
            let hash = &self.text[place.colon as usize + 1..place.end as usize];
            Stored::parse(hash).ok()
        });
        let mut right = false;
        for (family, decoy) in
            [(Family::Argon2id, self.decoys.argon2id), (Family::Pbkdf2, self.decoys.pbkdf2)]
        {
            match (&stored, decoy) {
                (Some(stored), _) if stored.scheme.family() == family => {
                    right = stored.verify(password, with);
                }
                (_, Some(scheme)) => {
                    // Compared as well, and then forgotten: nobody comes in by a decoy.
                    let salt = vec![0; DECOY_SALT_BYTES];
                    let hash = vec![0; HASH_BYTES];
                    let _ = Stored { scheme, salt, hash }.verify(password, with);
                }
                (_, None) => {}
            }
        }
        if right { Verified::Right } else { Verified::Wrong }
    }

    fn find(&self, user: &str) -> Option<&Place> {
        let at = self.users.binary_search_by(|place| place.name(&self.text).cmp(user)).ok()?;
        Some(&self.users[at])
    }
}

const DECOY_SALT_BYTES: usize = 16;

impl PartialEq for Passwords {
    /// All else is made of the text.
    fn eq(&self, other: &Passwords) -> bool {
        self.text == other.text
    }
}

impl Eq for Passwords {}

impl fmt::Debug for Passwords {
    /// Without the hashes: they do not belong into a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Passwords").field("users", &self.users.len()).finish_non_exhaustive()
    }
}

impl Place {
    fn name<'a>(&self, text: &'a str) -> &'a str {
        &text[self.start as usize..self.colon as usize]
    }
}

impl Decoys {
    /// The commonest parameters of each family that there is; of a file without
    /// users, those of a new one.
    fn of(mut schemes: Vec<Scheme>) -> Decoys {
        if schemes.is_empty() {
            schemes.push(Scheme::default());
        }
        schemes.sort_unstable();
        let commonest = |family| {
            let groups = schemes.chunk_by(|a, b| a == b);
            let groups = groups.filter(|group| group[0].family() == family);
            groups.max_by_key(|group| group.len()).map(|group| group[0])
        };
        Decoys { argon2id: commonest(Family::Argon2id), pbkdf2: commonest(Family::Pbkdf2) }
    }
}

/// Number, place and text of each line that is meant as a user.
fn lines(text: &str) -> impl Iterator<Item = (usize, usize, &str)> {
    let mut at = 0;
    let lines = text.split_inclusive('\n').enumerate().map(move |(i, line)| {
        let start = at;
        at += line.len();
        (i + 1, start, without_end(line))
    });
    lines.filter(|(_, _, line)| !is_comment(line))
}

fn without_end(line: &str) -> &str {
    let line = line.strip_suffix('\n').unwrap_or(line);
    line.strip_suffix('\r').unwrap_or(line)
}

fn is_comment(line: &str) -> bool {
    line.starts_with('#') || line.trim().is_empty()
}

/// Whether a user may have that name.
pub fn check_name(name: &str) -> Result<(), NameProblem> {
    match name {
        _ if name.is_empty() => Err(NameProblem::Empty),
        _ if name.len() > NAME_BYTES_MAX => Err(NameProblem::TooLong { len: name.len() }),
        _ if name.contains(':') => Err(NameProblem::Colon),
        _ if name.chars().any(char::is_control) => Err(NameProblem::Control),
        _ if name.starts_with('#') => Err(NameProblem::Comment),
        _ if name.trim() != name => Err(NameProblem::Space),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// Cheap parameters: the tests are about the file, not about the hash.
    const ALICE: &str = "alice:$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHRzb21lc2FsdA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    const BOB: &str = "bob:$7$101$C9jsTQ6YY3GfP0V3$G85dGC4kJWmQmHRE4klew/T69pIDbHgoZPBVOsdfPwuvgrmI5yFFBRSaIAJSD5aVpWAXhCFMeCmHehfuv0oh7g==";
    const CHEAP: Scheme = Scheme::Argon2id { memory_kib: 64, passes: 1, lanes: 1 };
    const MOSQUITTO: Scheme = Scheme::Pbkdf2 { rounds: 101 };

    /// Counts the work; every hash comes out as zeros, which is Alice's.
    #[derive(Default)]
    struct Counted(RefCell<Vec<(Scheme, usize, usize)>>);

    impl Derive for Counted {
        fn derive(&self, scheme: Scheme, _: &[u8], salt: &[u8], out: &mut [u8]) -> bool {
            self.0.borrow_mut().push((scheme, salt.len(), out.len()));
            true
        }
    }

    fn work(file: &str, user: &str) -> (Verified, Vec<(Scheme, usize, usize)>) {
        let counted = Counted::default();
        let passwords = Passwords::parse(file).expect("a good file");
        let verified = passwords.verify_with(&counted, user, b"x");
        (verified, counted.0.into_inner())
    }

    fn said(file: &str) -> Vec<String> {
        let faults = Passwords::parse(file).expect_err("is wrong");
        faults.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_unknown_user_costs_the_work_of_a_known_one() {
        let (known, for_known) = work(ALICE, "alice");
        let (unknown, for_unknown) = work(ALICE, "mallory");
        assert_eq!((known, unknown), (Verified::Right, Verified::Wrong));
        assert_eq!(for_known, [(CHEAP, 16, 32)]);
        assert_eq!(for_unknown, for_known);
    }

    #[test]
    fn a_decoy_has_the_parameters_that_most_users_have() {
        let other = |name: &str| ALICE.replace("alice", name).replace("m=64", "m=128");
        let file = format!("{ALICE}\n{}\n{}\n", other("carol"), other("dave"));
        let (_, work) = work(&file, "mallory");
        assert_eq!(work, [(Scheme::Argon2id { memory_kib: 128, passes: 1, lanes: 1 }, 16, 32)]);
    }

    #[test]
    fn in_a_mixed_file_everybody_costs_both_families() {
        let file = format!("{ALICE}\n{BOB}\n");
        for user in ["alice", "bob", "mallory"] {
            let (_, work) = work(&file, user);
            let schemes: Vec<_> = work.iter().map(|(scheme, _, _)| *scheme).collect();
            assert_eq!(schemes, [CHEAP, MOSQUITTO], "{user}");
        }
    }

    #[test]
    fn nobody_comes_in_by_a_decoy() {
        // Every hash comes out as zeros here, and so is what a decoy is compared with.
        let file = format!("{ALICE}\n{BOB}\n");
        assert_eq!(work(&file, "mallory").0, Verified::Wrong);
        assert_eq!(work(&file, "bob").0, Verified::Wrong);
        assert_eq!(work("", "mallory"), (Verified::Wrong, vec![(Scheme::default(), 16, 32)]));
    }

    #[test]
    fn a_written_user_is_verified() {
        let file = line("alice", b"correct horse", &[7; 16]).expect("a good name");
        let passwords = Passwords::parse(format!("# people\n\n{file}\r\n{BOB}")).expect("good");
        assert_eq!(passwords.len(), 2);
        assert_eq!(passwords.verify("alice", b"correct horse"), Verified::Right);
        assert_eq!(passwords.verify("alice", b"correct hors"), Verified::Wrong);
        assert_eq!(passwords.verify("alice", b""), Verified::Wrong);
        assert_eq!(passwords.verify("bob", b"secret word"), Verified::Right);
        assert_eq!(passwords.verify("bob", b"correct horse"), Verified::Wrong);
        assert_eq!(passwords.verify("Alice", b"correct horse"), Verified::Wrong);
        assert_eq!(passwords.verify("", b"correct horse"), Verified::Wrong);
        assert_eq!(format!("{passwords:?}"), "Passwords { users: 2, .. }");
    }

    #[test]
    fn every_bad_line_is_told() {
        let file = format!("{ALICE}\nbob\n:x\n {BOB}\n{ALICE}\ncarol:secret\na\u{7}:$7$\n");
        assert_eq!(
            said(&file),
            [
                "line 2: no ':' after the user name; a line is NAME:HASH, as `tidegate passwd add` writes it",
                "line 3: the user name is empty; use 1 to 256 bytes",
                "line 4: the user name begins or ends with white space; use another",
                "line 6: user \"carol\": what follows the user name is not a hash; a password never \
                 stands here as it is; set the password anew with `tidegate passwd add FILE USER`",
                "line 7: the user name holds a control character; use another",
                "line 5: user \"alice\" stands on line 1 already; keep one of the two",
            ]
        );
        let name = "n".repeat(257);
        let said = said(&format!("{name}:$7$"));
        assert_eq!(said, ["line 1: the user name has 257 bytes; use 1 to 256"]);
    }
}
