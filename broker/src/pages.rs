//! Man pages and shell completions, made from the definition of the command
//! line, so that they cannot say anything else.

use std::fs;
use std::io;
use std::path::Path;

use anyhow::Context;
use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

/// What the program's own page has beside what clap knows. A title, then
/// terms with their text, or text alone.
const SECTIONS: &[(&str, &[(&str, &str)])] = &[
    (
        "EXIT STATUS",
        &[
            ("0", "Fine; of run: stopped by a signal, in time or at the deadline of the drain."),
            ("1", "Failed; the reason is on stderr, or in the log if that is JSON."),
            ("2", "Misused."),
            ("70", "A thread panicked, or a shard could not go on."),
            ("128+N", "A second signal, of number N, ended a drain."),
        ],
    ),
    (
        "SIGNALS",
        &[
            ("SIGTERM, SIGINT", "Drain: clients are asked to go within node.drain_seconds."),
            ("SIGHUP", "Read the config again. What is live is taken over; the log says the rest."),
        ],
    ),
    (
        "ENVIRONMENT",
        &[
            (
                "TIDEGATE__TABLE__KEY",
                "Overrides a key of the config: TIDEGATE__LISTENER__DEFAULT__BIND is \
                 listener.default.bind.",
            ),
            (
                "NOTIFY_SOCKET, WATCHDOG_USEC",
                "Set by a service manager, which is told of start, reload, end and health.",
            ),
        ],
    ),
    ("FILES", &[("/etc/tidegate/tidegate.toml", "The config of the packaged service.")]),
];

/// The completions for a shell.
pub fn completion(mut command: Command, shell: Shell) -> String {
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut script);
    String::from_utf8(script).expect("made of names and help texts, which are UTF-8")
}

/// The page of the program itself.
///
/// # Errors
/// None in practice: memory takes all that is written.
pub fn manual(command: Command) -> io::Result<String> {
    let mut page = Vec::new();
    Man::new(command).render(&mut page)?;
    let mut roff = Roff::new();
    for (title, entries) in SECTIONS {
        roff.control("SH", [*title]);
        for (term, text) in *entries {
            roff.control("TP", []);
            roff.text([bold(*term)]);
            roff.text([roman(*text)]);
        }
    }
    roff.to_writer(&mut page)?;
    String::from_utf8(page).map_err(io::Error::other)
}

/// Writes a page a command into `dir`, which is made if it is not there.
///
/// # Errors
/// When they cannot be written.
pub fn write_manuals(command: Command, dir: &Path) -> anyhow::Result<()> {
    let why = || format!("cannot write man pages to {}", dir.display());
    fs::create_dir_all(dir).with_context(why)?;
    clap_mangen::generate_to(command.clone(), dir).with_context(why)?;
    let page = manual(command)?;
    fs::write(dir.join("tidegate.1"), page).with_context(why)
}
