//! The schedules of functions through commits, refusals, restarts and changed files.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::{Action, Committed, RETRY, ScheduleId, Schedules, millis};
use crate::{
    inbox::TriggerRecord,
    spec::{CronSpec, Missed},
    trigger::{
        CronState,
        fixtures::{self, at},
    },
};

fn spec(at: &str) -> CronSpec {
    fixtures::spec(at, Missed::All, 3600)
}

/// The schedules, and what the store has recorded.
struct World {
    schedules: Schedules,
    records: BTreeMap<String, TriggerRecord>,
    /// Every commit, in order.
    committed: Vec<(ScheduleId, Timestamp)>,
}

impl World {
    fn with(specs: &[CronSpec], now: &str) -> Self {
        let mut world = Self { schedules: Schedules::default(), records: BTreeMap::new(), committed: Vec::new() };
        world.schedules.set(&function(), specs, at(now));
        world
    }

    /// Does what is due at `now`, and returns the instants that were committed.
    fn work(&mut self, now: Timestamp) -> Vec<String> {
        let before = self.committed.len();
        loop {
            let due = self.schedules.due(now);
            if due.is_empty() {
                let instants = self.committed[before..].iter().map(|(_, it)| it.strftime("%H:%M:%S").to_string());
                return instants.collect();
            }
            for action in due {
                match action {
                    Action::Ask(id, trigger, seen) => self.answer(&id, &trigger, seen, now),
                    Action::Fire(id, spec, instant) => self.commit(&id, &spec, instant, now),
                }
            }
        }
    }

    /// Answers as the store does.
    fn answer(&mut self, id: &ScheduleId, trigger: &str, seen: Timestamp, now: Timestamp) {
        let new = TriggerRecord { settled: millis(seen), has_fired: false };
        let record = self.records.entry(trigger.to_owned()).or_insert(new);
        if !record.has_fired {
            record.settled = record.settled.min(new.settled);
        }
        self.schedules.answered(id, trigger, Ok(*record), now);
    }

    fn commit(&mut self, id: &ScheduleId, spec: &CronSpec, instant: Timestamp, now: Timestamp) {
        let new = TriggerRecord { settled: millis(instant), has_fired: true };
        let last = self.records.insert(super::trigger_name(id, spec), new).expect("it was asked about");
        let how = if new.settled > last.settled { Committed::Stored } else { Committed::Before };
        match how {
            Committed::Stored => self.committed.push((id.clone(), instant)),
            _ => drop(self.records.insert(super::trigger_name(id, spec), last)),
        }
        self.schedules.committed(id, instant, how, now);
    }
}

fn function() -> Arc<str> {
    "f".into()
}

#[test]
fn schedule_fires_at_its_instants_and_sleeps_between_them() {
    let mut world = World::with(&[spec("*/10 * * * *")], "10:05:00");
    assert!(world.work(at("10:05:00")).is_empty());
    assert_eq!(world.schedules.sleep(at("10:05:00")), Some(Duration::from_secs(300)));
    assert!(world.work(at("10:09:59")).is_empty());
    assert_eq!(world.work(at("10:10:00.004")), ["10:10:00"]);
    assert!(world.work(at("10:10:01")).is_empty());
    let [report] = &world.schedules.reports(at("10:10:01"))[..] else { panic!() };
    assert_eq!((report.state, report.fired), (CronState::Waiting, 1));
    let times = [report.last, report.next].map(|time| time.map(super::timestamp));
    assert_eq!(times, [Some(at("10:10:00")), Some(at("10:20:00"))]);
}

#[test]
fn restart_makes_up_for_what_was_missed_and_repeats_nothing() {
    let specs = [spec("*/10 * * * *")];
    let mut world = World::with(&specs, "10:05:00");
    assert_eq!(world.work(at("10:05:00")), Vec::<String>::new());
    assert_eq!(world.work(at("10:10:00")), ["10:10:00"]);
    world.schedules = Schedules::default();
    world.schedules.set(&function(), &specs, at("10:35:00"));
    assert_eq!(world.work(at("10:35:00")), ["10:20:00", "10:30:00"]);
    // A daemon that was killed after the commit of 10:40 and before it knew of that.
    let committed = TriggerRecord { settled: millis(at("10:40:00")), has_fired: true };
    world.records.insert(super::trigger_name(&(function(), 0), &specs[0]), committed);
    assert!(world.work(at("10:40:00")).is_empty());
    assert_eq!(world.work(at("10:50:00")), ["10:50:00"]);
}

#[test]
fn clock_that_is_set_back_fires_nothing_twice() {
    let mut world = World::with(&[spec("*/10 * * * *")], "10:05:00");
    world.work(at("10:05:00"));
    assert_eq!(world.work(at("10:10:00")), ["10:10:00"]);
    for clock in ["09:00:00", "09:10:00", "10:10:00"] {
        assert!(world.work(at(clock)).is_empty(), "{clock}");
    }
    assert_eq!(world.schedules.reports(at("09:10:00"))[0].state, CronState::WaitingForClock);
    assert_eq!(world.work(at("10:20:00")), ["10:20:00"]);
}

#[test]
fn first_run_of_a_new_schedule_is_missed_if_no_daemon_runs_then() {
    let specs = [spec("*/10 * * * *")];
    let mut world = World::with(&specs, "10:05:00");
    assert!(world.work(at("10:05:00")).is_empty());
    world.schedules = Schedules::default();
    world.schedules.set(&function(), &specs, at("10:25:00"));
    assert_eq!(world.schedules.reports(at("10:25:00"))[0].last, None);
    assert_eq!(world.work(at("10:25:00")), ["10:10:00", "10:20:00"]);
}

#[test]
fn clock_that_is_set_back_before_the_first_run_does_not_hold_it_up() {
    let specs = [spec("*/10 * * * *")];
    let mut world = World::with(&specs, "10:05:00");
    world.work(at("10:05:00"));
    assert!(world.work(at("08:55:00")).is_empty());
    assert_eq!(world.work(at("09:00:00")), ["09:00:00"]);
    // Also that of a daemon that was started meanwhile.
    let mut world = World::with(&specs, "10:05:00");
    world.work(at("10:05:00"));
    world.schedules = Schedules::default();
    world.schedules.set(&function(), &specs, at("08:55:00"));
    assert!(world.work(at("08:55:00")).is_empty());
    assert_eq!(world.work(at("09:00:00")), ["09:00:00"]);
}

#[test]
fn changed_schedule_begins_anew_and_others_go_on() {
    let mut world = World::with(&[spec("*/10 * * * *"), spec("*/20 * * * *")], "10:05:00");
    world.work(at("10:05:00"));
    // The path changes with the next firing, and nothing is forgotten.
    let moved = CronSpec { path: "/other".to_owned(), ..spec("*/20 * * * *") };
    world.schedules.set(&function(), &[spec("*/2 * * * *"), moved], at("10:15:30"));
    assert_eq!(world.work(at("10:15:30")), ["10:10:00"].map(str::to_owned)[..0].to_vec());
    assert_eq!(world.work(at("10:16:00")), ["10:16:00"]);
    assert_eq!(world.work(at("10:20:00")), ["10:18:00", "10:20:00", "10:20:00"]);
    world.schedules.set(&function(), &[], at("10:20:00"));
    assert!(world.schedules.reports(at("10:20:00")).is_empty());
    assert_eq!(world.schedules.sleep(at("10:20:00")), None);
}

#[test]
fn refused_firing_is_tried_again_and_keeps_its_instant() {
    let mut schedules = Schedules::default();
    schedules.set(&function(), &[spec("*/10 * * * *")], at("10:05:00"));
    let Action::Ask(id, trigger, seen) = schedules.due(at("10:05:00")).remove(0) else { panic!() };
    schedules.answered(&id, &trigger, Err("closed".to_owned()), at("10:05:00"));
    assert!(schedules.due(at("10:05:00.5")).is_empty());
    assert_eq!(schedules.sleep(at("10:05:00")), Some(RETRY));
    let again = schedules.due(at("10:05:01"));
    assert_eq!(again, [Action::Ask(id.clone(), trigger.clone(), seen)], "it was seen at first");
    let record = TriggerRecord { settled: millis(at("10:00:00")), has_fired: true };
    schedules.answered(&id, &trigger, Ok(record), at("10:05:01"));
    assert!(schedules.due(at("10:05:01")).is_empty());
    let mut now = at("10:10:00");
    for _ in 0..3 {
        let Action::Fire(id, _, instant) = schedules.due(now).remove(0) else { panic!() };
        assert_eq!(instant, at("10:10:00"));
        schedules.committed(&id, instant, Committed::NotNow("full".to_owned()), now);
        assert_eq!(schedules.reports(now)[0].state, CronState::Refused);
        assert_eq!(schedules.reports(now)[0].refusal.as_deref(), Some("full"));
        assert!(schedules.due(now).is_empty());
        now += SignedDuration::from_secs(1);
    }
    // The clock is set back by a day: that does not delay the next attempt.
    let Action::Fire(id, _, instant) = schedules.due(now).remove(0) else { panic!() };
    schedules.committed(&id, instant, Committed::NotNow("full".to_owned()), now);
    assert!(schedules.due(now - SignedDuration::from_hours(24)).is_empty());
    let Action::Fire(id, _, instant) = schedules.due(now + SignedDuration::from_secs(60)).remove(0) else { panic!() };
    schedules.committed(&id, instant, Committed::Never("not allowed".to_owned()), now);
    assert!(schedules.due(now).is_empty());
    assert_eq!(schedules.reports(now)[0].fired, 0);
}

/// Daemons that are killed at any moment, also between a commit and its answer. Each instant is committed once.
#[test]
fn kills_at_any_moment_fire_each_instant_once() {
    let specs = [spec("*/5 * * * * *"), spec("0 */2 * * * *")];
    for seed in 0..40 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut world = World::with(&specs, "10:00:00.5");
        let mut now = at("10:00:00.5");
        let end = at("10:20:00");
        while now < end {
            let mut due = world.schedules.due(now);
            if random.random_ratio(1, 8) {
                // Killed, after some of the commits.
                due.truncate(random.random_range(0..=due.len()));
                for action in due {
                    if let Action::Fire(id, spec, instant) = action {
                        world.commit(&id, &spec, instant, now);
                    }
                }
                now += SignedDuration::from_millis(random.random_range(1..3000));
                world.schedules = Schedules::default();
                world.schedules.set(&function(), &specs, now);
                continue;
            }
            for action in due {
                match action {
                    Action::Ask(id, trigger, seen) => world.answer(&id, &trigger, seen, now),
                    Action::Fire(id, spec, instant) => world.commit(&id, &spec, instant, now),
                }
            }
            now += SignedDuration::from_millis(random.random_range(1..700));
        }
        for (index, spec) in specs.iter().enumerate() {
            let fired: Vec<_> = world.committed.iter().filter(|((_, it), _)| *it == index).map(|(_, it)| *it).collect();
            let Some(first) = fired.first() else { continue };
            let mut expected = vec![*first];
            while let Some(next) = spec.schedule.next_after(expected[expected.len() - 1]) {
                if next > *fired.last().unwrap() {
                    break;
                }
                expected.push(next);
            }
            assert_eq!(fired, expected, "seed {seed}, schedule {index}");
            assert!(end.duration_since(*fired.last().unwrap()) < SignedDuration::from_secs(150), "seed {seed}");
        }
    }
}

#[test]
fn overview_has_the_last_and_the_next_firing_of_all_and_reports_those_of_one_function() {
    let mut world = World::with(&[spec("0 * * * *"), spec("30 9 * * *")], "09:15:00");
    let other = Arc::from("other");
    world.schedules.set(&other, &[spec("45 9 * * *")], at("09:15:00"));
    assert_eq!(world.schedules.overview(at("09:15:00")).next, None, "nothing is known yet");
    assert_eq!(world.work(at("09:15:00")), Vec::<String>::new());
    assert_eq!(world.work(at("09:30:00")), ["09:30:00"]);
    world.work(at("09:30:00"));
    let overview = world.schedules.overview(at("09:30:00"));
    let instant = |clock| Some(millis(at(clock)));
    assert_eq!((overview.schedules, overview.refused), (3, 0));
    assert_eq!((overview.last, overview.next), (instant("09:30:00"), instant("09:45:00")));
    let of = |function: &Arc<str>| -> Vec<_> {
        let reports = world.schedules.reports_of(function, at("09:30:00"));
        reports.into_iter().map(|it| (it.function, it.index, it.last, it.next)).collect()
    };
    let tomorrow = Some(millis(at("09:30:00") + SignedDuration::from_hours(24)));
    let own = [(function(), 0, None, instant("10:00:00")), (function(), 1, instant("09:30:00"), tomorrow)];
    assert_eq!(of(&function()), own);
    assert_eq!(of(&other), [(other.clone(), 0, None, instant("09:45:00"))]);
    assert_eq!(of(&Arc::from("none")), []);
}
