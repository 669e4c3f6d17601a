//! Plays cases against a broker and says where the answers differ.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{Shutdown, SocketAddr};
use std::time::{Duration, Instant};

use testkit::{Got, QUIET, Raw};

use super::answer::{Answer, answers, topic};
use super::bytes::{Scope, Version, bytes};
use super::table::{Action, Case, Verdict};

/// How long an answer may take. A right answer never takes this long.
const PATIENCE: Duration = Duration::from_secs(5);

/// Plays `case` in `version`; `Err` tells the whole story of the difference.
pub(crate) fn play(case: &Case, version: Version, tag: &str, at: SocketAddr) -> Result<(), String> {
    let mut play = Play { version, tag, at, ends: BTreeMap::new(), story: String::new() };
    let done = play.steps(case);
    done.map_err(|why| {
        format!(
            "{}.txt:{}: {} {} [{}]\n{}      {why}\n",
            case.file,
            case.line,
            if case.verdict == Verdict::Reject { "reject" } else { "accept" },
            case.name,
            version.name(),
            play.story
        )
    })
}

struct Play<'a> {
    version: Version,
    tag: &'a str,
    at: SocketAddr,
    ends: BTreeMap<char, End>,
    story: String,
}

/// Our end of a connection.
struct End {
    raw: Raw,
    connected: bool,
    over: bool,
    pings_owed: u32,
}

impl Play<'_> {
    fn steps(&mut self, case: &Case) -> Result<(), String> {
        for step in &case.steps {
            let scope = Scope { version: self.version, tag: self.tag.to_owned(), conn: step.conn };
            let at = self.at;
            let end = self.ends.entry(step.conn).or_insert_with(|| End {
                raw: Raw::open(at),
                connected: false,
                over: false,
                pings_owed: 0,
            });
            match &step.action {
                Action::Send(text) => {
                    let bytes = bytes(text, &scope)?;
                    let _ = writeln!(self.story, "   {} > {}", step.conn, hex(&bytes));
                    end.raw.send(&bytes);
                }
                Action::Drip(text) => {
                    let bytes = bytes(text, &scope)?;
                    let _ = writeln!(self.story, "   {} > {} (dripped)", step.conn, hex(&bytes));
                    for byte in bytes {
                        end.raw.send(&[byte]);
                        std::thread::sleep(Duration::from_millis(1));
                    }
                }
                Action::Want(text) => {
                    let _ = writeln!(self.story, "   {} = {text}", step.conn);
                    let wanted = answers(text, &scope)?;
                    let got = end.want(&wanted, self.version, self.tag);
                    got.map_err(|got| format!("got: {got}"))?;
                }
                Action::Abort => {
                    let _ = writeln!(self.story, "   {} aborts", step.conn);
                    self.ends.remove(&step.conn);
                }
                Action::Finish => {
                    let _ = writeln!(self.story, "   {} finishes", step.conn);
                    let _ = end.raw.stream().shutdown(Shutdown::Write);
                }
                Action::Pause(ms) => std::thread::sleep(Duration::from_millis(*ms)),
            }
        }
        // Whatever was taken, or refused without an end, must leave a usable connection.
        for (conn, end) in &mut self.ends {
            if end.connected && !end.over {
                let got = end.want(&[Answer::Alive], self.version, self.tag);
                got.map_err(|got| format!("{conn} should be alive; got: {got}"))?;
            }
        }
        Ok(())
    }
}

impl End {
    /// `Err` says what came instead.
    fn want(&mut self, wanted: &[Answer], version: Version, tag: &str) -> Result<(), String> {
        if wanted.contains(&Answer::Alive) {
            self.raw.send(&[0xc0, 0x00]);
            self.pings_owed += 1;
        }
        let quiet = wanted.contains(&Answer::Quiet);
        let deadline = Instant::now() + if quiet { QUIET } else { PATIENCE };
        loop {
            match self.raw.recv_within(deadline.saturating_duration_since(Instant::now())) {
                Got::Silence if quiet => return Ok(()),
                Got::Silence => return Err("nothing".into()),
                Got::Closed if wanted.contains(&Answer::Close) => {
                    self.over = true;
                    return Ok(());
                }
                Got::Closed => return Err("closed".into()),
                Got::Packet(packet) if packet == [0xd0, 0x00] && self.pings_owed > 0 => {
                    self.pings_owed -= 1;
                    if wanted.contains(&Answer::Alive) {
                        return Ok(());
                    }
                }
                Got::Packet(packet) => {
                    if let Some(answer) = wanted.iter().find(|a| a.is(&packet, version)) {
                        self.connected |= packet[0] == 0x20;
                        return if answer.ends() { self.end() } else { Ok(()) };
                    }
                    // Cases that subscribe widely hear the others' messages.
                    let foreign = topic(&packet)
                        .is_some_and(|t| !t.windows(tag.len()).any(|w| w == tag.as_bytes()));
                    if !foreign {
                        return Err(hex(&packet));
                    }
                }
            }
        }
    }

    fn end(&mut self) -> Result<(), String> {
        self.over = true;
        match self.raw.recv_within(PATIENCE) {
            Got::Closed => Ok(()),
            Got::Silence => Err("the right packet, but no close after it".into()),
            Got::Packet(p) => Err(format!("the right packet, and then {}", hex(&p))),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    let mut out = String::new();
    for byte in bytes.iter().take(48) {
        let _ = write!(out, "{byte:02x} ");
    }
    if bytes.len() > 48 {
        let _ = write!(out, ".. ({} bytes)", bytes.len());
    }
    out.trim_end().to_owned()
}
