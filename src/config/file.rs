//! The configuration file: TOML whose keys are the long options of the daemon.

use std::{
    io,
    path::{Path, PathBuf},
};

use toml::de::{DeTable, DeValue};
use unifaas_actors::spec::{nearest, syntax_error};

/// A line of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// A long option, without dashes.
    pub key: String,
    /// As it would be on the command line.
    pub value: String,
    /// Counted from 1.
    pub line: usize,
}

/// What is wrong with the file.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("cannot read the configuration {}: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    /// Displayed as one line per problem.
    #[error("{}", lines(path, problems))]
    Invalid { path: PathBuf, problems: Vec<(usize, String)> },
}

impl FileError {
    /// Makes the problem of a value that clap refuses.
    pub fn value(path: &Path, entry: &Entry, error: &clap::Error) -> Self {
        Self::Invalid { path: path.to_owned(), problems: vec![(entry.line, message(error))] }
    }
}

/// Returns what clap says of a value, on one line.
pub fn message(error: &clap::Error) -> String {
    let message = error.to_string();
    let message = message.strip_prefix("error: ").unwrap_or(&message);
    // Behind it is where to find help, which is about the command line.
    message.split("\n\n").next().unwrap_or_default().lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

/// Reads a file. Its values are text that has not been checked.
///
/// # Errors
/// When it cannot be read, is no TOML, or has other keys than the options of `known`.
pub fn read(path: &Path, known: &clap::Command) -> Result<Vec<Entry>, FileError> {
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|source| FileError::Unreadable { path: path.to_owned(), source })?;
    // A file names no other one.
    let keys: Vec<_> = known.get_arguments().filter_map(clap::Arg::get_long).filter(|key| *key != "config").collect();
    parse(&text, &keys).map_err(|problems| FileError::Invalid { path: path.to_owned(), problems })
}

/// Returns the entries in the order of the file, or its problems by line.
fn parse(text: &str, keys: &[&str]) -> Result<Vec<Entry>, Vec<(usize, String)>> {
    let line_of = |position: usize| text.bytes().take(position).filter(|byte| *byte == b'\n').count() + 1;
    let table = DeTable::parse(text).map_err(|error| {
        let line = error.span().map_or(1, |span| line_of(span.start));
        vec![(line, syntax_error(text, &error))]
    })?;
    let (mut entries, mut problems) = (Vec::new(), Vec::new());
    for (key, value) in table.get_ref() {
        let (line, key) = (line_of(key.span().start), key.get_ref().as_ref());
        match (keys.contains(&key), text_of(value.get_ref())) {
            (true, Some(value)) => entries.push(Entry { key: key.to_owned(), value, line }),
            (true, None) => {
                let found = value.get_ref().type_str();
                problems.push((line, format!("{key}: expected text, a number or a boolean, not {found}")));
            }
            (false, _) => {
                let hint = match nearest(key, keys) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("known: {}", keys.join(", ")),
                };
                problems.push((line, format!("{key}: unknown key; {hint}")));
            }
        }
    }
    entries.sort_by_key(|entry: &Entry| entry.line);
    problems.sort();
    if problems.is_empty() { Ok(entries) } else { Err(problems) }
}

fn text_of(value: &DeValue<'_>) -> Option<String> {
    Some(match value {
        DeValue::String(text) => text.as_ref().to_owned(),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(yes) => yes.to_string(),
        DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => return None,
    })
}

fn lines(path: &Path, problems: &[(usize, String)]) -> String {
    let lines = problems.iter().map(|(line, message)| format!("{}:{line}: {message}", path.display()));
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> [&'static str; 3] {
        ["listen", "max-connections", "drain-grace"]
    }

    #[test]
    fn values_are_text_in_the_order_of_the_file() {
        let text = "# ours\nmax-connections = 1_000\n\n\"listen\" = \"[::]:80\" # here\ndrain-grace = 0.5\n";
        let entry = |key: &str, value: &str, line| Entry { key: key.into(), value: value.into(), line };
        let expected =
            [entry("max-connections", "1000", 2), entry("listen", "[::]:80", 4), entry("drain-grace", "0.5", 5)];
        assert_eq!(parse(text, &keys()).unwrap(), expected);
        assert_eq!(parse("", &keys()).unwrap(), []);
    }

    #[test]
    fn every_problem_has_its_line() {
        let problems = |text| parse(text, &keys()).unwrap_err();
        assert_eq!(
            problems("\nlisten = [\"a\"]\nmax_connections = 1\nconfig = \"x\"\n"),
            [
                (2, "listen: expected text, a number or a boolean, not array".to_owned()),
                (3, "max_connections: unknown key; did you mean `max-connections`?".to_owned()),
                (4, "config: unknown key; known: listen, max-connections, drain-grace".to_owned()),
            ]
        );
        assert_eq!(
            problems("[listen]\nx = 1\n"),
            [(1, "listen: expected text, a number or a boolean, not table".to_owned())]
        );
        assert_eq!(problems("\nlisten = \n")[0].0, 2);
        assert_eq!(problems("listen = 'a'\nlisten = 'b'\n"), [(2, "duplicate key `listen`".to_owned())]);
    }
}
