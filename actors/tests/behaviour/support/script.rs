//! What an instance does, as a test wants it.

use std::time::Duration;

use unifaas_actors::sandbox::{LaunchError, SandboxExit};

use super::ms;

/// What an instance does. By default it is ready after 100 ms and exits when it is asked to.
#[derive(Debug, Clone)]
pub struct Script {
    pub launch_after: Duration,
    pub launch: Launch,
    /// It had exited before its address was known.
    pub has_no_address: bool,
    /// From the end of the launch to readiness, if that is probed. `None`: never.
    pub ready_after: Option<Duration>,
    /// What comes of a connection after its callback.
    pub connecting: Connecting,
    /// How long it takes to find out why it is not ready. `None`: for ever.
    pub explained_after: Option<Duration>,
    /// Calls of its callback URL by itself or others, also before it exists or after it has ended.
    pub calls: Vec<Call>,
    pub prints: &'static str,
    /// When it exits by itself, counted from its launch.
    pub exit_after: Option<(Duration, SandboxExit)>,
    /// How late its exit is observed. `None`: never.
    pub exit_observed_after: Option<Duration>,
    pub on_pause: Pausing,
    pub on_resume: Pausing,
    /// What comes of its snapshot, if it is a template.
    pub on_capture: Pausing,
    /// What comes of it if it is to be a clone.
    pub restoring: Restoring,
    /// What it holds while it is paused, in MiB. `None`: that is not known.
    pub footprint: Option<u64>,
    pub on_terminate: OnTerminate,
    /// It does not exit when it is killed.
    pub survives_kill: bool,
    pub reclaim: Reclaim,
}

/// A call of a callback URL, that long after the launch order.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    pub after: Duration,
    pub by: Caller,
}

#[derive(Debug, Clone, Copy)]
pub enum Caller {
    Itself,
    /// With the right token, from another address.
    OtherAddress,
    /// From its address, with a token of no instance.
    OtherToken,
}

#[derive(Debug, Clone)]
pub enum Launch {
    Works,
    Fails(LaunchError),
    /// Before there is a future.
    PanicsAtOnce,
    /// When it is polled.
    Panics,
}

#[derive(Debug, Clone, Copy)]
pub enum Connecting {
    Works { after: Duration },
    Refused { after: Duration },
    Hangs,
}

/// What comes of a clone.
#[derive(Debug, Clone, Copy)]
pub enum Restoring {
    /// It accepts connections at once.
    Works,
    /// It cannot be restored.
    Fails,
    /// It accepts no connection.
    Silent,
}

/// What comes of a pause, of its end or of a snapshot.
#[derive(Debug, Clone, Copy)]
pub enum Pausing {
    Works { after: Duration },
    Fails { after: Duration },
    Hangs,
}

#[derive(Debug, Clone, Copy)]
pub enum OnTerminate {
    ExitsAfter(Duration),
    Ignores,
    Panics,
}

#[derive(Debug, Clone, Copy)]
pub enum Reclaim {
    After(Duration),
    Fails,
    Never,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            launch_after: ms(10),
            launch: Launch::Works,
            has_no_address: false,
            ready_after: Some(ms(90)),
            connecting: Connecting::Works { after: Duration::ZERO },
            explained_after: Some(Duration::ZERO),
            calls: Vec::new(),
            prints: "",
            exit_after: None,
            exit_observed_after: Some(Duration::ZERO),
            on_pause: Pausing::Works { after: ms(1) },
            on_resume: Pausing::Works { after: ms(1) },
            on_capture: Pausing::Works { after: ms(50) },
            restoring: Restoring::Works,
            footprint: None,
            on_terminate: OnTerminate::ExitsAfter(ms(20)),
            survives_kill: false,
            reclaim: Reclaim::After(ms(5)),
        }
    }
}
