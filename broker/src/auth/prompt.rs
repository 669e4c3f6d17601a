//! A password from whoever sits at the terminal, or from a pipe; never from an
//! argument, which every process of the machine can read.

use std::io::{self, BufRead, IsTerminal, Read, Write};

use anyhow::{Context, bail, ensure};
use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr,
};

/// The longest password that a CONNECT can carry.
const PASSWORD_BYTES_MAX: usize = 65_535;
/// What Ctrl-C types.
const INTERRUPT: u8 = 3;

/// The password of a user that is there.
pub(super) fn password(user: &str) -> anyhow::Result<Vec<u8>> {
    if io::stdin().is_terminal() {
        return typed(&format!("Password of {user}: "));
    }
    line(&mut io::stdin().lock())
}

/// A password to be set; typed twice at a terminal.
pub(super) fn new_password(user: &str) -> anyhow::Result<Vec<u8>> {
    let password = if io::stdin().is_terminal() {
        let password = typed(&format!("New password of {user}: "))?;
        ensure!(password == typed("Once more: ")?, "the two differ; nothing is changed");
        password
    } else {
        line(&mut io::stdin().lock())?
    };
    ensure!(!password.is_empty(), "the password is empty; nothing is changed");
    Ok(password)
}

/// Asks at the terminal; what is typed is not shown.
fn typed(question: &str) -> anyhow::Result<Vec<u8>> {
    let mut err = io::stderr();
    write!(err, "{question}").and_then(|()| err.flush()).context("cannot ask for the password")?;
    let unseen = Unseen::begin()?;
    let password = line(&mut io::stdin().lock());
    drop(unseen);
    let _ = writeln!(err);
    password
}

/// The first line, without its end.
fn line(input: &mut impl BufRead) -> anyhow::Result<Vec<u8>> {
    let mut line = Vec::new();
    // One byte more than allowed, and the end.
    let mut input = input.take(PASSWORD_BYTES_MAX as u64 + 3);
    loop {
        let mut byte = [0];
        if input.read(&mut byte).context("cannot read the password")? == 0 || byte[0] == b'\n' {
            break;
        }
        if byte[0] == INTERRUPT && io::stdin().is_terminal() {
            bail!("interrupted; nothing is changed");
        }
        line.push(byte[0]);
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    ensure!(
        line.len() <= PASSWORD_BYTES_MAX,
        "the password has more than {PASSWORD_BYTES_MAX} bytes, which no client can send"
    );
    Ok(line)
}

/// While it lives, the terminal shows nothing of what is typed. Ctrl-C ends the
/// line instead of the process, which would leave the terminal like that.
struct Unseen(Termios);

impl Unseen {
    fn begin() -> anyhow::Result<Unseen> {
        let before = tcgetattr(io::stdin()).context("cannot look at the terminal")?;
        let mut unseen = before.clone();
        unseen.local_modes.remove(LocalModes::ECHO | LocalModes::ISIG);
        unseen.special_codes[SpecialCodeIndex::VEOL] = INTERRUPT;
        tcsetattr(io::stdin(), OptionalActions::Flush, &unseen)
            .context("cannot hide the password")?;
        Ok(Unseen(before))
    }
}

impl Drop for Unseen {
    fn drop(&mut self) {
        // There is nothing left to try if it fails.
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_is_the_password() {
        let read = |text: &[u8]| line(&mut &text[..]).map_err(|error| error.to_string());
        assert_eq!(read(b"secret\nmore\n"), Ok(b"secret".to_vec()));
        assert_eq!(read(b"sec ret\r\n"), Ok(b"sec ret".to_vec()));
        assert_eq!(read(b"\xff\x00"), Ok(b"\xff\x00".to_vec()));
        assert_eq!(read(b""), Ok(Vec::new()));
        assert_eq!(read(&[b'x'; 65_535]).map(|line| line.len()), Ok(65_535));
        assert!(read(&[b'x'; 70_000]).is_err_and(|error| error.contains("65535")));
    }
}
