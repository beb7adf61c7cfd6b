//! The forms in which Firecracker says why it does not run: readable words in its log, and Rust's Debug form.

use std::{fmt::Debug, io};

/// Why Firecracker does not run.
#[derive(Debug)]
pub enum Refusal {
    /// It exits with this status.
    Error { status: u8, words: String, debug_form: String },
    /// It panics.
    Panic { place: &'static str, message: String },
}

/// The command line is wrong.
pub fn arguments(kind: &str, argument: &str, words: &str) -> Refusal {
    let words = format!("Arguments parsing error: {words} \n\nFor more information try --help.");
    Refusal::Error { status: 153, words, debug_form: format!("ParseArguments({kind}({argument:?}))") }
}

/// The log level is wrong.
pub fn level(level: &str) -> Refusal {
    Refusal::Error {
        status: 152,
        words: format!("Invalid value for logger level: {level}"),
        debug_form: format!("InvalidLogLevel(LevelFilterFromStrError({level:?}))"),
    }
}

/// The socket of the API cannot be made.
pub fn socket(path: &str) -> Refusal {
    Refusal::Error {
        status: 1,
        words: format!(
            "RunWithApiError error: Failed to open the API socket at: {path}. Check that it is not already used."
        ),
        debug_form: format!("RunWithApi(FailedToBindSocket({path:?}))"),
    }
}

/// A snapshot could not be loaded, after which the process ends.
pub fn restore() -> Refusal {
    Refusal::Error {
        status: 1,
        words: "RunWithApiError error: Failed to build MicroVM: Loading snapshot failed..".to_owned(),
        debug_form: "RunWithApi(BuildMicroVmError(Restore))".to_owned(),
    }
}

/// The configuration file cannot be read.
pub fn no_config(error: &io::Error) -> Refusal {
    Refusal::Panic {
        place: "src/firecracker/src/main.rs:388:18",
        message: format!("Unable to open or read from the configuration file: {error:?}"),
    }
}

/// The content of the configuration file is wrong.
pub fn parsing(debug_form: &str, words: &str) -> Refusal {
    let words = format!("Configuration for VMM from one single json failed: {words}");
    building(&format!("ParseFromJson({debug_form})"), &words)
}

/// The machine cannot be started.
pub fn starting(debug_form: &str, words: &str) -> Refusal {
    building(&format!("StartMicroVM({debug_form})"), &format!("Could not Start MicroVM from one single json: {words}"))
}

/// Something of a device or file cannot be used: the form of `outer` around an error.
pub fn wrapped(outer: &str, error: &dyn Debug, words: &str) -> Refusal {
    let closing = ")".repeat(outer.matches('(').count());
    parsing(&format!("{outer}{error:?}{closing}"), words)
}

fn building(debug_form: &str, words: &str) -> Refusal {
    Refusal::Error {
        status: 1,
        words: format!("RunWithoutApiError error: Failed to build MicroVM from Json: {words}"),
        debug_form: format!("RunWithoutApiError(BuildMicroVMFromJson({debug_form}))"),
    }
}
