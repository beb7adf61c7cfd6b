//! All actors of a daemon on one thread, with a paused clock and a sandbox that follows scripts.

mod fake;
mod log;
mod network;
mod rig;
mod script;

use std::{future::Future, panic, sync::Once, time::Duration};

pub use tokio::time::{Instant, sleep};
use unifaas_actors::HostLimits;

pub use self::{
    fake::{Fake, VERSION},
    network::Network,
    rig::{CLONED, Rig},
    script::{Call, Caller, Connecting, Launch, OnTerminate, Pausing, Reclaim, Restoring, Script},
};

/// The function that most tests are about.
pub const FUNCTION: &str = "f";
/// How the message of a planned panic begins.
const PLANNED: &str = "as planned";
/// Room for a thousand instances of 128 MiB, which is the default of a function.
pub const ROOMY: HostLimits = HostLimits { memory: 128 * 1000, process_starts: usize::MAX, starts: usize::MAX };

pub const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

pub const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Runs `body` in an actix system whose clock is paused: time advances to the next timer when every task waits.
pub fn with_paused_clock<F: Future>(body: F) -> F::Output {
    hide_planned_panics();
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().start_paused(true).build().expect("a runtime of one thread needs no privileges")
    };
    actix::System::with_tokio_rt(runtime).block_on(body)
}

/// Keeps planned panics out of the output of the tests.
fn hide_planned_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let default = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !info.payload_as_str().unwrap_or_default().starts_with(PLANNED) {
                default(info);
            }
        }));
    });
}
