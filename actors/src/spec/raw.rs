//! Typed access to the parsed TOML of a `function.toml`, by key.
//!
//! A value of the wrong type or out of range is reported with key and line and then treated as absent, so one pass finds
//! every problem. `keys.rs` lists the keys; `check.rs` and `sandbox.rs` interpret them.

use std::{
    cell::RefCell,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    error::Problem,
    keys::{self, Table, listing},
};

/// Longest duration in seconds, some 31 years: far above any use, far below where an instant overflows.
const MAX_SECONDS: f64 = 1e9;

/// The problems found so far in one text.
pub(super) struct Report<'t> {
    text: &'t str,
    problems: RefCell<Vec<Problem>>,
}

impl<'t> Report<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Report { text, problems: RefCell::default() }
    }

    pub(super) fn add(&self, key: Option<String>, line: Option<usize>, message: impl Into<String>) {
        self.problems.borrow_mut().push(Problem { key, line, message: message.into() });
    }

    pub(super) fn into_problems(self) -> Vec<Problem> {
        self.problems.into_inner()
    }
}

/// Returns the line of the byte at `offset`, counted from 1.
pub(super) fn line_at(text: &[u8], offset: usize) -> usize {
    1 + text.iter().take(offset).filter(|byte| **byte == b'\n').count()
}

/// Returns what is wrong with a text that is no TOML, on one line. A duplicate key is named.
pub fn syntax_error(text: &str, error: &toml::de::Error) -> String {
    let message = error.message().replace('\n', " ");
    let key = error.span().and_then(|span| text.get(span)).filter(|_| message == "duplicate key");
    key.map_or_else(|| message.clone(), |key| format!("{message} `{}`", clipped(key.trim())))
}

/// One table of the file.
pub(super) struct Section<'t> {
    report: &'t Report<'t>,
    table: &'t DeTable<'t>,
    /// Dotted path of the table. Empty: the file itself.
    path: String,
    line: Option<usize>,
}

impl<'t> Section<'t> {
    pub(super) fn file(report: &'t Report<'t>, table: &'t DeTable<'t>) -> Self {
        Section { report, table, path: String::new(), line: None }
    }

    /// Returns the table at `key`.
    pub(super) fn section(&self, key: &str) -> Option<Section<'t>> {
        match self.value(key)? {
            DeValue::Table(table) => {
                Some(Section { report: self.report, table, path: self.path_of(key), line: self.line_of(key) })
            }
            other => self.mismatch(key, "a table", other),
        }
    }

    /// Returns the tables of the array at `key`.
    pub(super) fn sections(&self, key: &str) -> Vec<Section<'t>> {
        let elements = match self.value(key) {
            None => return Vec::new(),
            Some(DeValue::Array(elements)) => elements,
            Some(other) => {
                self.fail(key, format!("expected tables that begin with [[{key}]], found {}", found(other)));
                return Vec::new();
            }
        };
        let section = |(index, element): (usize, &'t Spanned<DeValue<'t>>)| {
            let path = format!("{}[{index}]", self.path_of(key));
            let line = Some(line_at(self.report.text.as_bytes(), element.span().start));
            match element.get_ref() {
                DeValue::Table(table) => Some(Section { report: self.report, table, path, line }),
                other => {
                    self.report.add(Some(path), line, format!("expected a table, found {}", found(other)));
                    None
                }
            }
        };
        elements.iter().enumerate().filter_map(section).collect()
    }

    pub(super) fn given(&self, key: &str) -> bool {
        self.value(key).is_some()
    }

    pub(super) fn is_table(&self, key: &str) -> bool {
        matches!(self.value(key), Some(DeValue::Table(_)))
    }

    /// Returns every key with its value, known or not.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&'t str, &'t DeValue<'t>)> {
        self.table.iter().map(|(key, value)| (key.get_ref().as_ref(), value.get_ref()))
    }

    pub(super) fn value(&self, key: &str) -> Option<&'t DeValue<'t>> {
        self.table.get(key).map(|value| value.get_ref())
    }

    /// Returns the key's dotted path in TOML syntax.
    pub(super) fn path_of(&self, key: &str) -> String {
        let bare = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
        let key = if bare { clipped(key) } else { format!("{:?}", clipped(key)) };
        if self.path.is_empty() { key } else { format!("{}.{key}", self.path) }
    }

    /// Returns the line of the key, or that of its table if the key is absent.
    pub(super) fn line_of(&self, key: &str) -> Option<usize> {
        match self.table.get_key_value(key) {
            Some((key, _)) => Some(line_at(self.report.text.as_bytes(), key.span().start)),
            None => self.line,
        }
    }

    /// Reports a problem of `key`.
    pub(super) fn fail(&self, key: &str, message: impl Into<String>) {
        self.report.add(Some(self.path_of(key)), self.line_of(key), message);
    }

    /// Reports a problem of the table as a whole.
    pub(super) fn fail_table(&self, message: impl Into<String>) {
        self.report.add((!self.path.is_empty()).then(|| self.path.clone()), self.line, message);
    }

    /// Reports `key` if it is absent.
    pub(super) fn require(&self, key: &str) {
        if !self.given(key) {
            self.fail(key, "is required");
        }
    }

    /// Reports every key that `table` does not know.
    pub(super) fn only(&self, table: &Table) {
        for (key, _) in self.entries() {
            if let Some(objection) = keys::objection(key, table) {
                self.fail(key, objection);
            }
        }
    }

    pub(super) fn boolean(&self, key: &str) -> Option<bool> {
        match self.value(key)? {
            DeValue::Boolean(value) => Some(*value),
            other => self.mismatch(key, "true or false", other),
        }
    }

    /// Returns an integer in `range`. `what` is its unit for messages, such as "MiB".
    pub(super) fn integer(&self, key: &str, what: &str, range: RangeInclusive<u64>) -> Option<u64> {
        let value = self.value(key)?;
        let integer = match value {
            DeValue::Integer(integer) => u64::from_str_radix(integer.as_str(), integer.radix()).ok(),
            _ => None,
        };
        let Some(integer) = integer.filter(|integer| range.contains(integer)) else {
            let expected = format!("an integer from {} to {} ({what})", range.start(), range.end());
            return self.mismatch(key, &expected, value);
        };
        Some(integer)
    }

    /// Returns an integer or float that `accept` accepts. NaN is in no range.
    pub(super) fn number(&self, key: &str, expected: &str, accept: impl Fn(f64) -> bool) -> Option<f64> {
        let value = self.value(key)?;
        let number = match value {
            DeValue::Integer(integer) => {
                i64::from_str_radix(integer.as_str(), integer.radix()).ok().map(|integer| integer as f64)
            }
            DeValue::Float(float) => float.as_str().parse().ok(),
            _ => None,
        };
        let Some(number) = number.filter(|number| accept(*number)) else {
            return self.mismatch(key, expected, value);
        };
        Some(number)
    }

    pub(super) fn seconds(&self, key: &str) -> Option<Duration> {
        let expected = format!("seconds, a number from 0 to {MAX_SECONDS}");
        let seconds = self.number(key, &expected, |seconds| (0.0..=MAX_SECONDS).contains(&seconds))?;
        let duration = Duration::try_from_secs_f64(seconds).ok()?;
        // A tiny value must not become 0, which may have a meaning of its own.
        Some(if seconds > 0.0 { duration.max(Duration::from_nanos(1)) } else { duration })
    }

    pub(super) fn positive_seconds(&self, key: &str) -> Option<Duration> {
        let duration = self.seconds(key)?;
        if duration.is_zero() {
            self.fail(key, "expected more than 0 seconds, found 0");
            return None;
        }
        Some(duration)
    }

    /// Returns a string without NUL, which could not be passed to a program. It may be empty.
    pub(super) fn string(&self, key: &str) -> Option<&'t str> {
        match self.value(key)? {
            DeValue::String(string) if string.contains('\0') => {
                self.fail(key, "must not contain a NUL character");
                None
            }
            DeValue::String(string) => Some(string),
            other => self.mismatch(key, "a string", other),
        }
    }

    /// Returns a string that is not empty and contains no white space or control characters.
    pub(super) fn word(&self, key: &str) -> Option<String> {
        let string = self.string(key)?;
        if string.is_empty() || string.contains(|c: char| c.is_whitespace() || c.is_control()) {
            self.fail(key, format!("expected a word without white space, found the string {:?}", clipped(string)));
            return None;
        }
        Some(string.to_owned())
    }

    /// Returns the path of a request.
    pub(super) fn request_path(&self, key: &str) -> Option<String> {
        let path = self.string(key)?;
        // A fragment would never be sent.
        if !path.starts_with('/') || !path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
            let rule = "a path that starts with '/' and has only visible ASCII characters and no '#'";
            return self.mismatch(key, rule, self.value(key)?);
        }
        Some(path.to_owned())
    }

    /// Returns the path at `key`. Relative paths start at `directory`.
    pub(super) fn path(&self, key: &str, directory: &Path) -> Option<PathBuf> {
        let string = self.string(key)?;
        if string.is_empty() {
            self.fail(key, "expected a path, found the string \"\"");
            return None;
        }
        Some(resolve(directory, string))
    }

    /// Returns an array of strings without NUL.
    pub(super) fn strings(&self, key: &str) -> Option<Vec<String>> {
        let array = match self.value(key)? {
            DeValue::Array(array) => array,
            other => return self.mismatch(key, "an array of strings", other),
        };
        let mut strings = Vec::with_capacity(array.len());
        for (index, element) in array.iter().enumerate() {
            match element.get_ref() {
                DeValue::String(string) if string.contains('\0') => {
                    self.fail(key, format!("element {index} must not contain a NUL character"));
                }
                DeValue::String(string) => strings.push(string.clone().into_owned()),
                other => {
                    self.fail(key, format!("expected an array of strings, element {index} is {}", found(other)));
                }
            }
        }
        (strings.len() == array.len()).then_some(strings)
    }

    /// Returns a program with arguments, or arguments alone: at least one string, and the first is not empty.
    pub(super) fn command(&self, key: &str) -> Option<Vec<String>> {
        let command = self.strings(key)?;
        match command.first() {
            Some(first) if !first.is_empty() => Some(command),
            Some(_) => {
                self.fail(key, "the first element must not be empty");
                None
            }
            None => {
                self.fail(key, "expected at least one string, found an empty array");
                None
            }
        }
    }

    /// Returns the value whose name is given.
    pub(super) fn choice<T: Copy>(&self, key: &str, choices: &[(&str, T)]) -> Option<T> {
        let value = self.value(key)?;
        let chosen = choices.iter().find(|(name, _)| matches!(value, DeValue::String(string) if string == name));
        let Some((_, chosen)) = chosen else {
            let names: Vec<_> = choices.iter().map(|(name, _)| format!("{name:?}")).collect();
            return self.mismatch(key, &listing(&names, "or"), value);
        };
        Some(*chosen)
    }

    /// Reports an unexpected value. Returns `None`.
    pub(super) fn mismatch<T>(&self, key: &str, expected: &str, value: &DeValue<'_>) -> Option<T> {
        self.fail(key, format!("expected {expected}, found {}", found(value)));
        None
    }
}

/// Returns `path` relative to `directory` without `.`. Where `..` leads depends on symbolic links, so it is kept.
pub(super) fn resolve(directory: &Path, path: &str) -> PathBuf {
    directory.join(path).components().collect()
}

/// Returns the type of a value for messages.
pub(super) fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

/// Returns a value for messages. Tables and arrays may contain secrets, so only their type is named.
fn found(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(string) => format!("the string {:?}", clipped(string)),
        DeValue::Integer(integer) => format!("the integer {}", clipped(&integer.to_string())),
        DeValue::Float(float) => format!("the float {}", clipped(float.as_str())),
        DeValue::Boolean(boolean) => format!("the boolean {boolean}"),
        DeValue::Datetime(datetime) => format!("the date or time {datetime}"),
        DeValue::Array(_) | DeValue::Table(_) => kind(value).to_owned(),
    }
}

pub(super) fn clipped(text: &str) -> String {
    const MAX_CHARS: usize = 60;
    match text.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
