//! Describes why a virtual machine ended. Pure.

use nix::libc;
use unifaas_actors::sandbox::SandboxExit;

/// The program that runs a virtual machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vmm {
    Firecracker,
    Qemu,
}

impl Vmm {
    fn name(self) -> &'static str {
        match self {
            Vmm::Firecracker => "Firecracker",
            Vmm::Qemu => "QEMU",
        }
    }

    /// Returns whether this line of output is an error message of the VMM itself.
    fn is_error(self, line: &str) -> bool {
        match self {
            Vmm::Firecracker => line.contains("rror") && !line.contains("exit_code="),
            Vmm::Qemu => line.starts_with("qemu"),
        }
    }
}

/// Firecracker's log line for a triple fault or a reset; since 1.15 it then exits with status 1.
const FIRECRACKER_RESET: &str = "Unexpected exit reason on vcpu run: Shutdown";
/// Part of its log line when KVM cannot go on with the guest; it exits with status 0 all the same.
const FIRECRACKER_VCPU_ERROR: &str = "VcpuResponse::Exited(GenericError)";
/// The line before the message of a panic of Firecracker itself, which ends with SIGABRT.
const FIRECRACKER_PANIC: &str = "Firecracker panicked at";

/// Messages of a Linux kernel, and of a Rust unikernel, that panics.
const PANICS: [&str; 2] = ["Kernel panic - not syncing", "panicked at"];
const RESET: &str = "the guest has reset itself: a reboot or a triple fault";

/// Describes how the VMM's process ended. `reason` is the one of QEMU's SHUTDOWN event, `output` has the last lines of
/// guest and VMM.
pub fn describe(vmm: Vmm, exit: SandboxExit, reason: Option<&str>, output: &[String]) -> SandboxExit {
    let last = |wanted: &dyn Fn(&str) -> bool| output.iter().rev().map(|line| line.trim()).find(|line| wanted(line));
    if exit == SandboxExit::Signal(libc::SIGABRT)
        && let Some(line) = output.iter().position(|line| vmm == Vmm::Firecracker && line.contains(FIRECRACKER_PANIC))
    {
        let message: Vec<&str> = output[line..].iter().take(2).map(|line| line.trim()).collect();
        return SandboxExit::Other(message.join(" "));
    }
    let SandboxExit::Code(code) = exit else { return exit };
    let name = vmm.name();
    let words = match (code, reason) {
        (0, Some("guest-reset")) => RESET.to_owned(),
        (0, Some("guest-shutdown")) => "the guest has powered itself off".to_owned(),
        (0, Some("guest-panic")) => "the guest has panicked".to_owned(),
        (0, Some(reason)) => format!("{name} has ended: {reason}"),
        // Firecracker has no power-off: every regular end of a guest looks like a reset.
        (0, None) if vmm == Vmm::Firecracker => match last(&|line| line.contains(FIRECRACKER_VCPU_ERROR)) {
            Some(line) => format!("KVM cannot run the guest any further: {line}"),
            None => RESET.to_owned(),
        },
        (1, None) if vmm == Vmm::Firecracker && last(&|line| line.contains(FIRECRACKER_RESET)).is_some() => {
            RESET.to_owned()
        }
        (0, None) => format!("{name} has ended without a reason"),
        (code, _) => match last(&|line| vmm.is_error(line)) {
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

    fn described(vmm: Vmm, code: i32, reason: Option<&str>, output: &[&str]) -> String {
        let output: Vec<String> = output.iter().map(|line| (*line).to_owned()).collect();
        describe(vmm, SandboxExit::Code(code), reason, &output).to_string()
    }

    #[test]
    fn names_reset_and_power_off() {
        assert_eq!(described(Vmm::Qemu, 0, Some("guest-reset"), &[]), RESET);
        assert_eq!(described(Vmm::Qemu, 0, Some("guest-shutdown"), &[]), "the guest has powered itself off");
        assert_eq!(described(Vmm::Firecracker, 0, None, &["Firecracker exiting successfully. exit_code=0"]), RESET);
    }

    #[test]
    fn tells_reset_from_failures_of_firecracker() {
        let reset = "2026 [i:fc_vcpu 0] Unexpected exit reason on vcpu run: Shutdown";
        assert_eq!(
            described(Vmm::Firecracker, 1, None, &[reset, "Firecracker exiting with error. exit_code=1"]),
            RESET
        );
        let error = "Discarding unexpected vCPU response during teardown: VcpuResponse::Exited(GenericError)";
        let expected = format!("KVM cannot run the guest any further: {error}");
        assert_eq!(described(Vmm::Firecracker, 0, None, &[error]), expected);
        let panic =
            ["booting", "Firecracker panicked at src/main.rs:309:48:", "invalid instance id"].map(str::to_owned);
        let exit = describe(Vmm::Firecracker, SandboxExit::Signal(libc::SIGABRT), None, &panic);
        assert_eq!(exit.to_string(), "Firecracker panicked at src/main.rs:309:48: invalid instance id");
    }

    #[test]
    fn quotes_panic() {
        let lines =
            ["[ 1.0] Kernel panic - not syncing: VFS: Unable to mount root fs", "[ 1.1] Rebooting in 1 seconds.."];
        let said = described(Vmm::Qemu, 0, Some("guest-reset"), &lines);
        assert_eq!(said, format!("{RESET} ({})", lines[0]));
    }

    #[test]
    fn quotes_error_of_vmm() {
        let lines = ["qemu-system-x86_64: could not open kernel file 'k': No such file", "bye"];
        let said = described(Vmm::Qemu, 1, None, &lines);
        assert_eq!(said, "QEMU exited with status 1: qemu-system-x86_64: could not open kernel file 'k': No such file");
        let lines = ["2026 [i:main] Error: Tap(EBUSY)", "2026 [i:main] Firecracker exiting with error. exit_code=1"];
        let said = described(Vmm::Firecracker, 1, None, &lines);
        assert_eq!(said, "Firecracker exited with status 1: 2026 [i:main] Error: Tap(EBUSY)");
        assert_eq!(described(Vmm::Qemu, 3, None, &[]), "QEMU exited with status 3");
    }

    #[test]
    fn keeps_signal_and_memory_limit() {
        for exit in [SandboxExit::Signal(9), SandboxExit::OutOfMemory { limit: 7 }] {
            assert_eq!(describe(Vmm::Qemu, exit.clone(), Some("host-signal"), &[]), exit);
        }
    }
}
