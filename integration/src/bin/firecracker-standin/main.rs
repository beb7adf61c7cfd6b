//! Stands in for Firecracker where it is missing or cannot run the guest: it accepts the same input, and boots the same
//! guest in QEMU's microvm on the same tap.
//!
//! It follows Firecracker 1.17: what that one refuses is refused with the same status and the same form of message, what it
//! accepts is accepted. `tests/firecracker_standin.rs` has the cases. Like Firecracker it opens its taps about 1 ms after
//! exec, and fails if one is busy; QEMU alone would open them later.
//!
//! With an API it stays, and QEMU is its child: `api.rs` serves requests, `guest.rs` has QEMU, `saved.rs` the file of a snapshot.
//! Machines are configured by file only.
//!
//! `arguments.rs` parses the command line, `config.rs` the configuration file, `cmdline.rs` and `kernel.rs` check what would
//! be loaded, and `machine.rs` puts the machine together. `refusal.rs` has the forms of messages.

mod api;
mod arguments;
mod cmdline;
mod config;
mod guest;
mod kernel;
mod machine;
mod refusal;
mod saved;

use std::{
    fs,
    os::unix::process::CommandExt,
    process::{ExitCode, abort},
    time::{SystemTime, UNIX_EPOCH},
};

use arguments::{Arguments, Level};
use config::VmmConfig;
use machine::Machine;
use refusal::{Refusal, no_config};

/// The id in the log until the arguments are parsed.
const NO_ID: &str = "anonymous-instance";
const VERSION: &str = "Firecracker v1.17.0-standin";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.iter().any(|word| word == "--version") {
        println!("{VERSION}\n");
        return ExitCode::SUCCESS;
    }
    let mut log = Log { id: NO_ID.to_owned(), level: Level::Info };
    let Err(refusal) = run(&words, &mut log);
    match refusal {
        Refusal::Panic { place, message } => {
            log.error(&format!("Firecracker panicked at {place}:\n{message}"));
            abort();
        }
        Refusal::Error { status, words, debug_form } => {
            log.error(&words);
            eprintln!("Error: {debug_form}");
            log.error(&format!("Firecracker exiting with error. exit_code={status}"));
            ExitCode::from(status)
        }
    }
}

/// Executes QEMU; returns only after an error.
fn run(words: &[String], log: &mut Log) -> Result<std::convert::Infallible, Refusal> {
    let arguments = Arguments::parse(words)?;
    arguments.check_id()?;
    log.level = arguments.level()?;
    arguments.id().clone_into(&mut log.id);
    log.info("Running Firecracker's stand-in");
    let socket = arguments.value("api-sock").filter(|_| arguments.value("no-api").is_none());
    let build = |path: &str| {
        let text = fs::read_to_string(path).map_err(|error| no_config(&error))?;
        Machine::build(&VmmConfig::parse(&text)?)
    };
    let config = arguments.value("config-file");
    if let Some(socket) = socket {
        return api::serve(socket, arguments.id(), || config.map(build).transpose());
    }
    let Some(path) = config else {
        // It would wait for the first request at the default path of its API.
        loop {
            std::thread::park();
        }
    };
    let machine = build(path)?;
    log.info("Successfully started microvm that was configured from one single json");
    // The taps of the machine are closed by exec, for QEMU to open them.
    let error = machine.qemu().exec();
    Err(Refusal::Panic { place: "QEMU", message: format!("it cannot be run: {error}") })
}

struct Log {
    id: String,
    level: Level,
}

impl Log {
    fn info(&self, words: &str) {
        if self.level >= Level::Info {
            self.line(words);
        }
    }

    fn error(&self, words: &str) {
        if self.level >= Level::Error {
            self.line(words);
        }
    }

    fn line(&self, words: &str) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        println!("{}.{:09} [{}:main] {words}", now.as_secs(), now.subsec_nanos(), self.id);
    }
}
