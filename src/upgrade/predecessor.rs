//! The new daemon's side: what it inherits, and the old daemon while that finishes its requests.

use std::{
    collections::HashMap,
    env, io,
    net::{IpAddr, SocketAddr, TcpListener},
    os::{fd::AsFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use actix::Addr;
use nix::unistd::getppid;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{sleep, timeout},
};
use unifaas_actors::{AdmissionActor, AdmissionQuestion, CallbackOutcome, ForeignMemory};

use super::{
    link::Link,
    protocol::{Hello, ToNew, ToOld, VARIABLE, VERSION},
};
use crate::{
    host::function_peers::FunctionPeers,
    http::{FrontSocket, ListenerKind, PassedListener},
    shared::Shared,
    spawner::receive_blocking,
};

/// How long the old daemon may take to end: to kill its instances, and to release their resources.
const END_TIMEOUT: Duration = Duration::from_secs(25);
/// How long the start waits for `min-instances`, and between two looks.
const MINIMUM_TIMEOUT: Duration = Duration::from_secs(15);
const MINIMUM_INTERVAL: Duration = Duration::from_millis(50);

/// What a daemon that another one has started gets from it.
#[derive(Debug)]
pub struct Inheritance {
    pub state_directory: PathBuf,
    pub listeners: Vec<(PassedListener, TcpListener)>,
    socket: UnixStream,
}

impl Inheritance {
    /// Receives it, if another daemon has started this one. Blocks until it is there.
    ///
    /// # Errors
    /// When the old daemon has ended, or its messages are of another version.
    pub fn receive() -> io::Result<Option<Self>> {
        let parent = env::var(VARIABLE).ok().and_then(|pid| pid.parse::<i32>().ok());
        // The variable may be inherited from a daemon that is no longer concerned.
        if parent != Some(getppid().as_raw()) {
            return Ok(None);
        }
        let mut socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        rustix::stdio::dup2_stdin(std::fs::File::open("/dev/null")?)?;
        let Some((hello, descriptors)) = receive_blocking::<Hello>(&mut socket)? else {
            return Err(io::Error::other("the daemon that started this one has ended"));
        };
        let Hello { version, state_directory, listeners } = hello;
        if version != VERSION || listeners.len() != descriptors.len() {
            return Err(io::Error::other("the daemon that started this one has another version: restart the daemon"));
        }
        let listeners = listeners.into_iter().zip(descriptors.into_iter().map(TcpListener::from)).collect();
        Ok(Some(Self { state_directory: state_directory.into(), listeners, socket }))
    }

    /// Takes the front's socket, if its option still names the same address or the service manager holds it.
    pub fn take_front(&mut self, configured: SocketAddr) -> FrontSocket {
        let is_front = |(passed, _): &mut (PassedListener, TcpListener)| {
            passed.kind == ListenerKind::Front && (passed.configured == configured || passed.is_managed)
        };
        match self.listeners.extract_if(.., is_front).next() {
            Some((passed, socket)) => FrontSocket::Inherited { socket, is_managed: passed.is_managed },
            None => FrontSocket::Address(configured),
        }
    }

    /// Returns whether the daemon's state directory is that of the old one.
    pub fn is_of(&self, state_directory: &Path) -> bool {
        state_directory.canonicalize().is_ok_and(|directory| directory == self.state_directory)
    }

    /// Returns the old daemon.
    ///
    /// # Panics
    /// Outside of an arbiter.
    pub fn predecessor(self, admission: Addr<AdmissionActor>, peers: FunctionPeers) -> io::Result<Predecessor> {
        let link: Link<ToOld, ToNew> = Link::over(self.socket)?;
        let forwarder = CallbackForwarder { outgoing: link.outgoing.clone(), pending: Arc::default() };
        let (phase, seen) = watch::channel(PredecessorPhase::Serving);
        actix::spawn(follow(link.incoming, phase, admission, peers, forwarder.pending.clone()));
        Ok(Predecessor { outgoing: link.outgoing, forwarder, phase: seen })
    }
}

/// What the old daemon does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PredecessorPhase {
    /// It is the daemon.
    Serving,
    /// It finishes its requests; this one is the daemon.
    Draining,
    /// It has ended. This one was the daemon before, if it says so.
    Ended { after_takeover: bool },
}

/// The old daemon.
#[derive(Debug)]
pub struct Predecessor {
    outgoing: mpsc::UnboundedSender<ToOld>,
    pub forwarder: CallbackForwarder,
    pub phase: watch::Receiver<PredecessorPhase>,
}

impl Predecessor {
    /// Reports that callbacks are served.
    pub fn serves_callbacks(&self) {
        let _ = self.outgoing.send(ToOld::ServesCallbacks);
    }

    /// Reports that connections are accepted, and waits until this daemon is the daemon. Returns false if the old one has
    /// ended before.
    pub async fn take_over(&mut self) -> bool {
        let _ = self.outgoing.send(ToOld::Ready);
        let phase = self.phase.wait_for(|phase| *phase != PredecessorPhase::Serving).await;
        phase.is_ok_and(|phase| *phase != PredecessorPhase::Ended { after_takeover: false })
    }

    /// Waits until it has ended.
    pub async fn ended(&mut self) {
        // An error means that it has.
        let _ = self.phase.wait_for(|phase| matches!(phase, PredecessorPhase::Ended { .. })).await;
    }

    /// Has it end now, and waits for that for as long as it may take.
    pub async fn end_in_time(&mut self) {
        self.end();
        let _ = timeout(END_TIMEOUT, self.ended()).await;
    }

    /// Returns whether this daemon was the daemon before the end of the other one.
    pub fn has_left_to_this(&self) -> bool {
        *self.phase.borrow() != PredecessorPhase::Ended { after_takeover: false }
    }

    /// Has it end now, as this daemon ends.
    pub fn end(&self) {
        let _ = self.outgoing.send(ToOld::End);
    }
}

async fn follow(
    mut incoming: mpsc::UnboundedReceiver<ToNew>,
    phase: watch::Sender<PredecessorPhase>,
    admission: Addr<AdmissionActor>,
    peers: FunctionPeers,
    pending: Pending,
) {
    while let Some(message) = incoming.recv().await {
        match message {
            ToNew::Memory(memory) => admission.do_send(ForeignMemory(memory)),
            ToNew::Peers(all) => peers.add_all(all),
            ToNew::Callback { id, outcome } => {
                if let Some(reply) = lock(&pending).remove(&id) {
                    let _ = reply.send(outcome.map(CallbackOutcome::from));
                }
            }
            ToNew::TakeOver => drop(phase.send_replace(PredecessorPhase::Draining)),
        }
    }
    admission.do_send(ForeignMemory(0));
    lock(&pending).clear();
    let after_takeover = *phase.borrow() == PredecessorPhase::Draining;
    phase.send_replace(PredecessorPhase::Ended { after_takeover });
}

type Replies = HashMap<u64, oneshot::Sender<Option<CallbackOutcome>>>;
type Pending = Arc<Mutex<Replies>>;

fn lock(pending: &Pending) -> MutexGuard<'_, Replies> {
    pending.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Passes callbacks of the old daemon's instances on to it. Usable on any thread.
#[derive(Debug, Clone)]
pub struct CallbackForwarder {
    outgoing: mpsc::UnboundedSender<ToOld>,
    pending: Pending,
}

impl CallbackForwarder {
    /// Passes a callback on, and returns its outcome. `None`: the old daemon has no such instance, or has ended.
    pub async fn deliver(&self, token: &str, from: IpAddr) -> Option<CallbackOutcome> {
        let (reply, answer) = oneshot::channel();
        let id = rand::random();
        lock(&self.pending).insert(id, reply);
        self.outgoing.send(ToOld::Callback { id, token: token.to_owned(), from }).ok()?;
        answer.await.ok().flatten()
    }
}

/// Waits until every function has its `min-instances`, unless that takes too long or needs memory that is taken.
pub async fn minimum_is_ready(shared: &Shared) {
    let ready = async {
        loop {
            let report = shared.admission.send(AdmissionQuestion).await;
            let only_memory_lacks = report.is_ok_and(|report| report.functions_waiting > 0 && report.starting == 0);
            if only_memory_lacks || !shared.directory.all().values().any(|function| function.lacks_minimum()) {
                return;
            }
            sleep(MINIMUM_INTERVAL).await;
        }
    };
    // Functions start them later, too.
    let _ = timeout(MINIMUM_TIMEOUT, ready).await;
}
