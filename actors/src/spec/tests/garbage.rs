//! Arbitrary content results in a spec or a list of problems.

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{FULL_CONTAINER, FULL_FIRECRACKER, FULL_MICROVM, FULL_PROCESS, FULL_QEMU, good, parse};
use crate::spec::keys;

/// Pieces of TOML to insert in the wrong place.
const SPLINTERS: [&str; 16] = [
    "\"",
    "'''",
    "[",
    "]",
    "[[vm]]",
    "{",
    "}",
    "=",
    ".",
    "\n",
    "-9223372036854775809",
    "1e999",
    "\\u0000",
    "ü",
    "nan",
    "#",
];

fn mutate(text: &str, random: &mut StdRng) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    for _ in 0..random.random_range(1..6) {
        let at = random.random_range(0..=chars.len());
        let end = (at + random.random_range(0..12)).min(chars.len());
        match random.random_range(0..4) {
            0 => drop(chars.drain(at..end)),
            1 => drop(chars.splice(at..at, SPLINTERS[random.random_range(0..SPLINTERS.len())].chars())),
            2 => {
                let piece = chars[at..end].to_vec();
                let to = random.random_range(0..=chars.len());
                drop(chars.splice(to..to, piece));
            }
            _ => drop(chars.splice(at..at, [char::from(random.random_range(0..128u8))])),
        }
    }
    chars.into_iter().collect()
}

#[test]
fn mutated_files_never_panic_and_every_problem_is_one_line() {
    let mut random = StdRng::seed_from_u64(2403);
    let (mut accepted, mut refused) = (0, 0);
    for round in 0..8000 {
        let origin = [FULL_PROCESS, FULL_CONTAINER, FULL_MICROVM, FULL_QEMU, FULL_FIRECRACKER][round % 5];
        let text = mutate(origin, &mut random);
        match parse(&text) {
            Ok(_) => accepted += 1,
            Err(error) => {
                refused += 1;
                assert!(!error.problems.is_empty());
                assert_eq!(error.to_string().lines().count(), error.problems.len(), "{text}\n{error}");
                let last = text.lines().count() + 1;
                assert!(error.problems.iter().all(|problem| problem.line.is_none_or(|line| line <= last)), "{error}");
            }
        }
    }
    assert!(accepted > 100 && refused > 1000, "{accepted} accepted, {refused} refused");
}

#[test]
fn the_deepest_nesting_is_an_error() {
    let dotted = format!("{}a = 1", "a.".repeat(32_000));
    let header = format!("[{}a]", "a.".repeat(32_000));
    let arrays = format!("a = {}", "[".repeat(64_000));
    let tables = format!("a = {}", "{a=".repeat(20_000));
    for text in [dotted, header, arrays, tables] {
        assert!(parse(&text).is_err());
    }
}

#[test]
fn an_accepted_file_has_every_known_key() {
    let text: String = [FULL_PROCESS, FULL_CONTAINER, FULL_MICROVM, FULL_QEMU, FULL_FIRECRACKER]
        .map(|text| {
            good(text);
            text
        })
        .concat();
    for key in keys::TABLES.iter().flat_map(|table| table.keys) {
        let forms = [format!("{key} ="), format!("[{key}]"), format!("[{key}.")];
        assert!(forms.iter().any(|form| text.contains(form)), "{key}");
    }
}
