//! Schedules in a daemon that runs, ends, sleeps, and whose clock jumps.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::{Step, step};
use crate::{
    spec::{CronSpec, Missed},
    trigger::fixtures::{at, spec},
};

/// Returns all that fires at `now`, and the instant that is waited for then.
fn fired(spec: &CronSpec, settled: &str, now: &str) -> (Vec<String>, Option<Timestamp>) {
    let (mut settled, mut fired) = (at(settled), Vec::new());
    loop {
        match step(spec, settled, at(now)) {
            Step::Fire(instant) => {
                assert!(instant > settled && instant <= at(now));
                fired.push(instant.strftime("%H:%M:%S").to_string());
                settled = instant;
            }
            Step::Wait(next) => return (fired, next),
        }
    }
}

#[track_caller]
fn check(spec: &CronSpec, (settled, now): (&str, &str), expected: &[&str], next: &str) {
    assert_eq!(fired(spec, settled, now), (expected.iter().map(ToString::to_string).collect(), Some(at(next))));
}

#[test]
fn run_on_time_fires_whatever_is_done_about_missed_ones() {
    for missed in [Missed::Skip, Missed::Once, Missed::All] {
        let hourly = spec("0 * * * *", missed, 3600);
        check(&hourly, ("10:00:00", "10:59:59.999"), &[], "11:00:00");
        check(&hourly, ("10:00:00", "11:00:00"), &["11:00:00"], "12:00:00");
        check(&hourly, ("10:00:00", "11:00:10.9"), &["11:00:00"], "12:00:00");
        check(&hourly, ("11:00:00", "11:00:00"), &[], "12:00:00");
        // A second is short for a busy host: none of them is left out.
        let each_second = spec("* * * * * *", missed, 0);
        check(&each_second, ("10:00:00", "10:00:03.5"), &["10:00:01", "10:00:02", "10:00:03"], "10:00:04");
    }
}

#[test]
fn missed_runs_are_skipped_made_up_for_once_or_each() {
    let missed = |missed| spec("*/10 * * * *", missed, 3600);
    let (before, now) = ("07:00:00", "10:05:00");
    check(&missed(Missed::Skip), (before, now), &[], "10:10:00");
    check(&missed(Missed::Once), (before, now), &["10:00:00"], "10:10:00");
    let all = ["09:10:00", "09:20:00", "09:30:00", "09:40:00", "09:50:00", "10:00:00"];
    check(&missed(Missed::All), (before, now), &all, "10:10:00");
    // A run on time stands for the missed ones, except where each is made up for.
    check(&missed(Missed::Skip), ("09:35:00", "10:00:02"), &["10:00:00"], "10:10:00");
    check(&missed(Missed::Once), ("09:35:00", "10:00:02"), &["10:00:00"], "10:10:00");
    check(&missed(Missed::All), ("09:35:00", "10:00:02"), &["09:40:00", "09:50:00", "10:00:00"], "10:10:00");
}

#[test]
fn missed_runs_older_than_the_bound_are_given_up() {
    let tomorrow: Timestamp = "2026-05-02T08:00:00Z".parse().unwrap();
    for missed in [Missed::Once, Missed::All] {
        let daily = spec("0 8 * * *", missed, 3600);
        assert_eq!(fired(&daily, "07:00:00", "09:00:00"), (vec!["08:00:00".to_owned()], Some(tomorrow)));
        assert_eq!(fired(&daily, "07:00:00", "09:00:01"), (Vec::new(), Some(tomorrow)));
    }
}

#[test]
fn schedule_waits_while_the_clock_is_before_the_last_firing() {
    let hourly = spec("0 * * * *", Missed::All, 3600);
    check(&hourly, ("10:00:00", "08:30:00"), &[], "11:00:00");
}

/// A daemon over a day of virtual time that lives and is down for random times. Each instant fires at most once, in order,
/// and exactly those that the policy promises.
#[test]
fn walk_through_restarts_fires_each_instant_at_most_once() {
    for seed in 0..60 {
        let mut random = StdRng::seed_from_u64(seed);
        let missed = [Missed::Skip, Missed::Once, Missed::All][seed as usize % 3];
        let within = *[0, 60, 3600].get(random.random_range(0..3)).unwrap();
        let expression = ["*/5 * * * *", "17 * * * * *", "0 */2 * * *"][random.random_range(0..3)];
        let spec = spec(expression, missed, within);
        let (mut now, end) = (at("00:00:00.5"), at("23:59:59"));
        let mut settled = now;
        let mut fired = BTreeSet::new();
        let mut downs = Vec::new();
        while now < end {
            let until = now + SignedDuration::from_secs(random.random_range(1..7200));
            loop {
                match step(&spec, settled, now) {
                    Step::Fire(instant) => {
                        assert!(fired.insert(instant) && instant > settled, "seed {seed}: {instant}");
                        settled = instant;
                    }
                    Step::Wait(Some(next)) if next <= until => {
                        assert!(next > now, "seed {seed}: {next} at {now}");
                        now = next + SignedDuration::from_millis(random.random_range(0..3000));
                    }
                    Step::Wait(_) => break,
                }
            }
            let up = until.max(now) + SignedDuration::from_secs(random.random_range(1..5000));
            downs.push((until.max(now), up));
            now = up;
        }
        // What was missed after that has not been looked at.
        let last_end = downs.last().map_or(now, |(down, _)| *down);
        let mut instant = at("00:00:00.5");
        while let Some(next) = spec.schedule.next_after(instant).filter(|next| *next < last_end) {
            let lost = downs.iter().find(|(down, up)| *down < next && next < *up);
            let late = lost.map(|(_, up)| up.duration_since(next).as_secs());
            let must_fire = match (late, missed) {
                (None, _) => true,
                (Some(late), Missed::All) => late <= within.max(10),
                (Some(late), _) => late <= 10,
            };
            assert!(fired.contains(&next) || !must_fire, "seed {seed}: {next} is missing");
            let may_fire =
                late.is_none_or(|late| late <= within.max(10)) && (missed != Missed::Skip || late.unwrap_or(0) <= 10);
            assert!(!fired.contains(&next) || may_fire, "seed {seed}: {next} fired too late");
            instant = next;
        }
    }
}
