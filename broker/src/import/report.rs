//! What an import could not carry over as it was.

use std::fmt;
use std::path::{Path, PathBuf};

/// What became of a line.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// Nothing does what it did.
    Lost,
    /// Something does nearly what it did.
    Differs,
    /// What it asks for is what happens anyway.
    Unneeded,
}

/// A line, and what there is to say of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Entry {
    pub(super) kind: Kind,
    pub(super) file: PathBuf,
    /// 0: the file as a whole.
    pub(super) line: usize,
    /// The line, without what is secret in it.
    pub(super) text: String,
    pub(super) why: String,
}

/// All there is to say.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub(super) entries: Vec<Entry>,
    /// Lines that are carried over.
    pub(super) carried: usize,
}

impl Report {
    /// How many lines are carried over, as they were or nearly.
    pub fn carried(&self) -> usize {
        self.carried
    }

    /// How many entries of a kind there are.
    pub fn count(&self, kind: Kind) -> usize {
        self.entries.iter().filter(|entry| entry.kind == kind).count()
    }

    /// How many of them are about a line, and not about a file as a whole.
    pub fn of_lines(&self, kind: Kind) -> usize {
        self.entries.iter().filter(|entry| entry.kind == kind && entry.line > 0).count()
    }

    pub(super) fn say(&mut self, kind: Kind, at: &Place, why: impl Into<String>) {
        let (file, text) = (at.file.clone(), at.shown.clone());
        self.entries.push(Entry { kind, file, line: at.line, text, why: why.into() });
    }
}

/// Where a line stands, and how it is shown.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Place {
    pub(super) file: PathBuf,
    pub(super) line: usize,
    pub(super) shown: String,
}

impl Place {
    /// A file as a whole.
    pub(super) fn whole(file: &Path) -> Place {
        Place { file: file.into(), line: 0, shown: String::new() }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} lines carried over, {} without an equal, {} that differ, {} not needed",
            self.carried,
            self.count(Kind::Lost),
            self.count(Kind::Differs),
            self.count(Kind::Unneeded)
        )?;
        for (kind, title) in [
            (Kind::Lost, "Without an equal"),
            (Kind::Differs, "Carried over, but not the same"),
            (Kind::Unneeded, "Not needed"),
        ] {
            if self.count(kind) == 0 {
                continue;
            }
            writeln!(f, "\n{title}:")?;
            for entry in self.entries.iter().filter(|entry| entry.kind == kind) {
                let file = entry.file.display();
                match entry.line {
                    0 => writeln!(f, "  {file}")?,
                    line => writeln!(f, "  {file}:{line}: {}", entry.text)?,
                }
                writeln!(f, "      {}", entry.why)?;
            }
        }
        Ok(())
    }
}
