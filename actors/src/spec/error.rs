//! The problems of a `function.toml`: file, line, key and reason of each.

use std::{fmt, path::PathBuf};

/// Every problem of one file. Displayed as one line per problem.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct SpecError {
    /// The path of the file.
    pub file: PathBuf,
    /// The problems in the order of the file, those without a line last. Never empty.
    pub problems: Vec<Problem>,
}

/// One problem. Never contains a value of `[env]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Dotted path such as `container.memory`. `None`: the file as a whole, or its syntax.
    pub key: Option<String>,
    /// Counted from 1.
    pub line: Option<usize>,
    /// The reason, on a single line.
    pub message: String,
}

impl SpecError {
    pub(super) fn new(file: PathBuf, mut problems: Vec<Problem>) -> SpecError {
        problems.sort_by_key(|problem| problem.line.unwrap_or(usize::MAX));
        SpecError { file, problems }
    }
}

impl Problem {
    /// Creates a problem of the file as a whole.
    pub(super) fn of_file(message: impl Into<String>) -> Problem {
        Problem { key: None, line: None, message: message.into() }
    }
}

impl fmt::Display for SpecError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                writeln!(formatter)?;
            }
            write!(formatter, "{}", self.file.display())?;
            if let Some(line) = problem.line {
                write!(formatter, ":{line}")?;
            }
            write!(formatter, ": {problem}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.key {
            Some(key) => write!(formatter, "{key}: {}", self.message),
            None => formatter.write_str(&self.message),
        }
    }
}
