//! Compares what a scan has found with what is in force: start, reconfigure or drain a function.
//!
//! Pure. *A valid function is not removed or invalidated by the first scan*: editors and plain writes truncate a file before
//! they fill it, and some replace it by removing it first. A scan in between finds an invalid file or none. So such a
//! finding has to be confirmed by a second scan a moment later.

use std::collections::HashMap;

use crate::spec::LoadedSpec;

/// What to do about one function.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Step {
    Start(LoadedSpec),
    Reconfigure(LoadedSpec),
    Drain,
    /// Scan again before the finding counts.
    Recheck,
}

/// Findings to be confirmed, by function. `None`: the function was removed.
pub(super) type Unconfirmed = HashMap<String, Option<LoadedSpec>>;

/// Returns what to do about the function `name`: `current` is in force, and the scan has found `seen` (`None`: no file).
pub(super) fn step(
    name: &str,
    current: Option<&LoadedSpec>,
    seen: Option<LoadedSpec>,
    unconfirmed: &mut Unconfirmed,
) -> Option<Step> {
    let expected = unconfirmed.remove(name);
    if current == seen.as_ref() {
        return None;
    }
    if matches!(current, Some(Ok(_))) && !matches!(seen, Some(Ok(_))) && expected.as_ref() != Some(&seen) {
        unconfirmed.insert(name.to_owned(), seen);
        return Some(Step::Recheck);
    }
    Some(match (current, seen) {
        (None, Some(loaded)) => Step::Start(loaded),
        (Some(_), Some(loaded)) => Step::Reconfigure(loaded),
        (_, None) => Step::Drain,
    })
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::Arc};

    use super::*;
    use crate::spec::FunctionSpec;

    fn good(keepalive: u32) -> LoadedSpec {
        let text = format!("keepalive = {keepalive}\n[process]\ncommand = [\"/bin/true\"]\n");
        Ok(Arc::new(FunctionSpec::parse("f", Path::new("/r/f"), &text).unwrap()))
    }

    fn bad() -> LoadedSpec {
        Err("wrong".into())
    }

    #[track_caller]
    fn check(current: Option<LoadedSpec>, seen: &[Option<LoadedSpec>], steps: &[Option<Step>]) {
        let mut unconfirmed = Unconfirmed::new();
        let taken: Vec<_> =
            seen.iter().map(|seen| step("f", current.as_ref(), seen.clone(), &mut unconfirmed)).collect();
        assert_eq!(taken, steps);
    }

    #[test]
    fn starts_reconfigures_and_drains_functions() {
        check(None, &[Some(good(1))], &[Some(Step::Start(good(1)))]);
        check(None, &[Some(bad())], &[Some(Step::Start(bad()))]);
        check(None, &[None], &[None]);
        check(Some(good(1)), &[Some(good(1))], &[None]);
        check(Some(good(1)), &[Some(good(2))], &[Some(Step::Reconfigure(good(2)))]);
        check(Some(bad()), &[Some(good(2))], &[Some(Step::Reconfigure(good(2)))]);
        check(Some(bad()), &[None], &[Some(Step::Drain)]);
    }

    #[test]
    fn a_valid_function_is_changed_by_a_confirmed_finding_only() {
        check(Some(good(1)), &[Some(bad()), Some(bad())], &[Some(Step::Recheck), Some(Step::Reconfigure(bad()))]);
        check(Some(good(1)), &[None, None], &[Some(Step::Recheck), Some(Step::Drain)]);
        check(Some(good(1)), &[None, Some(bad())], &[Some(Step::Recheck), Some(Step::Recheck)]);
    }

    #[test]
    fn a_finding_that_is_not_confirmed_has_no_effect() {
        check(Some(good(1)), &[None, Some(good(1)), None], &[Some(Step::Recheck), None, Some(Step::Recheck)]);
        check(Some(good(1)), &[Some(bad()), Some(good(2))], &[Some(Step::Recheck), Some(Step::Reconfigure(good(2)))]);
    }
}
