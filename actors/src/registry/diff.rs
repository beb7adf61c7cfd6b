//! What a look at the registry's files means for the functions: start, reconfigure or drain.
//!
//! Pure. One rule is worth a name: *a good function is not taken away on first sight*. Editors and plain writes truncate
//! a file before they fill it, and some replace it by removing it first; who looks in between sees a bad file or none.
//! So a good function that seems bad or gone is only doubted, and looked at again a moment later.

use std::collections::HashMap;

use super::scan::LoadedSpec;

/// What is to be done about one function.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Step {
    Start(LoadedSpec),
    Reconfigure(LoadedSpec),
    Drain,
    /// Look again before believing it.
    Recheck,
}

/// What was seen at a function that is now doubted; `None`: nothing.
pub(super) type Unconfirmed = HashMap<String, Option<LoadedSpec>>;

/// What to do about `name`, now that `seen` is what its file comes to (`None`: there is none) and `current` is in force.
pub(super) fn step(
    name: &str,
    current: Option<&LoadedSpec>,
    seen: Option<LoadedSpec>,
    unconfirmed: &mut Unconfirmed,
) -> Option<Step> {
    let doubted = unconfirmed.remove(name);
    if current == seen.as_ref() {
        return None;
    }
    if matches!(current, Some(Ok(_))) && !matches!(seen, Some(Ok(_))) && doubted.as_ref() != Some(&seen) {
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
    fn functions_come_change_and_go() {
        check(None, &[Some(good(1))], &[Some(Step::Start(good(1)))]);
        check(None, &[Some(bad())], &[Some(Step::Start(bad()))]);
        check(None, &[None], &[None]);
        check(Some(good(1)), &[Some(good(1))], &[None]);
        check(Some(good(1)), &[Some(good(2))], &[Some(Step::Reconfigure(good(2)))]);
        check(Some(bad()), &[Some(good(2))], &[Some(Step::Reconfigure(good(2)))]);
        check(Some(bad()), &[None], &[Some(Step::Drain)]);
    }

    #[test]
    fn a_good_function_is_not_taken_away_on_first_sight() {
        check(Some(good(1)), &[Some(bad()), Some(bad())], &[Some(Step::Recheck), Some(Step::Reconfigure(bad()))]);
        check(Some(good(1)), &[None, None], &[Some(Step::Recheck), Some(Step::Drain)]);
        check(Some(good(1)), &[None, Some(bad())], &[Some(Step::Recheck), Some(Step::Recheck)]);
    }

    #[test]
    fn a_function_that_was_doubted_wrongly_is_left_alone() {
        check(Some(good(1)), &[None, Some(good(1)), None], &[Some(Step::Recheck), None, Some(Step::Recheck)]);
        check(Some(good(1)), &[Some(bad()), Some(good(2))], &[Some(Step::Recheck), Some(Step::Reconfigure(good(2)))]);
    }
}
