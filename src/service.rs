//! The daemon's state for the service manager (systemd), if one started it: ready, stopping, alive.

use std::time::Duration;

use sd_notify::NotifyState;
use slog::{Logger, warn};
use tokio::time::{MissedTickBehavior, interval};

/// Reports within one time limit of the watchdog.
const REPORTS_PER_LIMIT: u32 = 3;

/// Reports that the daemon serves.
pub fn ready(status: &str, log: &Logger) {
    notify(&[NotifyState::Ready, NotifyState::Status(status)], log);
}

/// Reports that the daemon ends.
pub fn stopping(status: &str, log: &Logger) {
    notify(&[NotifyState::Stopping, NotifyState::Status(status)], log);
}

/// Reports that another process is the daemon now.
pub fn replaced_by(pid: u32, log: &Logger) {
    notify(&[NotifyState::MainPid(pid)], log);
}

/// Reports now and then that the calling thread is alive, if the service manager asks for that. It ends a daemon that does
/// not. To be called on the actors' thread: no request is served without it.
pub fn feed_watchdog(log: &Logger) {
    let Some(limit) = sd_notify::watchdog_enabled().filter(|limit| *limit > Duration::ZERO) else { return };
    let log = log.clone();
    actix::spawn(async move {
        let mut turn = interval(limit / REPORTS_PER_LIMIT);
        turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            turn.tick().await;
            notify(&[NotifyState::Watchdog], &log);
        }
    });
}

fn notify(state: &[NotifyState<'_>], log: &Logger) {
    if let Err(error) = sd_notify::notify(state) {
        warn!(log, "the service manager cannot be reached"; "error" => %error);
    }
}
