//! The supervision of a child: it passes signals on, copies the output, waits for the end and kills the descendants.

use std::{io, os::unix::process::ExitStatusExt, process::ExitStatus, time::Duration};

use nix::sys::signal::Signal;
use tokio::{
    net::unix::pipe,
    sync::{mpsc, oneshot},
    task, time,
};
use unifaas_actors::{OutputLog, OutputStream, sandbox::SandboxExit};

use crate::{
    sandbox::{cgroup::Group, output_throttle::OutputThrottle},
    spawner::Child,
};

/// The longest wait for the last output of an ended process.
const LAST_OUTPUT_TIMEOUT: Duration = Duration::from_millis(30);
/// The size of one read from the pipe, in bytes.
const CHUNK: usize = 8 * 1024;

/// The output of a child.
pub struct OutputPipes {
    pub stdout: pipe::Receiver,
    pub stderr: pipe::Receiver,
    /// What its standard output is.
    pub stdout_is: OutputStream,
}

/// Supervises `child`, which leads its own process group, until it has been reaped. Sends the exit, and returns the cgroup.
/// Kills the child once `signals` is closed. `memory` is its limit in MiB.
pub async fn supervise(
    mut child: Child,
    pipes: OutputPipes,
    group: Option<Group>,
    memory: u64,
    output: OutputLog,
    mut signals: mpsc::UnboundedReceiver<Signal>,
    exited: oneshot::Sender<SandboxExit>,
) -> Option<Group> {
    let mut output = task::spawn_local(pump_output(pipes, output));
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
    // The pipes end with their last writers, and all were killed. Without a cgroup, one may have escaped.
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
        Err(error) => SandboxExit::Other(format!("killed: {error}")),
    }
}

/// Copies the pipes into the log until their last writers have closed them.
async fn pump_output(pipes: OutputPipes, log: OutputLog) {
    let OutputPipes { stdout, stderr, stdout_is } = pipes;
    let (mut stdout, mut stderr) = (Some(stdout), Some(stderr));
    let mut chunk = vec![0; CHUNK];
    // One for both: the daemon reads so much from an instance.
    let mut throttle = OutputThrottle::new();
    while stdout.is_some() || stderr.is_some() {
        // The streams are read alternately if both have something.
        let (pipe, stream) = tokio::select! {
            () = readable(&stdout) => (&mut stdout, stdout_is),
            () = readable(&stderr) => (&mut stderr, OutputStream::Err),
        };
        match pipe.as_ref().map(|pipe| pipe.try_read(&mut chunk)) {
            Some(Ok(count @ 1..)) => {
                log.write(stream, &chunk[..count]);
                throttle.after_read(count).await;
            }
            Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
            _ => {
                log.end(stream);
                *pipe = None;
            }
        }
    }
}

/// Resolves when there is something to read from the pipe, or its end; never for a pipe that has ended.
async fn readable(pipe: &Option<pipe::Receiver>) {
    match pipe {
        // An error is returned by the read that follows.
        Some(pipe) => drop(pipe.readable().await),
        None => std::future::pending().await,
    }
}
