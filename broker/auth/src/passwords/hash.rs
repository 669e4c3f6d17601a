//! A stored hash of a password, as its text stands in the file.
//!
//! Two families. Argon2id, in the PHC string format, is what we write. PBKDF2
//! with HMAC-SHA512 is what mosquitto writes (`$7$`): nobody can turn it into
//! the other without the password, so it is verified as it is, and imported
//! users keep their passwords.

use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use hmac::Hmac;
use sha2::Sha512;

/// Memory of one hash, in KiB: 256 MiB.
pub const MEMORY_KIB_MAX: u32 = 256 * 1_024;
/// Passes over it.
pub const PASSES_MAX: u32 = 10;
/// Lanes.
pub const LANES_MAX: u32 = 8;
/// Rounds of PBKDF2: about a second.
pub const ROUNDS_MAX: u32 = 1_000_000;

const SALT_BYTES_MIN: usize = 8;
const SALT_BYTES_MAX: usize = 256;
const HASH_BYTES_MIN: usize = 16;
const HASH_BYTES_MAX: usize = 64;
/// Bytes of our own hashes, and of SHA-512.
pub(super) const HASH_BYTES: usize = 32;
const SHA512_BYTES: usize = 64;
/// Of a salt and a hash in base64, with their parameters, far below it.
const TEXT_BYTES_MAX: usize = 1_024;

/// How a password becomes its hash.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Scheme {
    /// Argon2id, version 19.
    Argon2id {
        /// Memory, in KiB.
        memory_kib: u32,
        /// Passes over it.
        passes: u32,
        /// Lanes.
        lanes: u32,
    },
    /// PBKDF2 with HMAC-SHA512, as mosquitto's `$7$`.
    Pbkdf2 {
        /// Rounds.
        rounds: u32,
    },
}

impl Default for Scheme {
    /// What OWASP's password storage cheat sheet recommends for Argon2id: 19 MiB,
    /// two passes, one lane. Some 20 ms.
    fn default() -> Scheme {
        Scheme::Argon2id { memory_kib: 19 * 1_024, passes: 2, lanes: 1 }
    }
}

impl Scheme {
    pub(super) fn family(self) -> Family {
        match self {
            Scheme::Argon2id { .. } => Family::Argon2id,
            Scheme::Pbkdf2 { .. } => Family::Pbkdf2,
        }
    }
}

/// Schemes whose costs differ by orders of magnitude, whatever their parameters.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Family {
    Argon2id,
    Pbkdf2,
}

/// Runs a scheme. A seam, so that tests count the work instead of timing it.
pub(super) trait Derive {
    /// Fills `out`; false if it cannot, and then nobody comes in.
    fn derive(&self, scheme: Scheme, password: &[u8], salt: &[u8], out: &mut [u8]) -> bool;
}

/// The real thing.
pub(super) struct Cpu;

impl Derive for Cpu {
    fn derive(&self, scheme: Scheme, password: &[u8], salt: &[u8], out: &mut [u8]) -> bool {
        match scheme {
            Scheme::Argon2id { memory_kib, passes, lanes } => {
                let Ok(params) = Params::new(memory_kib, passes, lanes, Some(out.len())) else {
                    return false;
                };
                let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
                argon2.hash_password_into(password, salt, out).is_ok()
            }
            Scheme::Pbkdf2 { rounds } => {
                pbkdf2::pbkdf2::<Hmac<Sha512>>(password, salt, rounds, out).is_ok()
            }
        }
    }
}

/// What is wrong with the text of a hash. It never quotes the text.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[allow(missing_docs)]
pub enum HashProblem {
    #[error("no hash follows the user name; {SET_ANEW}")]
    Missing,
    #[error(
        "what follows the user name is not a hash; a password never stands here as it is; {SET_ANEW}"
    )]
    NotAHash,
    #[error("a salted SHA-512 ($6$) is guessed too fast to be of use; {SET_ANEW}")]
    SaltedSha512,
    #[error("the hash is made with {0}, and only argon2id and $7$ are taken; {SET_ANEW}")]
    OtherScheme(&'static str),
    #[error("the hash has not the five parts of $argon2id$v=19$m=…,t=…,p=…$SALT$HASH; {SET_ANEW}")]
    Argon2Parts,
    #[error("the hash is of another version than v=19; {SET_ANEW}")]
    Argon2Version,
    #[error("the hash has not the three parts of $7$ROUNDS$SALT$HASH; {SET_ANEW}")]
    Pbkdf2Parts,
    #[error("the hash's parameter {name} is {value}; use {min} to {max}")]
    OutOfBounds { name: &'static str, value: u32, min: u32, max: u32 },
    #[error("the hash's {0} is not base64; {SET_ANEW}")]
    NotBase64(&'static str),
    #[error("the hash's {name} has {len} bytes; it has {min} to {max}")]
    Length { name: &'static str, len: usize, min: usize, max: usize },
    #[error("the hash has {len} bytes of text, above {max}; {SET_ANEW}", max = TEXT_BYTES_MAX)]
    TooLong { len: usize },
}

const SET_ANEW: &str = "set the password anew with `tidegate passwd add FILE USER`";

/// A hash, read.
#[derive(Clone, Eq, PartialEq)]
pub(super) struct Stored {
    pub(super) scheme: Scheme,
    pub(super) salt: Vec<u8>,
    pub(super) hash: Vec<u8>,
}

impl Stored {
    pub(super) fn parse(text: &str) -> Result<Stored, HashProblem> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(HashProblem::TooLong { len: text.len() });
        }
        let Some(body) = text.strip_prefix('$') else {
            return Err(match text.is_empty() {
                true => HashProblem::Missing,
                false => HashProblem::NotAHash,
            });
        };
        let (scheme, parts) = body.split_once('$').ok_or(HashProblem::NotAHash)?;
        match scheme {
            "argon2id" => argon2id(parts),
            "7" => mosquitto(parts),
            "6" => Err(HashProblem::SaltedSha512),
            "argon2i" => Err(HashProblem::OtherScheme("argon2i")),
            "argon2d" => Err(HashProblem::OtherScheme("argon2d")),
            "2a" | "2b" | "2y" => Err(HashProblem::OtherScheme("bcrypt")),
            _ => Err(HashProblem::NotAHash),
        }
    }

    /// Whether `password` is the one, in a time that does not depend on how
    /// much of the hash is right.
    pub(super) fn verify(&self, password: &[u8], with: &impl Derive) -> bool {
        let mut found = [0; HASH_BYTES_MAX];
        let found = &mut found[..self.hash.len()];
        let derived = with.derive(self.scheme, password, &self.salt, found);
        let differ = found.iter().zip(&self.hash).fold(0, |differ, (a, b)| differ | (a ^ b));
        derived && differ == 0
    }
}

fn argon2id(text: &str) -> Result<Stored, HashProblem> {
    let mut parts = text.split('$');
    let mut part = || parts.next().ok_or(HashProblem::Argon2Parts);
    let (version, parameters, salt, hash) = (part()?, part()?, part()?, part()?);
    if parts.next().is_some() {
        return Err(HashProblem::Argon2Parts);
    }
    if version != "v=19" {
        return Err(HashProblem::Argon2Version);
    }
    let mut values = parameters.split(',');
    let mut value = |prefix: &str| {
        let value = values.next().and_then(|value| value.strip_prefix(prefix));
        value.and_then(number).ok_or(HashProblem::Argon2Parts)
    };
    let (memory_kib, passes, lanes) = (value("m=")?, value("t=")?, value("p=")?);
    if values.next().is_some() {
        return Err(HashProblem::Argon2Parts);
    }
    within("p", lanes, 1, LANES_MAX)?;
    within("t", passes, 1, PASSES_MAX)?;
    within("m", memory_kib, 8 * lanes, MEMORY_KIB_MAX)?;
    let salt = STANDARD_NO_PAD.decode(salt).map_err(|_| HashProblem::NotBase64("salt"))?;
    let hash = STANDARD_NO_PAD.decode(hash).map_err(|_| HashProblem::NotBase64("sum"))?;
    fits("salt", &salt, SALT_BYTES_MIN, SALT_BYTES_MAX)?;
    fits("sum", &hash, HASH_BYTES_MIN, HASH_BYTES_MAX)?;
    Ok(Stored { scheme: Scheme::Argon2id { memory_kib, passes, lanes }, salt, hash })
}

fn mosquitto(text: &str) -> Result<Stored, HashProblem> {
    let mut parts = text.split('$');
    let mut part = || parts.next().ok_or(HashProblem::Pbkdf2Parts);
    let (rounds, salt, hash) = (part()?, part()?, part()?);
    if parts.next().is_some() {
        return Err(HashProblem::Pbkdf2Parts);
    }
    let rounds = number(rounds).ok_or(HashProblem::Pbkdf2Parts)?;
    within("rounds", rounds, 1, ROUNDS_MAX)?;
    let salt = STANDARD.decode(salt).map_err(|_| HashProblem::NotBase64("salt"))?;
    let hash = STANDARD.decode(hash).map_err(|_| HashProblem::NotBase64("sum"))?;
    fits("salt", &salt, SALT_BYTES_MIN, SALT_BYTES_MAX)?;
    fits("sum", &hash, SHA512_BYTES, SHA512_BYTES)?;
    Ok(Stored { scheme: Scheme::Pbkdf2 { rounds }, salt, hash })
}

/// Digits alone, so that a text has one meaning: no sign, no leading zero.
fn number(text: &str) -> Option<u32> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    (digits && (text == "0" || !text.starts_with('0'))).then(|| text.parse().ok())?
}

fn within(name: &'static str, value: u32, min: u32, max: u32) -> Result<(), HashProblem> {
    match (min..=max).contains(&value) {
        true => Ok(()),
        false => Err(HashProblem::OutOfBounds { name, value, min, max }),
    }
}

fn fits(name: &'static str, bytes: &[u8], min: usize, max: usize) -> Result<(), HashProblem> {
    match (min..=max).contains(&bytes.len()) {
        true => Ok(()),
        false => Err(HashProblem::Length { name, len: bytes.len(), min, max }),
    }
}

/// The PHC string of an Argon2id hash.
pub(super) fn phc(memory_kib: u32, passes: u32, lanes: u32, salt: &[u8], hash: &[u8]) -> String {
    let (salt, hash) = (STANDARD_NO_PAD.encode(salt), STANDARD_NO_PAD.encode(hash));
    format!("$argon2id$v=19$m={memory_kib},t={passes},p={lanes}${salt}${hash}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: &str) -> HashProblem {
        Stored::parse(text).err().expect("is wrong")
    }

    /// By mosquitto_passwd 2.0.11, and from the tests of the reference implementation of Argon2.
    const FOREIGN: [(&str, &[u8]); 2] = [
        (
            "$7$101$C9jsTQ6YY3GfP0V3$G85dGC4kJWmQmHRE4klew/T69pIDbHgoZPBVOsdfPwuvgrmI5yFFBRSaIAJSD5aVpWAXhCFMeCmHehfuv0oh7g==",
            b"secret word",
        ),
        (
            "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
            b"password",
        ),
    ];

    #[test]
    fn hashes_of_other_programs_are_verified() {
        for (text, password) in FOREIGN {
            let stored = Stored::parse(text).expect("a good hash");
            assert!(stored.verify(password, &Cpu), "{text}");
            assert!(!stored.verify(b"another", &Cpu), "{text}");
            assert!(!stored.verify(b"", &Cpu), "{text}");
        }
    }

    #[test]
    fn a_hash_says_what_is_wrong_with_it() {
        let good = "$argon2id$v=19$m=64,t=1,p=1$AAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA";
        assert!(Stored::parse(good).is_ok());
        let with = |from: &str, to: &str| problem(&good.replace(from, to));
        assert_eq!(problem(""), HashProblem::Missing);
        assert_eq!(problem("secret"), HashProblem::NotAHash);
        assert_eq!(problem("$"), HashProblem::NotAHash);
        assert_eq!(problem("$6$abc$def=="), HashProblem::SaltedSha512);
        assert_eq!(with("2id", "2i"), HashProblem::OtherScheme("argon2i"));
        assert_eq!(with("v=19", "v=16"), HashProblem::Argon2Version);
        assert_eq!(with("v=19$", ""), HashProblem::Argon2Parts);
        assert_eq!(with("m=64,", ""), HashProblem::Argon2Parts);
        assert_eq!(with("m=64", "m=064"), HashProblem::Argon2Parts);
        assert_eq!(with("m=64", "m=+64"), HashProblem::Argon2Parts);
        assert_eq!(with("p=1", "p=1,q=1"), HashProblem::Argon2Parts);
        assert_eq!(problem(&format!("{good}$x")), HashProblem::Argon2Parts);
        let bounds = |name, value, min, max| HashProblem::OutOfBounds { name, value, min, max };
        assert_eq!(with("m=64", "m=262145"), bounds("m", 262_145, 8, MEMORY_KIB_MAX));
        assert_eq!(with("m=64", "m=7"), bounds("m", 7, 8, MEMORY_KIB_MAX));
        assert_eq!(with("t=1", "t=11"), bounds("t", 11, 1, PASSES_MAX));
        assert_eq!(with("t=1", "t=0"), bounds("t", 0, 1, PASSES_MAX));
        assert_eq!(with("p=1", "p=9"), bounds("p", 9, 1, LANES_MAX));
        assert_eq!(with("AAAAAAAAAAA$", "A$"), HashProblem::NotBase64("salt"));
        assert!(matches!(with("AAAAAAAAAAA$", "AAAA$"), HashProblem::Length { len: 3, .. }));
        assert!(matches!(with("$AAAAAAAAAAAAAAAAAAAAAA", "$AAAA"), HashProblem::Length { .. }));
        assert_eq!(problem(&"$".repeat(2_000)), HashProblem::TooLong { len: 2_000 });
        let (mosquitto, _) = FOREIGN[0];
        let with = |from: &str, to: &str| problem(&mosquitto.replace(from, to));
        assert_eq!(with("101", "0"), bounds("rounds", 0, 1, ROUNDS_MAX));
        assert_eq!(with("101", "1000001"), bounds("rounds", 1_000_001, 1, ROUNDS_MAX));
        assert_eq!(with("101", "x"), HashProblem::Pbkdf2Parts);
        assert_eq!(with("==", ""), HashProblem::NotBase64("sum"));
    }

    #[test]
    fn a_problem_never_quotes_the_hash() {
        for text in ["hunter2", "$argon2id$v=19$m=64$hunter2", "$7$1$hunter2", "$6$hunter2"] {
            assert!(!problem(text).to_string().contains("hunter2"));
        }
    }
}
