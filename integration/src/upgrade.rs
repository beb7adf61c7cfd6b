//! Upgrades of a daemon.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::{Connection, Daemon, Reply, empty, eventually, processes, request, wait::poll_blocking};

/// Longer than a new daemon may take to be ready, or an old one to end.
pub const UPGRADE_LIMIT: Duration = Duration::from_secs(60);

/// The daemon that has replaced another one. Dropping it ends it.
#[derive(Debug)]
pub struct Successor {
    /// Its process id.
    pub pid: u32,
}

impl Drop for Successor {
    fn drop(&mut self) {
        processes::signal(self.pid, Signal::SIGTERM);
        let is_dead = || processes::is_dead(self.pid);
        // A daemon that does not end is found by what it leaves.
        let _ = poll_blocking(UPGRADE_LIMIT, is_dead, |is_dead| *is_dead);
    }
}

impl Successor {
    /// Waits for its end.
    ///
    /// # Panics
    /// When it does not end in time.
    pub async fn ended(&self) {
        let is_dead = async || processes::is_dead(self.pid);
        eventually(UPGRADE_LIMIT, "the end of a daemon", is_dead, |is_dead| *is_dead).await;
    }
}

impl Daemon {
    /// Requests an upgrade, and returns the answer.
    ///
    /// # Panics
    /// When there is none.
    pub async fn request_upgrade(&self) -> Reply {
        let mut request = request("POST", "/debug/upgrade", empty());
        request.headers_mut().insert("x-unifaas", "1".parse().expect("a value"));
        let mut connection = Connection::open(self.listen).await.expect("the daemon accepts connections");
        connection.send(request).await.expect("an answer")
    }

    /// Upgrades the daemon, as soon as an earlier upgrade is over.
    ///
    /// # Panics
    /// When that fails.
    pub async fn upgrade(&self) -> Successor {
        let ask = async || self.request_upgrade().await;
        let done = eventually(UPGRADE_LIMIT, "the upgrade", ask, |reply| reply.status != 409).await.ok().json();
        let pid = done["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
        let pid = pid.expect("the process id of the new daemon");
        // The accepting thread of the old daemon notices a moment later.
        let serves = async || self.debug().await["daemon"]["pid"] == pid;
        for _ in 0..3 {
            eventually(UPGRADE_LIMIT, "the new daemon accepts", serves, |serves| *serves).await;
        }
        Successor { pid }
    }
}
