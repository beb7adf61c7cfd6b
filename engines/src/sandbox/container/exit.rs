//! How containers end, and what an exit code means. Pure.

use std::net::IpAddr;

use bollard::models::ContainerInspectResponse;
use unifaas_actors::sandbox::SandboxExit;

use super::inspection::{addresses, has_exited};

/// What the engine reports for a process that a signal has ended is this much more than the signal's number.
const SIGNAL_OFFSET: i64 = 128;
/// The highest number of a signal with a fixed meaning.
const MAX_SIGNAL: i64 = 31;
/// The exit code of a process that SIGKILL has ended.
pub const KILLED: i64 = SIGNAL_OFFSET + 9;

/// The exit code of a shell, or of the engine's init, that has found no program of that name.
pub const NOT_EXECUTED: i64 = 127;

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerExit {
    /// Its first process exited with this code, if the engine says so, perhaps because memory ran out.
    Died { code: Option<i64>, out_of_memory: bool },
    /// The engine does not know it any more.
    Removed,
    /// It runs without its address: no request can reach it.
    CutOff,
}

/// Returns how a container that had `address` ended, or `None` if it has not.
pub fn exit_in(container: &ContainerInspectResponse, address: Option<IpAddr>) -> Option<ContainerExit> {
    let state = container.state.as_ref()?;
    if has_exited(container) {
        let (code, out_of_memory) = (state.exit_code, state.oom_killed == Some(true));
        return Some(ContainerExit::Died { code, out_of_memory });
    }
    address.filter(|address| !addresses(container).any(|actual| actual == *address)).map(|_| ContainerExit::CutOff)
}

/// Returns what an exit code means. As in a shell, a program that exits with 128 and a few looks as if signalled.
pub fn of_code(code: Option<i64>) -> SandboxExit {
    let Some(code) = code else { return SandboxExit::Other("exited with an unknown status".to_owned()) };
    match (i32::try_from(code), i32::try_from(code - SIGNAL_OFFSET)) {
        (_, Ok(signal)) if (1..=MAX_SIGNAL).contains(&signal.into()) => SandboxExit::Signal(signal),
        (Ok(code), _) => SandboxExit::Code(code),
        _ => SandboxExit::Other(format!("exited with status {code}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_exit_from_state() {
        let end = |text: &str| {
            let text = format!(r#"{{"State":{text},"NetworkSettings":{{"Networks":{{}}}}}}"#);
            exit_in(&serde_json::from_str(&text).unwrap(), None)
        };
        for status in ["created", "running", "paused", "restarting"] {
            assert_eq!(end(&format!(r#"{{"Status":"{status}","ExitCode":0}}"#)), None);
        }
        let died = |code, out_of_memory| Some(ContainerExit::Died { code, out_of_memory });
        assert_eq!(end(r#"{"Status":"exited","ExitCode":3}"#), died(Some(3), false));
        assert_eq!(end(r#"{"Status":"exited","ExitCode":137,"OOMKilled":true}"#), died(Some(137), true));
        assert_eq!(end(r#"{"Status":"dead"}"#), died(None, false));
    }

    #[test]
    fn running_container_without_its_address_is_cut_off() {
        let end = |status: &str, networks: &str| {
            let text = format!(
                r#"{{"State":{{"Status":"{status}","ExitCode":3}},"NetworkSettings":{{"Networks":{{{networks}}}}}}}"#
            );
            exit_in(&serde_json::from_str(&text).unwrap(), Some("10.9.0.2".parse().unwrap()))
        };
        let others = r#""a":{"IPAddress":""},"b":{"IPAddress":"10.8.0.2"}"#;
        for status in ["created", "running", "paused"] {
            assert_eq!(end(status, &format!(r#"{others},"c":{{"IPAddress":"10.9.0.2"}}"#)), None);
            assert_eq!(end(status, others), Some(ContainerExit::CutOff));
            assert_eq!(end(status, ""), Some(ContainerExit::CutOff));
        }
        assert_eq!(end("exited", ""), Some(ContainerExit::Died { code: Some(3), out_of_memory: false }));
    }

    #[test]
    fn exit_codes_mean_what_they_mean_in_a_shell() {
        let of = |code: i64| of_code(Some(code));
        assert_eq!(of(0), SandboxExit::Code(0));
        assert_eq!(of(128), SandboxExit::Code(128));
        assert_eq!(of(137), SandboxExit::Signal(9));
        assert_eq!(of(143), SandboxExit::Signal(15));
        assert_eq!(of(200), SandboxExit::Code(200));
        assert_eq!(of(-1), SandboxExit::Code(-1));
        assert_eq!(of(1 << 40), SandboxExit::Other("exited with status 1099511627776".to_owned()));
        assert_eq!(of_code(None), SandboxExit::Other("exited with an unknown status".to_owned()));
    }
}
