//! The seeds of the fuzzer and what is like them, on every run of the tests: no fuzzer needed, and always the same bytes.

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::{Path, PathBuf},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{TARGETS, Target};

/// Mutations per target: enough to notice a parser that has become careless, and done in seconds.
const ROUNDS: usize = 3000;
const MOST_EDITS: usize = 6;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(name)
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn seeds_of(target: &str) -> Vec<Vec<u8>> {
    let folder = folder("corpus").join(target);
    let mut paths: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// Changes a seed here and there, with pieces of the others.
fn mutate(seeds: &[Vec<u8>], random: &mut StdRng) -> Vec<u8> {
    let mut bytes = seeds[random.random_range(0..seeds.len())].clone();
    for _ in 0..random.random_range(1..=MOST_EDITS) {
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

fn take(target: Target, bytes: &[u8]) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(bytes))) {
        eprintln!("these bytes did it: b\"{}\"", bytes.escape_ascii());
        resume_unwind(panic);
    }
}

#[track_caller]
fn replay(name: &str) {
    let (_, target) = TARGETS.into_iter().find(|(this, _)| *this == name).unwrap();
    let seeds = seeds_of(name);
    assert!(!seeds.is_empty(), "{name} has no seeds");
    seeds.iter().for_each(|seed| take(target, seed));
    let mut random = StdRng::seed_from_u64(2026);
    for _ in 0..ROUNDS {
        take(target, &mutate(&seeds, &mut random));
    }
}

#[test]
fn body() {
    replay("body");
}

#[test]
fn callback() {
    replay("callback");
}

#[test]
fn invoke_path() {
    replay("invoke_path");
}

#[test]
fn request() {
    replay("request");
}

#[test]
fn response() {
    replay("response");
}

#[test]
fn every_target_has_a_program_and_seeds() {
    for (name, _) in TARGETS {
        assert!(names_in(&folder("fuzz_targets")).contains(&name.to_owned()), "{name}");
    }
}
