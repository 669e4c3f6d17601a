//! What is wrong with a file, line by line.

use std::fmt;

/// Faults that are told; of further ones only the number.
const TOLD_MAX: usize = 100;

/// One line that is wrong.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Fault<P> {
    /// Its number, from 1; 0: the file as a whole.
    pub line: usize,
    /// What is wrong, and what would do.
    pub problem: P,
}

impl<P: fmt::Display> fmt::Display for Fault<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}", self.problem),
            line => write!(f, "line {line}: {}", self.problem),
        }
    }
}

/// All lines that are wrong, in their order: the first hundred, and how many more.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Faults<P> {
    told: Vec<Fault<P>>,
    more: usize,
}

impl<P> Default for Faults<P> {
    fn default() -> Faults<P> {
        Faults { told: Vec::new(), more: 0 }
    }
}

impl<P> Faults<P> {
    /// Those that are told.
    pub fn iter(&self) -> impl Iterator<Item = &Fault<P>> {
        self.told.iter()
    }

    /// How many there are, with those that are not told.
    pub fn count(&self) -> usize {
        self.told.len() + self.more
    }

    pub(crate) fn push(&mut self, line: usize, problem: P) {
        match self.told.len() < TOLD_MAX {
            true => self.told.push(Fault { line, problem }),
            false => self.more += 1,
        }
    }

    /// `value`, if nothing was wrong.
    pub(crate) fn or<T>(self, value: T) -> Result<T, Faults<P>> {
        if self.told.is_empty() { Ok(value) } else { Err(self) }
    }
}

impl<P> From<P> for Faults<P> {
    /// The file as a whole is wrong.
    fn from(problem: P) -> Faults<P> {
        Faults { told: vec![Fault { line: 0, problem }], more: 0 }
    }
}

impl<P: fmt::Display> fmt::Display for Faults<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, fault) in self.told.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            fault.fmt(f)?;
        }
        if self.more > 0 {
            write!(f, "\nand {} more", self.more)?;
        }
        Ok(())
    }
}

impl<P: fmt::Debug + fmt::Display> std::error::Error for Faults<P> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_faults_is_told_in_bounds() {
        let mut faults = Faults::default();
        assert_eq!(faults.clone().or(1), Ok(1));
        for line in 1..=150 {
            faults.push(line, "bad");
        }
        assert_eq!(faults.count(), 150);
        let said = faults.to_string();
        assert!(said.starts_with("line 1: bad\nline 2: bad\n"));
        assert!(said.ends_with("line 100: bad\nand 50 more"));
        assert!(faults.or(1).is_err());
    }
}
