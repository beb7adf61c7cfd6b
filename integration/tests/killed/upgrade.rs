//! SIGKILL to the old daemon, the new one or both at a random moment of an upgrade: one daemon or none is left then.

use std::{fmt, net::SocketAddr, time::Duration};

use integration::{Connection, Daemon, Home, UPGRADE_LIMIT, empty, ms, processes, request};
use nix::sys::signal::Signal;
use rand::{RngExt, rngs::StdRng};
use tokio::time::{Instant, sleep};

use crate::resources::{Host, Lives};

/// Longest time from the request for the upgrade to the kill, in milliseconds, and from its end.
const MAX_MOMENT_MS: u64 = 4000;
const MAX_AFTER_MS: u64 = 1500;
/// A daemon that answers so often in a row goes on: a daemon that ends may answer once more.
const LOOKS: u32 = 5;
const INTERVAL: Duration = Duration::from_millis(300);

/// The daemons of an upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Old,
    New,
}

/// What happened in an upgrade.
#[derive(Debug)]
pub struct Outcome {
    killed: Vec<Role>,
    /// The daemon that goes on.
    pub survivor: Option<Survivor>,
}

/// The daemon that goes on, and what the other one may have left.
#[derive(Debug)]
pub struct Survivor {
    role: Role,
    pub pid: u32,
    pub other: Lives,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let survivor = self.survivor.as_ref().map(|survivor| survivor.role);
        write!(f, "killed {:?}, serves {survivor:?}", self.killed)
    }
}

/// Upgrades a daemon, kills at a random moment, and waits until one daemon or none is left.
pub async fn kill(daemon: &Daemon, host: &Host, random: &mut StdRng) -> (Duration, Outcome) {
    let listen = daemon.listen;
    let mut asked = tokio::spawn(async move {
        let mut request = request("POST", "/debug/upgrade", empty());
        request.headers_mut().insert("x-unifaas", "1".parse().unwrap());
        let mut connection = Connection::open(listen).await.ok()?;
        connection.send(request).await.ok().map(|reply| reply.status)
    });
    let began = Instant::now();
    let is_over = random.random_range(0..3) == 0;
    if is_over {
        let _ = (&mut asked).await;
        sleep(ms(random.random_range(0..MAX_AFTER_MS))).await;
    } else {
        sleep(ms(random.random_range(0..MAX_MOMENT_MS))).await;
    }
    let moment = began.elapsed();
    let new = new_daemon(daemon.pid);
    let mut killed = match random.random_range(0..5) {
        0..2 => vec![Role::Old],
        2..4 => vec![Role::New],
        _ => vec![Role::Old, Role::New],
    };
    if new.is_none() {
        killed = vec![Role::Old];
    }
    host.identities(&daemon.home);
    let pids = [(Role::Old, Some(daemon.pid)), (Role::New, new)];
    for (_, pid) in pids.iter().filter(|(role, _)| killed.contains(role)) {
        pid.map(|pid| processes::signal(pid, Signal::SIGKILL));
    }
    // It may have been started just now.
    let pids = [pids[0], (Role::New, new.or_else(|| new_daemon(daemon.pid)))];
    let survivor = survivor(&pids, listen).await;
    if !is_over {
        let _ = asked.await;
    }
    let survivor = survivor.map(|(role, pid)| Survivor { role, pid, other: other(&daemon.home, role) });
    (moment, Outcome { killed, survivor })
}

/// Returns the daemon that an upgrade has started. It is no child of the old one any more once that has ended.
fn new_daemon(old: u32) -> Option<u32> {
    let is_daemon = |pid: &u32| processes::arguments(*pid).iter().any(|argument| argument == "--registry");
    processes::with_variable(&format!("UNIFAAS_PREDECESSOR={old}")).into_iter().find(is_daemon)
}

/// Waits until one of the daemons serves, or none lives.
async fn survivor(daemons: &[(Role, Option<u32>)], listen: SocketAddr) -> Option<(Role, u32)> {
    let mut seen = (None, 0);
    let look = async || {
        let living = daemons.iter().filter_map(|(role, pid)| Some((*role, (*pid)?)));
        let living: Vec<_> = living.filter(|(_, pid)| !processes::is_dead(*pid)).collect();
        (living, answering(listen).await)
    };
    for _ in 0..UPGRADE_LIMIT.as_millis() / INTERVAL.as_millis() {
        let (living, answering) = look().await;
        let serving = living.iter().copied().find(|(_, pid)| living.len() == 1 && answering == Some(*pid));
        seen = if serving == seen.0 { (serving, seen.1 + 1) } else { (serving, 1) };
        if living.is_empty() || (serving.is_some() && seen.1 >= LOOKS) {
            return serving;
        }
        sleep(INTERVAL).await;
    }
    panic!("neither one daemon serves nor none lives: {:?}", look().await);
}

/// Returns the process id of the daemon that answers.
async fn answering(listen: SocketAddr) -> Option<u32> {
    let mut connection = Connection::open(listen).await.ok()?;
    let debug = connection.send(request("GET", "/debug", empty())).await.ok().filter(|reply| reply.status == 200)?;
    debug.json()["daemon"]["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok())
}

/// Returns the lives of the daemon that has not survived.
fn other(home: &Home, survivor: Role) -> Lives {
    match survivor {
        Role::New => Lives::at(vec![home.path("state")]),
        Role::Old => Lives::further(home),
    }
}
