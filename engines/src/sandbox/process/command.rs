//! Turns `[process] command` into the executed command: substitution and environment. Pure.

use std::{env, ffi::OsStr, sync::LazyLock};

use unifaas_actors::{
    sandbox::LaunchOrder,
    spec::{DEFAULT_PATH, ProcessSpec, substitute},
};

use crate::{
    sandbox::UNBUFFERED,
    spawner::{Invocation, OWN_PROGRAM},
    state,
};

/// The placeholder for the daemon's own program.
const DAEMON: &str = "%unifaas";

/// The values of placeholders in the command of an instance. No `Debug`: the callback is a secret.
#[derive(Clone)]
pub struct Placeholders {
    /// The address of the instance.
    pub ip: String,
    /// The port of the instance.
    pub port: String,
    /// The callback URL.
    pub callback: String,
    /// The path of the daemon's own program.
    pub daemon: String,
}

impl Invocation {
    /// Builds the command. Of the daemon's environment only `path` is passed on, as the rest may be secrets.
    pub fn new(order: &LaunchOrder, process: &ProcessSpec, placeholders: &Placeholders, path: Option<&OsStr>) -> Self {
        let value = |word: &str| match word {
            "ip" => Some(placeholders.ip.as_str()),
            "port" => Some(placeholders.port.as_str()),
            "callback" => Some(placeholders.callback.as_str()),
            "unifaas" => Some(placeholders.daemon.as_str()),
            _ => None,
        };
        let mut words = process.command.iter();
        let (program, name) = match words.next().map(String::as_str) {
            Some(DAEMON) => (OWN_PROGRAM.to_owned(), "unifaas".to_owned()),
            first => {
                let program = substitute(first.unwrap_or_default(), value);
                (program.clone(), program)
            }
        };
        // A function cannot override the mark by which its processes are found.
        let given = order.spec.env.iter().filter(|(name, _)| *name != state::MARK);
        let given = given.map(|(name, value)| (name.into(), value.into()));
        let ours = [
            ("PATH", path.unwrap_or(OsStr::new(DEFAULT_PATH)).to_owned()),
            ("HOME", "/".into()),
            ("PORT", (&placeholders.port).into()),
            ("HOST", (&placeholders.ip).into()),
            ("CALLBACK_URL", (&placeholders.callback).into()),
            ("FUNCTION_NAME", (&order.spec.name).into()),
            (UNBUFFERED.0, UNBUFFERED.1.into()),
            (state::MARK, order.instance.to_string().into()),
        ];
        let ours = ours.into_iter().filter(|(name, _)| *name == state::MARK || !order.spec.env.contains_key(*name));
        Self {
            program: program.into(),
            name,
            arguments: words.map(|word| substitute(word, value)).collect(),
            env: ours.map(|(name, value)| (name.into(), value)).chain(given).collect(),
        }
    }
}

impl Placeholders {
    /// Returns the path of the daemon's own program.
    pub fn daemon() -> String {
        static FILE: LazyLock<String> = LazyLock::new(|| {
            env::current_exe().map_or_else(|_| OWN_PROGRAM.to_owned(), |path| path.to_string_lossy().into_owned())
        });
        FILE.clone()
    }
}
