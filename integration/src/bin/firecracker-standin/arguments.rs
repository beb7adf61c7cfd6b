//! Firecracker's command line.

use std::collections::HashMap;

use crate::{
    NO_ID,
    refusal::{self, Refusal},
};

/// Options with a value.
const VALUES: [&str; 14] = [
    "api-sock",
    "config-file",
    "describe-snapshot",
    "http-api-max-payload-size",
    "id",
    "level",
    "log-path",
    "metadata",
    "metrics-path",
    "mmds-size-limit",
    "module",
    "parent-cpu-time-us",
    "seccomp-filter",
    "start-time-us",
];
/// Options without one.
const FLAGS: [&str; 7] =
    ["boot-timer", "enable-pci", "no-api", "no-seccomp", "show-level", "show-log-origin", "snapshot-version"];
const MAX_ID: usize = 64;

/// How much is logged, from nothing to everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Off,
    Error,
    Warn,
    Info,
}

/// The options that were given, flags without a value.
#[derive(Debug, Default)]
pub struct Arguments<'a>(HashMap<&'a str, &'a str>);

impl<'a> Arguments<'a> {
    pub fn parse(words: &'a [String]) -> Result<Self, Refusal> {
        let mut given = HashMap::new();
        let mut words = words.iter().map(String::as_str);
        while let Some(word) = words.next() {
            let unexpected = |name: &str| {
                let words = format!("Found argument '{name}' which wasn't expected, or isn't valid in this context.");
                refusal::arguments("UnexpectedArgument", name, &words)
            };
            let name = word.strip_prefix("--").ok_or_else(|| unexpected(word))?;
            let takes_value = VALUES.contains(&name);
            if !takes_value && !FLAGS.contains(&name) {
                return Err(unexpected(name));
            }
            if given.contains_key(name) {
                let words = format!("The argument '{name}' was provided more than once.");
                return Err(refusal::arguments("DuplicateArgument", name, &words));
            }
            let value = match takes_value {
                true => words.next().filter(|value| !value.starts_with("--")).ok_or_else(|| {
                    let words = format!("The argument '{name}' requires a value, but none was supplied.");
                    refusal::arguments("MissingValue", name, &words)
                })?,
                false => "",
            };
            given.insert(name, value);
        }
        if given.contains_key("no-api") && !given.contains_key("config-file") {
            let words = "Argument 'config-file' required, but not found.";
            return Err(refusal::arguments("MissingArgument", "config-file", words));
        }
        Ok(Self(given))
    }

    pub fn value(&self, name: &str) -> Option<&'a str> {
        self.0.get(name).copied()
    }

    pub fn id(&self) -> &'a str {
        self.value("id").unwrap_or(NO_ID)
    }

    pub fn check_id(&self) -> Result<(), Refusal> {
        let id = self.id();
        let odd = id.chars().position(|c| c != '-' && !c.is_alphanumeric());
        let error = match odd {
            _ if id.is_empty() || id.len() > MAX_ID => format!("InvalidLen({}, 1, {MAX_ID})", id.len()),
            Some(at) => format!("InvalidChar({:?}, {at})", id.chars().nth(at).unwrap_or_default()),
            None => return Ok(()),
        };
        let message = format!("Invalid instance ID: {error}");
        Err(Refusal::Panic { place: "src/firecracker/src/main.rs:309:48", message })
    }

    pub fn level(&self) -> Result<Level, Refusal> {
        match self.value("level").map(str::to_ascii_lowercase).as_deref() {
            None | Some("info" | "debug" | "trace") => Ok(Level::Info),
            Some("warn" | "warning") => Ok(Level::Warn),
            Some("error") => Ok(Level::Error),
            Some("off") => Ok(Level::Off),
            Some(other) => Err(refusal::level(other)),
        }
    }
}
