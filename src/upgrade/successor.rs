//! The old daemon's side: it starts the new one, and answers it until it ends itself.

use std::{
    env, io,
    net::IpAddr,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream as StdUnixStream,
    },
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use actix::Addr;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    net::UnixStream,
    process::{Child, Command},
    sync::{mpsc, watch},
    time::{interval, timeout},
};
use unifaas_actors::{AdmissionActor, AdmissionQuestion, Callbacks, ReadyToken};

use super::{
    link::Link,
    protocol::{Hello, ToNew, ToOld, VARIABLE, VERSION},
};
use crate::{
    host::{
        function_peers::{AllPeers, FunctionPeers},
        signals::Signals,
    },
    http::{PassableListener, Servers},
    spawner::send,
};

/// How long the new daemon may take until it is ready.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// Between two looks at what the new daemon has to know.
const REPORT_INTERVAL: Duration = Duration::from_millis(100);

/// What a new daemon is started with.
pub struct Candidate<'a> {
    /// The program.
    pub program: &'a Path,
    pub state_directory: &'a Path,
    pub servers: &'a Servers,
    pub callbacks: &'a Arc<Callbacks>,
    pub admission: &'a Addr<AdmissionActor>,
    pub peers: &'a FunctionPeers,
}

impl Candidate<'_> {
    fn answers(&self, outgoing: mpsc::UnboundedSender<ToNew>) -> Answers {
        let (callbacks, admission, peers) = (self.callbacks.clone(), self.admission.clone(), self.peers.clone());
        Answers { outgoing, callbacks, admission, peers, reported: None }
    }
}

/// The result of an upgrade.
pub enum Attempt {
    /// The new daemon accepts connections.
    Ready(Successor),
    /// It was not ready, for this reason, and has been ended.
    Failed(String),
    /// This signal has ended the attempt.
    Interrupted(&'static str),
}

/// The new daemon.
pub struct Successor {
    child: Child,
    outgoing: mpsc::UnboundedSender<ToNew>,
    /// Whether this daemon should end at once.
    pub is_hurried: watch::Receiver<bool>,
}

/// Starts a new daemon, and waits until it is ready.
pub async fn attempt(candidate: Candidate<'_>, signals: &mut Signals) -> Attempt {
    let (mut child, mut link) = match start(&candidate).await {
        Ok(started) => started,
        Err(error) => return Attempt::Failed(format!("cannot be started: {error}")),
    };
    let ready = async {
        let result = tokio::select! {
            result = until_ready(&candidate, &mut link) => result,
            status = child.wait() => Err(match status {
                Ok(status) => format!("ended before it was ready ({status}), see the log"),
                Err(error) => format!("cannot be watched: {error}"),
            }),
        };
        (result, link)
    };
    let result = tokio::select! {
        result = timeout(READY_TIMEOUT, ready) => result,
        name = signals.next_end() => {
            end(&mut child).await;
            return Attempt::Interrupted(name);
        }
    };
    let why = match result {
        Ok((Ok(()), link)) => {
            let (hurry, is_hurried) = watch::channel(false);
            let Link { outgoing, incoming } = link;
            actix::spawn(candidate.answers(outgoing.clone()).give(incoming, hurry));
            return Attempt::Ready(Successor { child, outgoing, is_hurried });
        }
        Ok((Err(why), _)) => why,
        Err(_) => format!("was not ready within {} s", READY_TIMEOUT.as_secs()),
    };
    end(&mut child).await;
    candidate.servers.resume_callbacks().await;
    Attempt::Failed(why)
}

impl Successor {
    /// Returns its process id.
    pub fn pid(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }

    /// Makes it the daemon.
    pub fn take_over(&self) {
        let _ = self.outgoing.send(ToNew::TakeOver);
    }

    /// Has it read its configuration again.
    pub fn reload(&self) {
        // An error means that it has ended. The process id is its own until then.
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok());
        let _ = pid.map(|pid| kill(Pid::from_raw(pid), Signal::SIGHUP));
    }
}

async fn start(candidate: &Candidate<'_>) -> io::Result<(Child, Link<ToNew, ToOld>)> {
    let (own, passed) = StdUnixStream::pair()?;
    let mut command = Command::new(candidate.program);
    command.args(env::args_os().skip(1)).env(VARIABLE, std::process::id().to_string());
    // They are about this process.
    for variable in ["WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] {
        command.env_remove(variable);
    }
    let child = command.stdin(Stdio::from(OwnedFd::from(passed))).spawn()?;
    // The command holds the other end as long as it exists.
    drop(command);

    let passed = candidate.servers.passable();
    let hello = Hello {
        version: VERSION,
        state_directory: candidate.state_directory.display().to_string(),
        listeners: passed.iter().map(|PassableListener { passed, .. }| *passed).collect(),
    };
    own.set_nonblocking(true)?;
    let (_reader, mut writer) = UnixStream::from_std(own.try_clone()?)?.into_split();
    let descriptors: Vec<_> = passed.iter().map(|listener| listener.socket.as_fd()).collect();
    // A program that has ended already has an exit status, which says more than this error.
    let _ = send(&mut writer, &hello, &descriptors).await;
    // Dropping the writer would shut the socket down.
    writer.forget();
    Ok((child, Link::over(own)?))
}

/// Serves the new daemon until it is ready.
async fn until_ready(candidate: &Candidate<'_>, link: &mut Link<ToNew, ToOld>) -> Result<(), String> {
    let mut answers = candidate.answers(link.outgoing.clone());
    let mut ticks = interval(REPORT_INTERVAL);
    loop {
        let message = tokio::select! {
            message = link.incoming.recv() => message,
            _ = ticks.tick() => {
                answers.report().await;
                continue;
            }
        };
        match message {
            Some(ToOld::ServesCallbacks) => candidate.servers.pause_callbacks().await,
            Some(ToOld::Callback { id, token, from }) => answers.pass_callback(id, &token, from),
            Some(ToOld::Ready) => return Ok(()),
            Some(ToOld::End) => return Err("gave up, see the log".to_owned()),
            // Its exit status says more.
            None => std::future::pending().await,
        }
    }
}

async fn end(child: &mut Child) {
    // It may have ended already.
    let _ = child.kill().await;
}

/// What the new daemon is answered.
struct Answers {
    outgoing: mpsc::UnboundedSender<ToNew>,
    callbacks: Arc<Callbacks>,
    admission: Addr<AdmissionActor>,
    peers: FunctionPeers,
    /// The last report: of memory, and of peers.
    reported: Option<(u64, AllPeers)>,
}

impl Answers {
    async fn give(mut self, mut incoming: mpsc::UnboundedReceiver<ToOld>, hurry: watch::Sender<bool>) {
        let mut ticks = interval(REPORT_INTERVAL);
        loop {
            tokio::select! {
                message = incoming.recv() => match message {
                    Some(ToOld::Callback { id, token, from }) => self.pass_callback(id, &token, from),
                    Some(ToOld::End) => drop(hurry.send_replace(true)),
                    Some(ToOld::Ready | ToOld::ServesCallbacks) => {}
                    // Requests are finished all the same. The sender is kept: its end would count as a message.
                    None => return std::future::pending().await,
                },
                _ = ticks.tick() => self.report().await,
            }
        }
    }

    /// Reports the memory and the peers of instances, if they have changed.
    async fn report(&mut self) {
        let Ok(report) = self.admission.send(AdmissionQuestion).await else { return };
        let now = (report.memory_taken, self.peers.all());
        if self.reported.as_ref() != Some(&now) {
            let _ = self.outgoing.send(ToNew::Memory(now.0));
            let _ = self.outgoing.send(ToNew::Peers(now.1.clone()));
            self.reported = Some(now);
        }
    }

    fn pass_callback(&self, id: u64, token: &str, from: IpAddr) {
        let (callbacks, outgoing, token) = (self.callbacks.clone(), self.outgoing.clone(), ReadyToken::parse(token));
        actix::spawn(async move {
            let outcome = callbacks.deliver(token, from).await.map(Into::into);
            let _ = outgoing.send(ToNew::Callback { id, outcome });
        });
    }
}

/// Returns the path of the daemon's program. To be called at the start: an upgrade replaces the file.
pub fn own_program() -> io::Result<PathBuf> {
    env::current_exe()
}
