//! What each series is compared with.

use super::series::Series;
use crate::{
    experiments::{BASELINE, CONTROL},
    options::Experiment,
};

/// The variant of cold starts that others are compared with.
const COLD: &str = "cold";

/// The policy that others are compared with, if it takes part: that of most publications.
const USUAL_POLICY: &str = "keepalive=600";

/// The reference of a series.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Its place among the series.
    pub place: usize,
    /// What tables call it.
    pub name: String,
}

/// Returns whether a series is the A/A control.
pub fn is_control(series: &Series) -> bool {
    series.function.ends_with(CONTROL)
}

/// Returns the reference of each series: the same function under the other build, if that takes part; of a paused or
/// restored function its cold start; of a policy the usual one; else the first function. `None`: it is a reference itself.
pub fn references(experiment: Experiment, series: &[Series]) -> Vec<Option<Reference>> {
    let has_baseline = series.iter().any(is_baseline);
    let of = |one: &Series| {
        if is_control(one) || is_baseline(one) {
            return None;
        }
        let find = |is_it: &dyn Fn(&Series) -> bool| series.iter().position(is_it);
        let same = |other: &Series| other.variant == one.variant && other.n == one.n;
        let (place, name) = if has_baseline {
            let name = format!("{}{BASELINE}", one.function);
            (find(&|other| other.function == name && same(other))?, "the baseline".to_owned())
        } else if experiment == Experiment::Cold && one.variant != COLD {
            let place = find(&|other| other.function == one.function && other.variant == COLD)?;
            (place, "its cold start".to_owned())
        } else if experiment == Experiment::Replay {
            let same = |other: &Series| other.function == one.function;
            let usual = find(&|other| same(other) && other.variant == USUAL_POLICY);
            let place = usual.or_else(|| find(&same))?;
            (place, series[place].variant.clone())
        } else {
            let place = find(&|other| !is_control(other) && same(other))?;
            (place, series[place].function.clone())
        };
        (series[place] != *one).then_some(Reference { place, name })
    };
    series.iter().map(of).collect()
}

fn is_baseline(series: &Series) -> bool {
    series.function.ends_with(BASELINE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(function: &str, variant: &str, n: u32) -> Series {
        Series { function: function.to_owned(), variant: variant.to_owned(), n, ..Series::default() }
    }

    fn names(experiment: Experiment, series: &[Series]) -> Vec<Option<(usize, String)>> {
        references(experiment, series).into_iter().map(|found| found.map(|it| (it.place, it.name))).collect()
    }

    #[test]
    fn functions_are_compared_with_the_first_one() {
        let all = [
            series("a", "direct", 1),
            series("a.control", "direct", 1),
            series("b", "direct", 1),
            series("b", "daemon", 1),
        ];
        let expected = [None, None, Some((0, "a".to_owned())), None];
        assert_eq!(names(Experiment::Warm, &all), expected);
    }

    #[test]
    fn paused_and_restored_ones_are_compared_with_their_cold_start() {
        let all = [series("a", "cold", 1), series("a", "pause", 1), series("b", "cold", 1), series("b", "restore", 1)];
        let own = "its cold start".to_owned();
        let expected = [None, Some((0, own.clone())), Some((0, "a".to_owned())), Some((2, own))];
        assert_eq!(names(Experiment::Cold, &all), expected);
    }

    #[test]
    fn policies_are_compared_with_the_usual_one() {
        let all = [series("a", "keepalive=2", 1), series("a", "keepalive=600", 1), series("b", "keepalive=9", 1)];
        let expected = [Some((1, "keepalive=600".to_owned())), None, None];
        assert_eq!(names(Experiment::Replay, &all), expected);
    }

    #[test]
    fn builds_are_compared_for_each_function() {
        let all = [
            series("a", "cold", 1),
            series("a.control", "cold", 1),
            series("a.baseline", "cold", 1),
            series("b", "cold", 1),
            series("b.baseline", "cold", 1),
        ];
        let other = "the baseline".to_owned();
        let expected = [Some((2, other.clone())), None, None, Some((4, other)), None];
        assert_eq!(names(Experiment::Cold, &all), expected);
    }
}
