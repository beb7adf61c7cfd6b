//! Completion of command lines: the scripts that shells load, and the answers that these ask the program for.
//!
//! A script calls the program with [`VARIABLE`] set to the name of the shell. Names of functions come from the daemon.

use std::{env, ffi::OsString, time::Duration};

use clap::CommandFactory;
use clap_complete::{
    Shell,
    engine::{ArgValueCandidates, CompletionCandidate},
    env::Shells,
};
use tokio::{runtime, time::timeout};

use super::{client::Client, error::CommandError, ps::members, terminal::Output};
use crate::cli::{Cli, DaemonArgs};

/// Set by the scripts.
pub const VARIABLE: &str = "UNIFAAS_COMPLETE";
const PROGRAM: &str = "unifaas";
/// How long a daemon may take to name its functions: a person waits.
const TIMEOUT: Duration = Duration::from_secs(1);
/// zsh runs the file itself as the first completion, which only defines the function.
const ZSH_FIRST: &str = "[ \"$funcstack[1]\" = _unifaas ] && _clap_dynamic_completer_unifaas \"$@\"\ntrue\n";

/// Prints the script of a shell.
///
/// # Errors
/// When there is none, or standard output is closed.
pub fn print_script(shell: Shell, output: &Output) -> Result<(), CommandError> {
    let (shells, name) = (Shells::builtins(), shell.to_string());
    let completer = shells.completer(&name).ok_or_else(|| CommandError::Usage(format!("no completions for {name}")))?;
    let mut script = Vec::new();
    completer.write_registration(VARIABLE, PROGRAM, PROGRAM, PROGRAM, &mut script)?;
    if shell == Shell::Zsh {
        script.extend_from_slice(ZSH_FIRST.as_bytes());
    }
    output.bytes(&script)
}

/// Answers the script of a shell, if this is its call: the arguments behind `--` are those of the command line.
pub fn answer(arguments: &[OsString]) -> Option<Result<(), CommandError>> {
    let shell = env::var(VARIABLE).ok().filter(|shell| !shell.is_empty())?;
    let start = arguments.iter().position(|argument| argument == "--")? + 1;
    Some(complete(&shell, arguments[start..].to_vec()))
}

fn complete(shell: &str, words: Vec<OsString>) -> Result<(), CommandError> {
    let shells = Shells::builtins();
    let completer =
        shells.completer(shell).ok_or_else(|| CommandError::Usage(format!("no completions for {shell}")))?;
    let mut command = Cli::command();
    command.build();
    let mut candidates = Vec::new();
    if !words.is_empty() {
        completer.write_complete(&mut command, words, env::current_dir().ok().as_deref(), &mut candidates)?;
    }
    Output::new().bytes(&candidates)
}

/// Completes the names of functions.
pub fn functions() -> ArgValueCandidates {
    ArgValueCandidates::new(|| names().unwrap_or_default().into_iter().map(CompletionCandidate::new).collect())
}

/// Returns the functions of the daemon. Without one there is nothing to complete.
fn names() -> Option<Vec<String>> {
    let mut client = Client::new(&DaemonArgs { url: env::var("UNIFAAS_URL").ok(), json: true }).ok()?;
    let runtime = runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let summary = runtime.block_on(async { timeout(TIMEOUT, client.summary()).await }).ok()?.ok()?;
    Some(members(&summary["functions"]).map(|(name, _)| name.clone()).collect())
}
