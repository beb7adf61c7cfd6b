//! The intent of an instance, as a test wants it.

use std::time::Duration;

use unifaas_actors::sandbox::{LaunchError, SandboxExit};

use super::ms;

/// What an instance does. By default it is ready after 100 ms and does as it is told.
#[derive(Debug, Clone)]
pub struct Script {
    pub launch_after: Duration,
    pub launch: Launch,
    /// From the end of the launch to readiness, where that is probed. `None`: never.
    pub ready_after: Option<Duration>,
    /// Whoever calls its callback URL, it or others, also when it is not there yet or any more.
    pub calls: Vec<Call>,
    pub prints: &'static str,
    /// It ends by itself, so long after its launch.
    pub exit_after: Option<(Duration, SandboxExit)>,
    /// How late its end is seen, whatever it ended of. `None`: never.
    pub end_seen_after: Option<Duration>,
    pub on_stop: OnStop,
    /// Not even a kill ends it.
    pub undying: bool,
    pub reclaim: Reclaim,
}

/// A call of a callback URL, so long after the order.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    pub after: Duration,
    pub by: Caller,
}

#[derive(Debug, Clone, Copy)]
pub enum Caller {
    Itself,
    /// With the right token, from elsewhere.
    Stranger,
    /// From its address, with a token that nobody was given.
    Forger,
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
pub enum OnStop {
    EndsAfter(Duration),
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
            ready_after: Some(ms(90)),
            calls: Vec::new(),
            prints: "",
            exit_after: None,
            end_seen_after: Some(Duration::ZERO),
            on_stop: OnStop::EndsAfter(ms(20)),
            undying: false,
            reclaim: Reclaim::After(ms(5)),
        }
    }
}
