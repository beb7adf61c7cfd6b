//! Describes why a virtual machine ended. Pure.
//!
//! QEMU reports the reason by an event. Firecracker has its log, whose lines are `TIME [ID:THREAD] WORDS` among the lines of
//! the guest's console. Of an error, the log has the readable words, and standard error the same in Rust's Debug form.

use nix::libc;
use unifaas_actors::{OutputLine, OutputStream, sandbox::SandboxExit};

/// The program that runs a virtual machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vmm {
    Firecracker,
    Qemu,
}

/// The id in Firecracker's log until it has parsed its arguments.
const NO_ID: &str = "anonymous-instance";
/// The words for a triple fault. Releases before 1.15 do not log it, and exit with status 0.
const TRIPLE_FAULT: &str = "Unexpected exit reason on vcpu run: Shutdown";
/// The beginnings of the words when KVM cannot go on with a guest. Depending on the order of its threads, Firecracker then
/// exits with status 1 or 0.
const KVM_ERRORS: [&str; 6] = [
    "Unexpected exit reason on vcpu run",
    "Failure during vcpu run",
    "Received ENOSYS error",
    "Received KVM_EXIT_FAIL_ENTRY",
    "Received KVM_EXIT_INTERNAL_ERROR",
    "Received KVM_SYSTEM_EVENT",
];
/// The beginning of the words before the message of a panic of Firecracker itself, which ends with SIGABRT.
const FIRECRACKER_PANIC: &str = "Firecracker panicked at";
/// The beginning of the last words of Firecracker, which repeat the status.
const LAST_WORDS: &str = "Firecracker exiting";
/// Starts every message about a configuration file.
const COMMON_WORDS: &str = "RunWithoutApiError error: ";
/// The beginning of the Debug form of an error.
const DEBUG_FORM: &str = "Error: ";

/// Messages of a Linux kernel, and of a Rust unikernel, that panics.
const PANICS: [&str; 2] = ["Kernel panic - not syncing", "panicked at"];
const RESET: &str = "the guest has reset itself: a reboot or a triple fault";

/// The last lines of a guest and its VMM.
#[derive(Debug, Default)]
pub struct LastLines<'a> {
    console: Vec<&'a str>,
    errors: Vec<&'a str>,
}

impl<'a> LastLines<'a> {
    pub fn new(lines: impl IntoIterator<Item = &'a OutputLine>) -> Self {
        let mut last = Self::default();
        for line in lines {
            match line.stream {
                OutputStream::Console | OutputStream::Out => last.console.push(line.text.trim()),
                OutputStream::Err => last.errors.push(line.text.trim()),
                OutputStream::Platform => {}
            }
        }
        last
    }
}

/// Describes how the VMM's process ended. `reason` is the one of QEMU's SHUTDOWN event, and `id` the instance in
/// Firecracker's log.
pub fn describe(vmm: Vmm, exit: SandboxExit, reason: Option<&str>, id: &str, lines: &LastLines<'_>) -> SandboxExit {
    let words = match (vmm, &exit) {
        (Vmm::Qemu, SandboxExit::Code(code)) => qemu(*code, reason, lines),
        (Vmm::Firecracker, SandboxExit::Code(code)) => Firecracker { id, lines }.exit(*code),
        (Vmm::Firecracker, SandboxExit::Signal(libc::SIGABRT)) => match (Firecracker { id, lines }).panic() {
            Some(panic) => return SandboxExit::Other(panic),
            None => return exit,
        },
        _ => return exit,
    };
    let is_panic = |line: &&&str| PANICS.iter().any(|panic| line.contains(panic));
    SandboxExit::Other(match lines.console.iter().rev().find(is_panic) {
        Some(panic) => format!("{words} ({panic})"),
        None => words,
    })
}

fn qemu(code: i32, reason: Option<&str>, lines: &LastLines<'_>) -> String {
    match (code, reason) {
        (0, Some("guest-reset")) => RESET.to_owned(),
        (0, Some("guest-shutdown")) => "the guest has powered itself off".to_owned(),
        (0, Some("guest-panic")) => "the guest has panicked".to_owned(),
        (0, Some(reason)) => format!("QEMU has ended: {reason}"),
        (0, None) => "QEMU has ended without a reason".to_owned(),
        (code, _) => {
            let error = lines.errors.iter().rev().find(|line| line.starts_with("qemu"));
            with_error("QEMU", code, error.copied())
        }
    }
}

fn with_error(name: &str, code: i32, error: Option<&str>) -> String {
    match error {
        Some(error) => format!("{name} exited with status {code}: {error}"),
        None => format!("{name} exited with status {code}"),
    }
}

/// The lines of Firecracker and its guest.
struct Firecracker<'a> {
    id: &'a str,
    lines: &'a LastLines<'a>,
}

impl<'a> Firecracker<'a> {
    /// Returns the words of a line of the log.
    fn words(&self, line: &'a str) -> Option<&'a str> {
        let after = |id| line.split_once(&format!(" [{id}:")).map(|(_, rest)| rest);
        after(self.id).or_else(|| after(NO_ID))?.split_once("] ").map(|(_, words)| words.trim())
    }

    fn log(&self) -> impl DoubleEndedIterator<Item = &'a str> {
        self.lines.console.iter().filter_map(|line| self.words(line))
    }

    fn exit(&self, code: i32) -> String {
        let cause = self.log().find(|words| is_kvm_error(words));
        match (code, cause) {
            // Firecracker has no power-off: every regular end of a guest looks like a reset.
            (0, None) | (0 | 1, Some(TRIPLE_FAULT)) => RESET.to_owned(),
            (0 | 1, Some(cause)) => format!("KVM cannot run the guest any further: {cause}"),
            (code, _) => with_error("Firecracker", code, self.error()),
        }
    }

    /// Returns the readable words of the last error.
    fn error(&self) -> Option<&'a str> {
        if let Some(words) = self.log().rev().find(|words| !words.starts_with(LAST_WORDS)) {
            return Some(words.strip_prefix(COMMON_WORDS).unwrap_or(words));
        }
        // The jailer has no log: it prints the words before the other form.
        let errors = &self.lines.errors;
        let at = errors.iter().rposition(|line| line.starts_with(DEBUG_FORM))?;
        let before = at.checked_sub(1).map(|before| errors[before]).filter(|line| !line.is_empty());
        before.or_else(|| errors[at].strip_prefix(DEBUG_FORM))
    }

    fn panic(&self) -> Option<String> {
        let console = &self.lines.console;
        let place = |line: &&'a str| self.words(line).filter(|words| words.starts_with(FIRECRACKER_PANIC));
        let (at, place) = console.iter().enumerate().rev().find_map(|(at, line)| Some((at, place(line)?)))?;
        let message = console.get(at + 1).copied().unwrap_or_default();
        Some(format!("{place} {message}").trim_end().to_owned())
    }
}

fn is_kvm_error(words: &str) -> bool {
    KVM_ERRORS.iter().any(|error| words.starts_with(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(vmm: Vmm, code: i32, reason: Option<&str>, output: &[&str]) -> String {
        exit_of(vmm, SandboxExit::Code(code), reason, output).to_string()
    }

    /// Takes the lines of both streams.
    fn exit_of(vmm: Vmm, exit: SandboxExit, reason: Option<&str>, lines: &[&str]) -> SandboxExit {
        let is_error = |line: &&str| ["Error: ", "Invalid filename", "qemu"].iter().any(|word| line.starts_with(word));
        let (errors, console) = lines.iter().copied().partition(is_error);
        describe(vmm, exit, reason, "i-1", &LastLines { console, errors })
    }

    fn firecracker(code: i32, output: &[&str]) -> String {
        described(Vmm::Firecracker, code, None, output)
    }

    const EXITING: &str = "2026-11-29T18:24:00.123456789 [i-1:main] Firecracker exiting with error. exit_code=1";
    const SHUTDOWN: &str = "2026-11-29T18:24:00.1 [i-1:fc_vcpu 0] Unexpected exit reason on vcpu run: Shutdown";
    const STOPPED: [&str; 2] = [
        "2026-11-29T18:24:00.1 [i-1:main] RunWithoutApiError error: MicroVMStopped without an error: GenericError",
        "Error: RunWithoutApiError(Shutdown(GenericError))",
    ];

    #[test]
    fn names_reset_and_power_off() {
        assert_eq!(described(Vmm::Qemu, 0, Some("guest-reset"), &[]), RESET);
        assert_eq!(described(Vmm::Qemu, 0, Some("guest-shutdown"), &[]), "the guest has powered itself off");
        assert_eq!(firecracker(0, &[]), RESET);
        assert_eq!(firecracker(0, &["2026 [i-1:main] Firecracker exiting successfully. exit_code=0"]), RESET);
    }

    #[test]
    fn tells_triple_fault_from_errors_of_kvm() {
        assert_eq!(firecracker(1, &[SHUTDOWN, STOPPED[0], STOPPED[1], EXITING]), RESET);
        // Its main thread saw the end before the error.
        assert_eq!(firecracker(0, &[SHUTDOWN]), RESET);
        for words in ["Received KVM_EXIT_INTERNAL_ERROR signal", "Failure during vcpu run: Bad address (os error 14)"] {
            let line = format!("2026-11-29T18:24:00.1 [i-1:fc_vcpu 0] {words}");
            let expected = format!("KVM cannot run the guest any further: {words}");
            assert_eq!(firecracker(1, &[&line, STOPPED[0], STOPPED[1], EXITING]), expected);
            assert_eq!(firecracker(0, &["the guest's", &line]), expected);
        }
    }

    #[test]
    fn errors_of_firecracker_are_readable() {
        let lines = [
            "2026-11-29T18:24:00.1 [i-1:main] RunWithoutApiError error: Failed to build MicroVM from Json: The kernel file \
             cannot be opened: No such file or directory (os error 2)",
            "Error: RunWithoutApiError(BuildMicroVMFromJson(ParseFromJson(BootSource(InvalidKernelPath(Os { code: 2 })))))",
            EXITING,
        ];
        let said = "Firecracker exited with status 1: Failed to build MicroVM from Json: The kernel file cannot be opened: \
            No such file or directory (os error 2)";
        assert_eq!(firecracker(1, &lines), said);
        let lines = [
            "2026 [anonymous-instance:main] Arguments parsing error: Found argument 'x' which wasn't expected. ",
            "",
            "For more information try --help.",
            "Error: ParseArguments(UnexpectedArgument(\"x\"))",
            "2026 [anonymous-instance:main] Firecracker exiting with error. exit_code=153",
        ];
        let said =
            "Firecracker exited with status 153: Arguments parsing error: Found argument 'x' which wasn't expected.";
        assert_eq!(firecracker(153, &lines), said);
        let signal = ["2026 [i-1:main] Shutting down VM after intercepting signal 7, code 2."];
        let said = "Firecracker exited with status 149: Shutting down VM after intercepting signal 7, code 2.";
        assert_eq!(firecracker(149, &signal), said);
    }

    #[test]
    fn errors_of_jailer_are_readable() {
        let lines = ["Invalid filename fc. The filename must contain \"firecracker\".", "Error: ExecFileName(\"fc\")"];
        assert_eq!(firecracker(1, &lines), format!("Firecracker exited with status 1: {}", lines[0]));
        assert_eq!(firecracker(1, &lines[1..]), "Firecracker exited with status 1: ExecFileName(\"fc\")");
    }

    #[test]
    fn output_of_guest_is_no_error_of_firecracker() {
        let lines = ["[i-1:main] Received KVM_EXIT_INTERNAL_ERROR signal", "an Error: occurred"];
        assert_eq!(firecracker(0, &lines), RESET);
        assert_eq!(firecracker(2, &lines[1..]), "Firecracker exited with status 2");
        let lines = LastLines { console: vec!["qemu: the guest's own words"], errors: vec![] };
        let exit = describe(Vmm::Qemu, SandboxExit::Code(1), None, "i-1", &lines);
        assert_eq!(exit.to_string(), "QEMU exited with status 1");
    }

    #[test]
    fn panic_of_firecracker_is_quoted() {
        let abort = SandboxExit::Signal(libc::SIGABRT);
        let lines = [
            "booting",
            "2026 [anonymous-instance:main] Firecracker panicked at src/main.rs:309:48:",
            "Invalid instance ID: InvalidChar('_', 1)",
        ];
        let exit = exit_of(Vmm::Firecracker, abort.clone(), None, &lines);
        let said = "Firecracker panicked at src/main.rs:309:48: Invalid instance ID: InvalidChar('_', 1)";
        assert_eq!(exit.to_string(), said);
        assert_eq!(exit_of(Vmm::Firecracker, abort.clone(), None, &["booting"]), abort);
    }

    #[test]
    fn quotes_panic_of_guest() {
        let lines =
            ["[ 1.0] Kernel panic - not syncing: VFS: Unable to mount root fs", "[ 1.1] Rebooting in 1 seconds.."];
        let said = described(Vmm::Qemu, 0, Some("guest-reset"), &lines);
        assert_eq!(said, format!("{RESET} ({})", lines[0]));
    }

    #[test]
    fn quotes_error_of_qemu() {
        let lines = ["qemu-system-x86_64: could not open kernel file 'k': No such file", "bye"];
        let said = described(Vmm::Qemu, 1, None, &lines);
        assert_eq!(said, "QEMU exited with status 1: qemu-system-x86_64: could not open kernel file 'k': No such file");
        assert_eq!(described(Vmm::Qemu, 3, None, &[]), "QEMU exited with status 3");
    }

    #[test]
    fn keeps_signal_and_memory_limit() {
        for exit in [SandboxExit::Signal(9), SandboxExit::OutOfMemory { limit: 7 }] {
            assert_eq!(exit_of(Vmm::Qemu, exit.clone(), Some("host-signal"), &[]), exit);
        }
    }
}
