//! Seeds of the random walks: a fixed number of them, or a single one to replay.

/// Runs `walk` for seeds 0 to `count`. A failing walk prints its seed; `UNIFAAS_SEED` replays that one alone.
pub(crate) fn for_each_seed(count: u64, walk: impl Fn(u64)) {
    let replayed = std::env::var("UNIFAAS_SEED").ok().and_then(|seed| seed.parse().ok());
    for seed in replayed.map_or(0..count, |seed: u64| seed..seed + 1) {
        let _printed_on_failure = PrintOnPanic(seed);
        walk(seed);
    }
}

struct PrintOnPanic(u64);

impl Drop for PrintOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("this was the walk of UNIFAAS_SEED={}", self.0);
        }
    }
}
