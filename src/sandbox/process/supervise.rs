//! The supervision of a child: it passes signals on, copies the output, waits for the end and kills the descendants.

use std::{io, os::unix::process::ExitStatusExt, process::ExitStatus, time::Duration};

use nix::sys::signal::Signal;
use tokio::{
    io::AsyncReadExt,
    net::unix::pipe,
    sync::{mpsc, oneshot},
    task, time,
};
use unifaas_actors::{OutputLog, sandbox::SandboxExit};

use crate::{
    sandbox::{cgroup::Group, output_throttle::OutputThrottle},
    spawner::Child,
};

/// The longest wait for the last output of an ended process.
const LAST_OUTPUT_TIMEOUT: Duration = Duration::from_millis(20);
/// The size of one read from the pipe, in bytes.
const CHUNK: usize = 8 * 1024;

/// Supervises `child`, which leads its own process group, until it has been reaped. Sends the exit, and returns the cgroup.
/// Kills the child once `signals` is closed. `memory` is its limit in MiB.
pub async fn supervise(
    mut child: Child,
    stdout: pipe::Receiver,
    group: Option<Group>,
    memory: u64,
    output: OutputLog,
    mut signals: mpsc::UnboundedReceiver<Signal>,
    exited: oneshot::Sender<SandboxExit>,
) -> Option<Group> {
    let mut output = task::spawn_local(pump_output(stdout, output));
    let (mut killed, mut is_open) = (false, true);
    let status = loop {
        tokio::select! {
            signal = signals.recv(), if is_open => {
                is_open = signal.is_some();
                let signal = signal.unwrap_or(Signal::SIGKILL);
                child.signal(signal);
                if signal == Signal::SIGKILL {
                    killed = true;
                    group.as_ref().map(Group::kill);
                }
            }
            status = child.wait() => break status,
        }
    };
    let out_of_memory = group.as_ref().is_some_and(|group| {
        group.kill();
        group.ran_out_of_memory()
    });
    // The pipe ends with its last writer, and all were killed. Without a cgroup, one may have escaped.
    if time::timeout(LAST_OUTPUT_TIMEOUT, &mut output).await.is_err() {
        output.abort();
    }
    let _ = exited.send(exit(status, out_of_memory && !killed, memory));
    group
}

fn exit(status: io::Result<ExitStatus>, out_of_memory: bool, memory: u64) -> SandboxExit {
    match status {
        Ok(status) if out_of_memory && !status.success() => SandboxExit::OutOfMemory { limit: memory },
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => SandboxExit::Code(code),
            (None, Some(signal)) => SandboxExit::Signal(signal),
            (None, None) => SandboxExit::Other(status.to_string()),
        },
        Err(error) => SandboxExit::Other(format!("exited with an unknown status: {error}")),
    }
}

/// Copies the pipe into the log until its last writer has closed it.
async fn pump_output(mut pipe: pipe::Receiver, log: OutputLog) {
    let mut chunk = vec![0; CHUNK];
    let mut unfinished = false;
    let mut throttle = OutputThrottle::new();
    while let Ok(count @ 1..) = pipe.read(&mut chunk).await {
        log.write(&chunk[..count]);
        unfinished = !chunk[..count].ends_with(b"\n");
        throttle.after_read(count).await;
    }
    if unfinished {
        log.write(b"\n");
    }
}
