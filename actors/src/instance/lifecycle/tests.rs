//! The effects of every event in every state, row by row. Sequences of events are in `walk.rs`.

mod walk;

use std::{net::Ipv4Addr, sync::LazyLock};

use super::{Effect::*, *};

const INSTANCE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));
const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 3));
/// The serial of the alarm that is set when an event comes. The next alarm has the next number.
const ALARM: u64 = 7;

const TIMES: Times = Times { boot_timeout: Duration::from_secs(25), stop_grace: Duration::from_secs(2) };

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

const LAUNCHING: State = State::Launching(LaunchIntent::Serve);
const CANCELLED: State = State::Launching(LaunchIntent::Cancel);
const TO_BE_KILLED: State = State::Launching(LaunchIntent::Kill);
const BOOTING: State = State::Booting { callback_source: INSTANCE };
const TERMINATING: State = State::Stopping { killed: false };
const KILLED: State = State::Stopping { killed: true };

const LAUNCHED: Event = Event::Launched { callback_source: INSTANCE };
const EXITED: Event = Event::Exited(SandboxExit::Code(3));
const STOP: Event = Event::Stop { reason: StopReason::Drained, now: false };
const STOP_NOW: Event = Event::Stop { reason: StopReason::Drained, now: true };

fn launch_failed() -> Event {
    Event::LaunchFailed(refused())
}

fn refused() -> LaunchError {
    LaunchError::Refused("no".to_owned())
}

fn every_event() -> Vec<Event> {
    let alarms = [Event::Alarm(ALARM), Event::Alarm(ALARM - 1)];
    let events = [LAUNCHED, launch_failed(), Event::Probed, EXITED, STOP, STOP_NOW, Event::Reclaimed];
    alarms.into_iter().chain(events).collect()
}

fn lifecycle(state: State, times: Times) -> Lifecycle {
    Lifecycle { state, since: *START, epoch: 1, alarm: ALARM, times }
}

/// Returns the next alarm, after that many seconds.
fn alarm_in(seconds: u64) -> Effect {
    SetAlarm { serial: ALARM + 1, at: *START + Duration::from_secs(seconds) }
}

fn killed_at_once() -> Vec<Effect> {
    vec![Kill, alarm_in(KILL_TIMEOUT.as_secs())]
}

#[track_caller]
fn check_with(times: Times, state: &State, event: Event, next: &State, effects: &[Effect]) {
    let mut lifecycle = lifecycle(state.clone(), times);
    let got = lifecycle.on(event.clone(), *START);
    assert_eq!((lifecycle.state(), got.as_slice()), (next, effects), "{event:?} in {state:?}");
}

/// Checks every event in one state: those of the rows have the effects given there, all others none.
#[track_caller]
fn check(state: State, rows: &[(Event, State, Vec<Effect>)]) {
    for event in every_event() {
        match rows.iter().find(|(meaningful, ..)| *meaningful == event) {
            Some((_, next, effects)) => check_with(TIMES, &state, event, next, effects),
            None => check_with(TIMES, &state, event, &state, &[]),
        }
    }
    for (event, ..) in rows {
        assert!(every_event().contains(event), "{event:?} is never tried");
    }
}

#[test]
fn begins_with_the_boot_alarm() {
    let (lifecycle, effects) = Lifecycle::begin(*START, TIMES);
    assert_eq!((lifecycle.state(), lifecycle.epoch()), (&LAUNCHING, 0));
    assert_eq!(effects, [SetAlarm { serial: 1, at: *START + TIMES.boot_timeout }]);
}

#[test]
fn launching_ends_by_launch_failure_timeout_or_stop() {
    check(
        LAUNCHING,
        &[
            (LAUNCHED, BOOTING, vec![Probe]),
            (launch_failed(), State::Gone, vec![Lost(StopReason::LaunchFailed(refused())), ClearAlarm, Finish]),
            (Event::Alarm(ALARM), CANCELLED, vec![ClearAlarm, Lost(StopReason::BootTimedOut)]),
            (STOP, CANCELLED, vec![ClearAlarm, Lost(StopReason::Drained)]),
            (STOP_NOW, TO_BE_KILLED, vec![ClearAlarm, Lost(StopReason::Drained)]),
        ],
    );
}

#[test]
fn a_cancelled_launch_is_terminated_as_soon_as_the_instance_exists() {
    check(
        CANCELLED,
        &[
            (LAUNCHED, TERMINATING, vec![Terminate, alarm_in(2)]),
            (launch_failed(), State::Gone, vec![ClearAlarm, Finish]),
            (STOP_NOW, TO_BE_KILLED, vec![]),
        ],
    );
}

#[test]
fn a_cancelled_launch_without_grace_is_killed_as_soon_as_the_instance_exists() {
    check(
        TO_BE_KILLED,
        &[(LAUNCHED, KILLED, killed_at_once()), (launch_failed(), State::Gone, vec![ClearAlarm, Finish])],
    );
}

#[test]
fn booting_ends_by_readiness_timeout_exit_or_stop() {
    check(
        BOOTING,
        &[
            (Event::Probed, State::Serving, vec![ClearAlarm, Ready]),
            (Event::Alarm(ALARM), TERMINATING, vec![Lost(StopReason::BootTimedOut), Terminate, alarm_in(2)]),
            (EXITED, State::Reaping, vec![Lost(StopReason::BootFailed(SandboxExit::Code(3))), ClearAlarm, Reclaim]),
            (STOP, TERMINATING, vec![Lost(StopReason::Drained), Terminate, alarm_in(2)]),
            (STOP_NOW, KILLED, vec![Lost(StopReason::Drained), Kill, alarm_in(5)]),
        ],
    );
}

#[test]
fn serving_ends_by_exit_or_stop() {
    check(
        State::Serving,
        &[
            (EXITED, State::Reaping, vec![Lost(StopReason::Exited(SandboxExit::Code(3))), ClearAlarm, Reclaim]),
            (STOP, TERMINATING, vec![Lost(StopReason::Drained), Terminate, alarm_in(2)]),
            (STOP_NOW, KILLED, vec![Lost(StopReason::Drained), Kill, alarm_in(5)]),
        ],
    );
}

#[test]
fn a_terminated_instance_is_killed_if_it_does_not_exit() {
    check(
        TERMINATING,
        &[
            (EXITED, State::Reaping, vec![ClearAlarm, Reclaim]),
            (Event::Alarm(ALARM), KILLED, killed_at_once()),
            (STOP_NOW, KILLED, killed_at_once()),
        ],
    );
}

#[test]
fn a_killed_instance_is_reclaimed_even_if_its_exit_is_not_observed() {
    check(
        KILLED,
        &[
            (EXITED, State::Reaping, vec![ClearAlarm, Reclaim]),
            (Event::Alarm(ALARM), State::Reaping, vec![ClearAlarm, Reclaim]),
        ],
    );
}

#[test]
fn reaping_ends_when_everything_is_reclaimed() {
    check(State::Reaping, &[(Event::Reclaimed, State::Gone, vec![Finish])]);
}

#[test]
fn gone_is_final() {
    check(State::Gone, &[]);
}

#[test]
fn an_instance_without_grace_is_killed_at_once() {
    let times = Times { stop_grace: Duration::ZERO, ..TIMES };
    let lost = vec![Lost(StopReason::Drained), Kill, alarm_in(5)];
    check_with(times, &State::Serving, STOP, &KILLED, &lost);
    check_with(times, &BOOTING, STOP, &KILLED, &lost);
    check_with(times, &CANCELLED, LAUNCHED, &KILLED, &killed_at_once());
}

#[test]
fn only_the_last_alarm_counts() {
    let mut lifecycle = lifecycle(State::Serving, TIMES);
    assert_eq!(lifecycle.on(STOP, *START), [Lost(StopReason::Drained), Terminate, alarm_in(2)]);
    for late in 0..=ALARM {
        assert_eq!(lifecycle.on(Event::Alarm(late), *START), [], "alarm {late}");
    }
    assert!(lifecycle.on(Event::Alarm(ALARM + 1), *START).contains(&Kill));
}

#[test]
fn an_alarm_that_was_cleared_has_no_effect() {
    let mut lifecycle = lifecycle(BOOTING, TIMES);
    assert_eq!(lifecycle.on(Event::Probed, *START), [ClearAlarm, Ready]);
    assert_eq!(lifecycle.on(Event::Alarm(ALARM), *START), []);
}

#[test]
fn a_change_of_state_is_dated_and_counted() {
    let mut lifecycle = lifecycle(BOOTING, TIMES);
    let later = *START + Duration::from_secs(3);
    lifecycle.on(Event::Probed, later);
    assert_eq!((lifecycle.since(), lifecycle.epoch()), (later, 2));
    lifecycle.on(Event::Probed, later + Duration::from_secs(1));
    assert_eq!((lifecycle.since(), lifecycle.epoch()), (later, 2));
}

#[test]
fn accepts_only_the_first_callback_from_the_instance_itself() {
    #[track_caller]
    fn check(state: State, from: IpAddr, outcome: Option<CallbackOutcome>, next: &State, effects: &[Effect]) {
        let mut lifecycle = lifecycle(state, TIMES);
        let got = lifecycle.callback(from, *START);
        assert_eq!((lifecycle.state(), got), (next, (outcome, effects.to_vec())));
    }
    check(BOOTING, INSTANCE, Some(CallbackOutcome::Accepted), &State::Serving, &[ClearAlarm, Ready]);
    check(BOOTING, ELSEWHERE, Some(CallbackOutcome::WrongSource), &BOOTING, &[]);
    for from in [INSTANCE, ELSEWHERE] {
        check(LAUNCHING, from, None, &LAUNCHING, &[]);
        let others = [CANCELLED, TO_BE_KILLED, State::Serving, TERMINATING, KILLED, State::Reaping, State::Gone];
        for state in others {
            check(state.clone(), from, Some(CallbackOutcome::NotExpected), &state, &[]);
        }
    }
}
