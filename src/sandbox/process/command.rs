//! From `[process] command` to the command that is run: substitution and environment. Pure.

use std::{
    env,
    ffi::{OsStr, OsString},
    path::PathBuf,
    sync::LazyLock,
};

use unifaas_actors::{sandbox::LaunchOrder, spec::ProcessSpec};

use crate::{sandbox::substitute::substitute, state};

/// Where programs are looked for when neither the function nor the daemon has a PATH.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The word that stands for the daemon's own program.
const DAEMON: &str = "%unifaas";
/// The daemon's own program, whatever has become of its file and of the directories above it.
const DAEMON_PROGRAM: &str = "/proc/self/exe";

/// What is known of an instance before it starts. No `Debug`: the callback is a secret.
#[derive(Clone)]
pub struct Placeholders {
    /// Its address.
    pub ip: String,
    /// Its port.
    pub port: String,
    /// Where it reports that it is ready.
    pub callback: String,
    /// The daemon's own file, for arguments.
    pub daemon: String,
}

/// A command, ready to run. No `Debug`: there are secrets among the arguments and in the environment.
#[derive(PartialEq, Eq)]
pub struct Invocation {
    /// A path, or a name to be looked up in the PATH of `env`; relative to the function's directory.
    pub program: PathBuf,
    /// Its zeroth argument: what it believes to be called.
    pub name: String,
    /// The others.
    pub arguments: Vec<String>,
    /// Its whole environment.
    pub env: Vec<(String, OsString)>,
}

impl Invocation {
    /// Of the daemon's environment, only `path` is passed on: the rest may be secrets.
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
            Some(DAEMON) => (DAEMON_PROGRAM.to_owned(), "unifaas".to_owned()),
            first => {
                let program = substitute(first.unwrap_or_default(), value);
                (program.clone(), program)
            }
        };
        // The mark by which its processes are found is no function's to change.
        let given = order.spec.env.iter().filter(|(name, _)| *name != state::MARK);
        let given = given.map(|(name, value)| (name.clone(), value.into()));
        let ours = [
            ("PATH", path.unwrap_or(OsStr::new(DEFAULT_PATH)).to_owned()),
            ("HOME", "/".into()),
            ("PORT", (&placeholders.port).into()),
            ("HOST", (&placeholders.ip).into()),
            ("CALLBACK_URL", (&placeholders.callback).into()),
            ("FUNCTION_NAME", (&order.spec.name).into()),
            (state::MARK, order.instance.to_string().into()),
        ];
        let ours = ours.into_iter().filter(|(name, _)| *name == state::MARK || !order.spec.env.contains_key(*name));
        Self {
            program: program.into(),
            name,
            arguments: words.map(|word| substitute(word, value)).collect(),
            env: ours.map(|(name, value)| (name.to_owned(), value)).chain(given).collect(),
        }
    }
}

impl Placeholders {
    /// The daemon's own file, as far as it is known.
    pub fn daemon() -> String {
        static FILE: LazyLock<String> = LazyLock::new(|| {
            env::current_exe().map_or_else(|_| DAEMON_PROGRAM.to_owned(), |path| path.to_string_lossy().into_owned())
        });
        FILE.clone()
    }
}
