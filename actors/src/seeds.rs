//! Seeds of the random walks: as many as a test wants, or the one that is to be replayed.

/// Runs `walk` for `count` seeds. When one fails, its seed is printed; set `UNIFAAS_SEED` to it to run that one alone.
pub(crate) fn for_each_seed(count: u64, walk: impl Fn(u64)) {
    let replayed = std::env::var("UNIFAAS_SEED").ok().and_then(|seed| seed.parse().ok());
    for seed in replayed.map_or(0..count, |seed: u64| seed..seed + 1) {
        let _shown_on_failure = Shown(seed);
        walk(seed);
    }
}

struct Shown(u64);

impl Drop for Shown {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("this was the walk of UNIFAAS_SEED={}", self.0);
        }
    }
}
