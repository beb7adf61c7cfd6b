//! Ten years of schedules in 20 time zones, against a list that is made day by day from the zones' rules alone.

use std::collections::BTreeSet;

use jiff::{
    Timestamp, ToSpan as _,
    civil::{Date, DateTime, Weekday, date},
    tz::{AmbiguousOffset, TimeZone},
};

use super::{ExpressionError, Schedule};

const FIRST: Date = date(2024, 1, 1);
/// The day after the last one.
const END: Date = date(2034, 1, 1);

/// Both hemispheres, both signs, halves and quarters of hours, half an hour of summer time, changes at midnight and on
/// Fridays, and zones without any.
const ZONES: [&str; 20] = [
    "UTC",
    "Europe/Berlin",
    "Europe/London",
    "Europe/Dublin",
    "America/New_York",
    "America/Los_Angeles",
    "America/St_Johns",
    "America/Havana",
    "America/Santiago",
    "America/Nuuk",
    "America/Sao_Paulo",
    "Asia/Kolkata",
    "Asia/Kathmandu",
    "Asia/Beirut",
    "Asia/Jerusalem",
    "Africa/Cairo",
    "Africa/Casablanca",
    "Australia/Lord_Howe",
    "Pacific/Auckland",
    "Pacific/Chatham",
];

/// An expression, and what it says.
struct Pattern {
    expression: &'static str,
    /// One time of a day, rather than several.
    is_fixed: bool,
    is_day: fn(Date) -> bool,
    /// Hours, minutes and seconds.
    times: fn() -> Vec<(i8, i8, i8)>,
}

fn every_day(_: Date) -> bool {
    true
}

const PATTERNS: [Pattern; 8] = [
    Pattern { expression: "30 2 * * *", is_fixed: true, is_day: every_day, times: || vec![(2, 30, 0)] },
    Pattern { expression: "0 0 * * *", is_fixed: true, is_day: every_day, times: || vec![(0, 0, 0)] },
    Pattern {
        expression: "*/30 0-3 * * FRI,SUN",
        is_fixed: false,
        is_day: |day| matches!(day.weekday(), Weekday::Friday | Weekday::Sunday),
        times: || (0..4).flat_map(|hour| [0, 30].map(|minute| (hour, minute, 0))).collect(),
    },
    Pattern {
        expression: "15 0,2 * 3,10,11 *",
        is_fixed: false,
        is_day: |day| matches!(day.month(), 3 | 10 | 11),
        times: || vec![(0, 15, 0), (2, 15, 0)],
    },
    Pattern {
        expression: "0 12 29 2 *",
        is_fixed: true,
        is_day: |day| (day.month(), day.day()) == (2, 29),
        times: || vec![(12, 0, 0)],
    },
    Pattern {
        // Either of both.
        expression: "0 9 13 * FRI",
        is_fixed: true,
        is_day: |day| day.day() == 13 || day.weekday() == Weekday::Friday,
        times: || vec![(9, 0, 0)],
    },
    Pattern {
        expression: "0 1 L * *",
        is_fixed: true,
        is_day: |day| day.last_of_month() == day,
        times: || vec![(1, 0, 0)],
    },
    Pattern {
        expression: "59 59 1 * * SUN#L",
        is_fixed: true,
        is_day: |day| day.weekday() == Weekday::Sunday && day.day() + 7 > day.days_in_month(),
        times: || vec![(1, 59, 59)],
    },
];

impl Pattern {
    /// Returns the instants in a zone.
    fn instants(&self, zone: &TimeZone) -> BTreeSet<Timestamp> {
        let times = (self.times)();
        let days = FIRST.series(1.day()).take_while(|day| *day < END).filter(|day| (self.is_day)(*day));
        let clock = days.flat_map(|day| times.iter().map(move |(h, m, s)| day.at(*h, *m, *s, 0)));
        clock.flat_map(|time| self.instants_of(time, zone)).collect()
    }

    fn instants_of(&self, time: DateTime, zone: &TimeZone) -> Vec<Timestamp> {
        let at = |offset: jiff::tz::Offset| offset.to_timestamp(time).unwrap();
        match zone.to_ambiguous_timestamp(time).offset() {
            AmbiguousOffset::Unambiguous { offset } => vec![at(offset)],
            AmbiguousOffset::Fold { before, .. } if self.is_fixed => vec![at(before)],
            AmbiguousOffset::Fold { before, after } => vec![at(before), at(after)],
            // The change itself, which is the last one up to where the time would have been.
            AmbiguousOffset::Gap { before, .. } if self.is_fixed => {
                vec![zone.preceding(at(before) + 1.second()).next().unwrap().timestamp()]
            }
            AmbiguousOffset::Gap { .. } => Vec::new(),
        }
    }
}

fn at_midnight(day: Date, zone: &TimeZone) -> Timestamp {
    zone.to_timestamp(day.at(0, 0, 0, 0)).unwrap()
}

#[test]
fn ten_years_in_twenty_zones_are_those_of_the_calendar() {
    for name in ZONES {
        let zone = TimeZone::get(name).unwrap();
        let end = at_midnight(END, &zone);
        for pattern in &PATTERNS {
            let schedule = Schedule::new(pattern.expression, zone.clone()).unwrap();
            let mut found = Vec::new();
            let mut time = at_midnight(FIRST, &zone) - 1.second();
            while let Some(next) = schedule.next_after(time).filter(|next| *next < end) {
                assert!(next > time, "{name}: {}: {next} after {time}", pattern.expression);
                found.push(next);
                time = next;
            }
            let expected: Vec<_> = pattern.instants(&zone).into_iter().collect();
            let differs = found.iter().zip(&expected).find(|(found, expected)| found != expected);
            assert_eq!(differs, None, "{name}: {}", pattern.expression);
            assert_eq!(found.len(), expected.len(), "{name}: {}", pattern.expression);
            // Backwards, from the last one of them.
            for (later, earlier) in found.iter().rev().zip(found.iter().rev().skip(1)).step_by(29) {
                let last = schedule.last_until(*later - 1.second());
                assert_eq!(last, Some(*earlier), "{name}: {}: before {later}", pattern.expression);
                assert_eq!(schedule.last_until(*later), Some(*later), "{name}: {}", pattern.expression);
            }
        }
    }
}

#[test]
fn time_that_summer_time_skips_fires_right_after_it_and_repeated_time_once() {
    let berlin = Schedule::new("30 2 * * *", TimeZone::get("Europe/Berlin").unwrap()).unwrap();
    let next = |after: &str| berlin.next_after(after.parse().unwrap()).unwrap().to_string();
    assert_eq!(next("2026-03-28T12:00:00Z"), "2026-03-29T01:00:00Z");
    assert_eq!(next("2026-03-29T01:00:00Z"), "2026-03-30T00:30:00Z");
    assert_eq!(next("2026-10-24T12:00:00Z"), "2026-10-25T00:30:00Z");
    assert_eq!(next("2026-10-25T00:30:00Z"), "2026-10-26T01:30:00Z");
}

#[test]
fn expressions_have_five_or_six_fields_and_match_some_date() {
    let refused = |expression: &str| Schedule::new(expression, TimeZone::UTC).unwrap_err();
    for (expression, fields) in [("", 0), ("* * * *", 4), ("* * * * * * 2030", 7)] {
        assert_eq!(refused(expression), ExpressionError::Fields(fields));
    }
    for expression in ["61 * * * *", "* * * * FOO", "@reboot", "5/5 * * * *", "0 24 * * *", "9-1 * * * *"] {
        assert!(matches!(refused(expression), ExpressionError::Malformed(_)), "{expression}");
    }
    assert_eq!(refused("0 0 30 2 *"), ExpressionError::NeverMatches);
    for expression in ["@daily", "*/5 * * * * *", "0 0 29 2 +SUN", "0 0 1W * *", "0 0 ? * MON-FRI"] {
        assert!(Schedule::new(expression, TimeZone::UTC).is_ok(), "{expression}");
    }
}
