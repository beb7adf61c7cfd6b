//! Draws schedules: limits, specs, scripts and callbacks.

use rand::{RngExt, rngs::StdRng, seq::IndexedRandom};
use unifaas_actors::{
    HostLimits,
    sandbox::{LaunchError, SandboxExit},
};

use super::MAX_QUEUE_TIMEOUT;
use crate::support::*;

const MAX_INSTANCES: usize = 4;

/// The parameters of a whole schedule.
#[derive(Clone, Copy)]
pub struct Plan {
    pub limits: HostLimits,
    /// FunctionActors panic. Their successors do not know the instances that are still stopping, so no function has a
    /// maximum then.
    pub buggy: bool,
}

fn any<T: Copy>(random: &mut StdRng, choices: &[T]) -> T {
    *choices.choose(random).expect("there are some")
}

impl Plan {
    pub fn draw(random: &mut StdRng) -> Self {
        let memory = random.random_range(384..1_500);
        let process_starts = any(random, &[1, 2, 4, 4, usize::MAX]);
        let starts = any(random, &[1, 2, 4]);
        Self { limits: HostLimits { memory, process_starts, starts }, buggy: random.random_bool(0.2) }
    }

    /// Draws the keys of a function's file, with its version.
    pub fn keys(&self, random: &mut StdRng, version: usize) -> String {
        let serving = match random.random_range(0..3) {
            0 => "single-use = true".to_owned(),
            _ => format!("concurrent-requests = {}", random.random_range(1..5)),
        };
        let most = random.random_range(1..=MAX_INSTANCES);
        let least = if random.random() { 0 } else { random.random_range(0..=most.min(2)) };
        let bounded = !self.buggy && random.random_bool(0.7);
        let most = if bounded { format!("max-instances = {most}") } else { String::new() };
        let queue = random.random_range(1..40);
        let queue_timeout = random.random_range(1..=MAX_QUEUE_TIMEOUT);
        let boot_timeout = random.random_range(1..4);
        let keepalive = any(random, &[0, 0, 1, 60, 60, 60]);
        let keep_paused = any(random, &[0, 0, 1, 60]);
        let prewarm = keep_paused > 0 && random.random_bool(0.5);
        let stop_grace = random.random_range(0..2);
        let is_cloned = random.random_bool(0.3);
        let readiness =
            any(random, if is_cloned { &["\"callback\"", "{ http = \"/\" }"] } else { &["\"tcp\"", "\"callback\""] });
        let version = if is_cloned {
            format!("{CLONED}\ncmdline = \"{version} %callback\"")
        } else {
            format!("env = {{ {VERSION} = \"{version}\" }}")
        };
        let memory = any(random, &[64, 128, 128, 200, 384, 700]);
        format!(
            "{serving}\n{most}\nmin-instances = {least}\nqueue = {queue}\nqueue-timeout = {queue_timeout}\n\
             boot-timeout = {boot_timeout}\nkeepalive = {keepalive}\nkeep-paused = {keep_paused}\nprewarm = {prewarm}\nstop-grace = {stop_grace}\nreadiness = {readiness}\n\
             memory = {memory}\n{version}"
        )
    }
}

/// Draws the scripts of the next instances: mostly one, sometimes several failures in a row.
pub fn scripts(random: &mut StdRng) -> Vec<Script> {
    if random.random_bool(0.03) {
        let fails = Launch::Fails(LaunchError::Refused("no image".into()));
        return vec![Script { launch: fails, ..Script::default() }; random.random_range(3..10)];
    }
    vec![script(random)]
}

fn script(random: &mut StdRng) -> Script {
    let launch = match random.random_range(0..40) {
        0 => Launch::Fails(LaunchError::Exhausted("no port".into())),
        1 => Launch::Fails(LaunchError::Refused("no image".into())),
        4 => Launch::Panics,
        5 => Launch::PanicsAtOnce,
        _ => Launch::Works,
    };
    let exit_after = random.random_bool(0.15).then(|| (ms(random.random_range(0..3_000)), SandboxExit::Code(1)));
    let on_terminate =
        [OnTerminate::ExitsAfter(ms(20)), OnTerminate::ExitsAfter(ms(700)), OnTerminate::Ignores, OnTerminate::Panics];
    let reclaim = match random.random_range(0..20) {
        0 => Reclaim::Never,
        1 => Reclaim::Fails,
        2..=4 => Reclaim::After(secs(1)),
        _ => Reclaim::After(ms(any(random, &[0, 5]))),
    };
    let seen = if random.random_bool(0.05) { None } else { Some(ms(any(random, &[0, 0, 0, 3, 900]))) };
    Script {
        launch_after: ms(if random.random_bool(0.1) {
            any(random, &[1_500, 2_500, 7_000])
        } else {
            any(random, &[0, 10, 100])
        }),
        launch,
        has_no_address: random.random_bool(0.02),
        ready_after: random.random_bool(0.95).then(|| ms(random.random_range(0..500))),
        connecting: connecting(random),
        explained_after: random.random_bool(0.9).then(|| ms(any(random, &[0, 10, 900, 3_000]))),
        calls: calls(random),
        prints: "",
        exit_after,
        exit_observed_after: seen,
        on_pause: pausing(random),
        on_resume: pausing(random),
        on_capture: pausing(random),
        restoring: any(random, &[Restoring::Works, Restoring::Works, Restoring::Fails, Restoring::Silent]),
        footprint: any(random, &[None, Some(1), Some(40), Some(150), Some(1_000)]),
        on_terminate: any(random, &on_terminate),
        survives_kill: random.random_bool(0.02),
        reclaim,
    }
}

fn pausing(random: &mut StdRng) -> Pausing {
    match random.random_range(0..20) {
        0 => Pausing::Fails { after: ms(any(random, &[0, 400])) },
        1 => Pausing::Hangs,
        2..=3 => Pausing::Works { after: ms(any(random, &[100, 700, 1_500])) },
        _ => Pausing::Works { after: ms(any(random, &[0, 1])) },
    }
}

fn connecting(random: &mut StdRng) -> Connecting {
    match random.random_range(0..20) {
        0 => Connecting::Refused { after: secs(1) },
        1 => Connecting::Hangs,
        2 => Connecting::Works { after: ms(any(random, &[3, 400, 2_000])) },
        _ => Connecting::Works { after: ms(0) },
    }
}

/// Draws callbacks: mostly one by the instance itself; or none, several, early, late or forged ones.
fn calls(random: &mut StdRng) -> Vec<Call> {
    let after = |random: &mut StdRng| ms(any(random, &[0, 5, 50, 150, 300, 1_200, 4_000]));
    let honest = Call { after: after(random), by: Caller::Itself };
    match random.random_range(0..10) {
        0 => Vec::new(),
        1 => vec![honest, honest, Call { after: after(random), by: Caller::Itself }],
        2 => vec![Call { after: after(random), by: Caller::OtherAddress }, honest],
        3 => vec![Call { after: ms(0), by: Caller::OtherToken }, Call { after: ms(0), by: Caller::OtherAddress }],
        4 => vec![Call { after: ms(0), by: Caller::Itself }; 8],
        _ => vec![honest],
    }
}
