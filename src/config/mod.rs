//! The effective settings: the command line, then the environment, then the configuration file, then defaults.
//!
//! clap makes all of it. The file's keys become arguments, where neither the command line nor the environment has the
//! option, and clap parses again: so each check and message is the same wherever a value comes from. `file.rs` reads the
//! file, `report.rs` shows the settings with their sources.

mod file;
mod report;

use std::{
    env,
    ffi::{OsStr, OsString},
    fmt,
    path::{Path, PathBuf},
};

use clap::{
    ArgMatches, Args, CommandFactory, FromArgMatches,
    error::{ContextKind, ContextValue},
    parser::ValueSource,
};

pub use file::FileError;

use crate::cli::{Cli, Command, Serve};
use file::Entry;

/// The configuration file that is read without `--config`, if it is there.
const DEFAULT_FILE: &str = "/etc/unifaas/unifaas.toml";
/// The registry without `--registry`, if it is there.
const DEFAULT_REGISTRY: &str = "/etc/unifaas/registry";

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Also the text of `--help` and `--version`.
    #[error(transparent)]
    Usage(#[from] clap::Error),
    /// A value of the environment is wrong.
    #[error("{variable}: {message}")]
    Variable { variable: String, message: String },
    #[error(transparent)]
    File(#[from] FileError),
}

/// The settings of a daemon, and where they come from.
#[derive(Debug)]
pub struct Configuration {
    /// The settings.
    pub serve: Serve,
    /// The file that was read, if there is one.
    pub file: Option<PathBuf>,
    settings: Vec<Setting>,
    arguments: Vec<OsString>,
}

/// One option.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Setting {
    /// The long option, without dashes.
    key: String,
    /// `None`: it is not set, and has no default.
    value: Option<String>,
    source: Source,
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    CommandLine,
    Environment(String),
    File { path: PathBuf, line: usize },
    Default,
}

/// The command line, and the settings of the commands that have any.
#[derive(Debug)]
pub struct Parsed {
    pub command: Option<Command>,
    /// There for `serve` and `config`.
    pub configuration: Option<Configuration>,
}

/// Parses the arguments, of which the first is the program.
///
/// # Errors
/// When they are wrong, or the configuration file is; also for `--help`.
pub fn parse(arguments: Vec<OsString>) -> Result<Parsed, ConfigError> {
    // Errors count once the file's values are there, too: an option may need another that is in the file.
    let all = Cli::command().ignore_errors(true).try_get_matches_from(&arguments)?;
    let known = Serve::augment_args(clap::Command::new("serve"));
    let Some((position, given)) = options(&all) else {
        // The variables of the daemon's options are checked for the other commands as well.
        let matches = Cli::command().try_get_matches_from(arguments);
        let cli = Cli::from_arg_matches(&matches.map_err(|error| located(error, &known, &all, None, &[]))?)?;
        return Ok(Parsed { command: cli.command, configuration: None });
    };
    let default = Path::new(DEFAULT_FILE);
    let file = given.get_one::<PathBuf>("config").cloned().or_else(|| default.exists().then(|| default.to_owned()));
    let mut entries = file.as_deref().map_or(Ok(Vec::new()), |path| file::read(path, &known))?;
    entries.retain(|entry| {
        let option = known.get_arguments().find(|option| option.get_long() == Some(&entry.key));
        let source = option.and_then(|option| given.value_source(option.get_id().as_str()));
        !matches!(source, Some(ValueSource::CommandLine | ValueSource::EnvVariable))
    });

    let mut line = arguments.clone();
    line.splice(position..position, entries.iter().map(|entry| format!("--{}={}", entry.key, entry.value).into()));
    let matches = Cli::command().try_get_matches_from(line);
    let matches = matches.map_err(|error| located(error, &known, given, file.as_deref(), &entries))?;
    let cli = Cli::from_arg_matches(&matches)?;
    let mut serve = match &cli.command {
        Some(Command::Serve(serve) | Command::Config { serve, .. }) => Serve::clone(serve),
        _ => cli.serve,
    };
    if serve.registry.is_none() && Path::new(DEFAULT_REGISTRY).is_dir() {
        serve.registry = Some(DEFAULT_REGISTRY.into());
    }
    let sources = options(&matches).map_or(&matches, |(_, options)| options);
    let settings = settings(&known, sources, &serve, &entries, file.as_deref());
    let configuration = Configuration { serve, file, settings, arguments };
    Ok(Parsed { command: cli.command, configuration: Some(configuration) })
}

impl Configuration {
    /// Returns the settings without a command line: those of the environment and of the file.
    ///
    /// # Errors
    /// When they are wrong.
    pub fn without_arguments() -> Result<Self, ConfigError> {
        Self::of(vec!["unifaas".into()])
    }

    /// Reads the file again.
    ///
    /// # Errors
    /// When it is wrong now.
    pub fn reread(&self) -> Result<Self, ConfigError> {
        Self::of(self.arguments.clone())
    }

    fn of(arguments: Vec<OsString>) -> Result<Self, ConfigError> {
        let missing =
            || clap::Error::raw(clap::error::ErrorKind::InvalidSubcommand, "no settings belong to this command");
        Ok(parse(arguments)?.configuration.ok_or_else(missing)?)
    }

    /// Whether an option has a value that is not its default.
    pub fn is_set(&self, key: &str) -> bool {
        self.settings.iter().any(|setting| setting.key == key && setting.source != Source::Default)
    }

    /// Returns where the value of an option comes from.
    pub fn source_of(&self, key: &str) -> String {
        let setting = self.settings.iter().find(|setting| setting.key == key);
        setting.map_or_else(String::new, |setting| setting.source.to_string())
    }

    /// Takes over the settings that can change while the daemon runs, of which `keys` have changed.
    pub fn adopt(&mut self, new: &Self, keys: &[&str]) {
        self.serve.drain_grace = new.serve.drain_grace;
        self.serve.upgrade_grace = new.serve.upgrade_grace;
        self.serve.log_level = new.serve.log_level;
        for (own, new) in self.settings.iter_mut().zip(&new.settings) {
            if keys.contains(&new.key.as_str()) {
                own.clone_from(new);
            }
        }
    }

    /// Returns the keys of the options that have other values than in `other`.
    pub fn differences(&self, other: &Self) -> Vec<&str> {
        let pairs = self.settings.iter().zip(&other.settings);
        pairs.filter(|(one, other)| one.value != other.value).map(|(one, _)| one.key.as_str()).collect()
    }
}

/// Returns the options of the daemon among all matches, and the position of further arguments for it.
fn options(matches: &ArgMatches) -> Option<(usize, &ArgMatches)> {
    match matches.subcommand() {
        None => Some((1, matches)),
        Some(("serve" | "config", options)) => Some((2, options)),
        Some(_) => None,
    }
}

/// Adds to an error of clap where the value comes from, unless that is the command line.
fn located(
    error: clap::Error,
    known: &clap::Command,
    given: &ArgMatches,
    file: Option<&Path>,
    entries: &[Entry],
) -> ConfigError {
    let Some(option) = culprit(&error, known) else { return error.into() };
    let entry = entries.iter().find(|entry| option.get_long() == Some(&entry.key));
    match (file.zip(entry), given.value_source(option.get_id().as_str()), option.get_env()) {
        (Some((path, entry)), ..) => FileError::value(path, entry, &error).into(),
        (None, Some(ValueSource::EnvVariable), Some(variable)) if is_of(&error, variable) => {
            let variable = variable.to_string_lossy().into_owned();
            ConfigError::Variable { variable, message: file::message(&error) }
        }
        _ => error.into(),
    }
}

/// Returns whether the value that clap refuses is that of a variable. Another command may have an option of the same name.
fn is_of(error: &clap::Error, variable: &OsStr) -> bool {
    let Some(ContextValue::String(wrong)) = error.get(ContextKind::InvalidValue) else { return true };
    env::var(variable).is_ok_and(|value| value.contains(wrong.as_str()))
}

/// Returns the option that an error of clap is about.
fn culprit<'a>(error: &clap::Error, known: &'a clap::Command) -> Option<&'a clap::Arg> {
    let Some(ContextValue::String(option)) = error.get(ContextKind::InvalidArg) else { return None };
    let key = option.strip_prefix("--")?.split([' ', '=']).next()?;
    known.get_arguments().find(|option| option.get_long() == Some(key))
}

fn settings(
    known: &clap::Command,
    matches: &ArgMatches,
    serve: &Serve,
    entries: &[Entry],
    file: Option<&Path>,
) -> Vec<Setting> {
    let options = known.get_arguments().filter(|option| option.get_id() != "config");
    let setting = |option: &clap::Arg| {
        let (id, key) = (option.get_id().as_str(), option.get_long().unwrap_or_default().to_owned());
        let entry = entries.iter().find(|entry| entry.key == key);
        let source = match (matches.value_source(id), entry.zip(file)) {
            (_, Some((entry, path))) => Source::File { path: path.to_owned(), line: entry.line },
            (Some(ValueSource::CommandLine), None) => Source::CommandLine,
            (Some(ValueSource::EnvVariable), None) => {
                Source::Environment(option.get_env().unwrap_or_default().to_string_lossy().into_owned())
            }
            _ => Source::Default,
        };
        let given = matches.get_raw(id).map(|values| values.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(","));
        let value = given.or_else(|| serve.without_option(&key));
        Setting { key, value, source }
    };
    options.map(setting).collect()
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CommandLine => f.write_str("command line"),
            Self::Environment(name) => write!(f, "environment: {name}"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

#[cfg(test)]
mod tests;
