//! Replays the seeds in `fuzz/corpus/`, and a fixed number of mutations, through the checks of the fuzz targets.
//!
//! No fuzzer is needed, and the inputs are the same in every run. `integration/fuzz` searches for new ones.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test fails by panicking")]

#[path = "../../fuzz/checks/function_toml.rs"]
mod function_toml;

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::{Path, PathBuf},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};

const SEED: u64 = 2026;
const MUTATIONS: usize = 3000;
const MAX_EDITS: usize = 6;

/// Returns the seeds of a target, in the order of their names.
fn seeds(target: &str) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let mut paths: Vec<PathBuf> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// Returns a seed with a few edits, some of them pieces of other seeds.
fn mutate(seeds: &[Vec<u8>], random: &mut StdRng) -> Vec<u8> {
    let mut bytes = seeds[random.random_range(0..seeds.len())].clone();
    for _ in 0..random.random_range(1..=MAX_EDITS) {
        let at = random.random_range(0..=bytes.len());
        let end = (at + random.random_range(0..16)).min(bytes.len());
        match random.random_range(0..5) {
            0 => drop(bytes.drain(at..end)),
            1 => bytes.insert(at, random.random()),
            2 => bytes[at..end].iter_mut().take(1).for_each(|byte| *byte ^= 1 << random.random_range(0..8)),
            3 => {
                let copy = bytes[at..end].to_vec();
                bytes.splice(at..at, copy);
            }
            _ => {
                let other = &seeds[random.random_range(0..seeds.len())];
                let from = random.random_range(0..=other.len());
                let until = (from + random.random_range(0..48)).min(other.len());
                bytes.splice(at..end, other[from..until].iter().copied());
            }
        }
    }
    bytes
}

/// Runs a check and prints the input if it panics.
fn run(check: fn(&[u8]), bytes: &[u8]) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| check(bytes))) {
        eprintln!("failing input: b\"{}\"", bytes.escape_ascii());
        resume_unwind(panic);
    }
}

#[test]
fn function_toml_holds_for_seeds_and_mutations() {
    let seeds = seeds("function_toml");
    assert!(!seeds.is_empty(), "fuzz/corpus/function_toml has no seeds");
    seeds.iter().for_each(|seed| run(function_toml::check, seed));
    let mut random = StdRng::seed_from_u64(SEED);
    for _ in 0..MUTATIONS {
        run(function_toml::check, &mutate(&seeds, &mut random));
    }
}
