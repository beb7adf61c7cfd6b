//! Why a virtual machine ended, in words. Pure.

use unifaas_actors::sandbox::SandboxExit;

/// Which program ran it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Monitor {
    Firecracker,
    Qemu,
}

impl Monitor {
    fn name(self) -> &'static str {
        match self {
            Monitor::Firecracker => "Firecracker",
            Monitor::Qemu => "QEMU",
        }
    }

    /// Whether it is the monitor that says this line, and says it about an error.
    fn complains(self, line: &str) -> bool {
        match self {
            Monitor::Firecracker => line.contains("rror") && !line.contains("exit_code="),
            Monitor::Qemu => line.starts_with("qemu"),
        }
    }
}

/// What a Linux kernel, or a Rust one, says when it gives up.
const PANICS: [&str; 2] = ["Kernel panic - not syncing", "panicked at"];
const RESET: &str = "the guest has reset itself: a reboot or a triple fault";

/// Explains how the monitor's process ended. `reason` is what QEMU said about it, `output` the last lines of guest and
/// monitor.
pub fn explain(monitor: Monitor, exit: SandboxExit, reason: Option<&str>, output: &[String]) -> SandboxExit {
    let SandboxExit::Code(code) = exit else { return exit };
    let name = monitor.name();
    let last = |wanted: &dyn Fn(&str) -> bool| output.iter().rev().map(|line| line.trim()).find(|line| wanted(line));
    let words = match (code, reason) {
        (0, Some("guest-reset")) => RESET.to_owned(),
        (0, Some("guest-shutdown")) => "the guest has powered itself off".to_owned(),
        (0, Some("guest-panic")) => "the guest has panicked".to_owned(),
        (0, Some(reason)) => format!("{name} has ended: {reason}"),
        // Firecracker knows no power-off: whatever a guest does to end looks like this.
        (0, None) if monitor == Monitor::Firecracker => RESET.to_owned(),
        (0, None) => format!("{name} has ended without a reason"),
        (code, _) => match last(&|line| monitor.complains(line)) {
            Some(line) => format!("{name} exited with status {code}: {line}"),
            None => format!("{name} exited with status {code}"),
        },
    };
    SandboxExit::Other(match last(&|line| PANICS.iter().any(|panic| line.contains(panic))) {
        Some(panic) => format!("{words} ({panic})"),
        None => words,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explained(monitor: Monitor, code: i32, reason: Option<&str>, output: &[&str]) -> String {
        let output: Vec<String> = output.iter().map(|line| (*line).to_owned()).collect();
        explain(monitor, SandboxExit::Code(code), reason, &output).to_string()
    }

    #[test]
    fn the_guests_own_end_is_told_from_the_monitors_reason() {
        assert_eq!(explained(Monitor::Qemu, 0, Some("guest-reset"), &[]), RESET);
        assert_eq!(explained(Monitor::Qemu, 0, Some("guest-shutdown"), &[]), "the guest has powered itself off");
        assert_eq!(explained(Monitor::Firecracker, 0, None, &["Firecracker exiting successfully. exit_code=0"]), RESET);
    }

    #[test]
    fn a_panic_is_quoted() {
        let lines =
            ["[ 1.0] Kernel panic - not syncing: VFS: Unable to mount root fs", "[ 1.1] Rebooting in 1 seconds.."];
        let said = explained(Monitor::Qemu, 0, Some("guest-reset"), &lines);
        assert_eq!(said, format!("{RESET} ({})", lines[0]));
    }

    #[test]
    fn an_error_is_in_the_monitors_own_words() {
        let lines = ["qemu-system-x86_64: could not open kernel file 'k': No such file", "bye"];
        let said = explained(Monitor::Qemu, 1, None, &lines);
        assert_eq!(said, "QEMU exited with status 1: qemu-system-x86_64: could not open kernel file 'k': No such file");
        let lines = ["2026 [i:main] Error: Tap(EBUSY)", "2026 [i:main] Firecracker exiting with error. exit_code=1"];
        let said = explained(Monitor::Firecracker, 1, None, &lines);
        assert_eq!(said, "Firecracker exited with status 1: 2026 [i:main] Error: Tap(EBUSY)");
        assert_eq!(explained(Monitor::Qemu, 3, None, &[]), "QEMU exited with status 3");
    }

    #[test]
    fn what_a_signal_or_the_memory_limit_did_needs_no_explanation() {
        for exit in [SandboxExit::Signal(9), SandboxExit::OutOfMemory { limit: 7 }] {
            assert_eq!(explain(Monitor::Qemu, exit.clone(), Some("host-signal"), &[]), exit);
        }
    }
}
