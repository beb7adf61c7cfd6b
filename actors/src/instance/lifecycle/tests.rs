//! What every event means in every state, row by row. Sequences of events are in `walk.rs`.

mod walk;

use std::{net::Ipv4Addr, sync::LazyLock};

use super::{Effect::*, *};

const GUEST: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));
const STRANGER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 3));
/// Serial of the alarm that is set when an event comes; the next one has the next number.
const ALARM: u64 = 7;

const TIMES: Times = Times {
    boot_timeout: Duration::from_secs(25),
    keepalive: Duration::from_secs(60),
    stop_grace: Duration::from_secs(2),
};

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

const LAUNCHING: State = State::Launching(LaunchIntent::Serve);
const UNWANTED: State = State::Launching(LaunchIntent::Cancel);
const DOOMED: State = State::Launching(LaunchIntent::Kill);
const BOOTING: State = State::Booting { callback_source: GUEST };
const ASKED: State = State::Stopping { killed: false };
const KILLED: State = State::Stopping { killed: true };

const LAUNCHED: Event = Event::Launched { callback_source: GUEST };
const EXITED: Event = Event::Exited(SandboxExit::Code(3));
const STOP: Event = Event::Stop { reason: StopReason::Drained, now: false };
const STOP_NOW: Event = Event::Stop { reason: StopReason::Drained, now: true };

fn launch_failed() -> Event {
    Event::LaunchFailed(refused())
}

fn refused() -> LaunchError {
    LaunchError::Refused("no".to_owned())
}

fn until(seconds: u64) -> Event {
    Event::Checked(Idleness::Until(*START + Duration::from_secs(seconds)))
}

fn every_event() -> Vec<Event> {
    vec![
        LAUNCHED,
        launch_failed(),
        Event::Probed,
        EXITED,
        STOP,
        STOP_NOW,
        Event::Alarm(ALARM),
        Event::Alarm(ALARM - 1),
        Event::Checked(Idleness::Retired),
        until(9),
        Event::Checked(Idleness::Busy),
        Event::Checked(Idleness::Needed),
        Event::BecameIdle,
        Event::Reclaimed,
    ]
}

fn lifecycle(state: State, times: Times) -> Lifecycle {
    Lifecycle { state, since: *START, epoch: 1, alarm: ALARM, times }
}

/// The alarm that is set next, in so many seconds.
fn alarm_in(seconds: u64) -> Effect {
    SetAlarm { serial: ALARM + 1, at: *START + Duration::from_secs(seconds) }
}

fn killed_at_once() -> Vec<Effect> {
    vec![Kill, alarm_in(DEATH_TIMEOUT.as_secs())]
}

#[track_caller]
fn check_with(times: Times, state: &State, event: Event, next: &State, effects: &[Effect]) {
    let mut lifecycle = lifecycle(state.clone(), times);
    let got = lifecycle.on(event.clone(), *START);
    assert_eq!((lifecycle.state(), got.as_slice()), (next, effects), "{event:?} in {state:?}");
}

/// Checks every event in one state: those of the rows do what these say, all others nothing.
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
fn a_life_begins_with_the_boot_alarm() {
    let (lifecycle, effects) = Lifecycle::begin(*START, TIMES);
    assert_eq!((lifecycle.state(), lifecycle.epoch()), (&LAUNCHING, 0));
    assert_eq!(effects, [SetAlarm { serial: 1, at: *START + TIMES.boot_timeout }]);
}

#[test]
fn launching_ends_with_the_launch_or_with_nobody_wanting_it() {
    check(
        LAUNCHING,
        &[
            (LAUNCHED, BOOTING, vec![Probe]),
            (launch_failed(), State::Gone, vec![Lost(StopReason::LaunchFailed(refused())), ClearAlarm, Finish]),
            (Event::Alarm(ALARM), UNWANTED, vec![ClearAlarm, Lost(StopReason::BootTimedOut)]),
            (STOP, UNWANTED, vec![ClearAlarm, Lost(StopReason::Drained)]),
            (STOP_NOW, DOOMED, vec![ClearAlarm, Lost(StopReason::Drained)]),
        ],
    );
}

#[test]
fn an_instance_that_nobody_wants_is_ended_as_soon_as_it_exists() {
    check(
        UNWANTED,
        &[
            (LAUNCHED, ASKED, vec![Terminate, alarm_in(2)]),
            (launch_failed(), State::Gone, vec![ClearAlarm, Finish]),
            (STOP_NOW, DOOMED, vec![]),
        ],
    );
}

#[test]
fn an_instance_that_gets_no_grace_is_killed_as_soon_as_it_exists() {
    check(DOOMED, &[(LAUNCHED, KILLED, killed_at_once()), (launch_failed(), State::Gone, vec![ClearAlarm, Finish])]);
}

#[test]
fn booting_ends_with_readiness_a_timeout_an_exit_or_a_stop() {
    check(
        BOOTING,
        &[
            (Event::Probed, State::Serving, vec![Ready, alarm_in(60)]),
            (Event::Alarm(ALARM), ASKED, vec![Lost(StopReason::BootTimedOut), Terminate, alarm_in(2)]),
            (EXITED, State::Reaping, vec![Lost(StopReason::BootFailed(SandboxExit::Code(3))), ClearAlarm, Reclaim]),
            (STOP, ASKED, vec![Lost(StopReason::Drained), Terminate, alarm_in(2)]),
            (STOP_NOW, KILLED, vec![Lost(StopReason::Drained), Kill, alarm_in(5)]),
        ],
    );
}

#[test]
fn serving_goes_on_until_the_instance_is_idle_exits_or_is_stopped() {
    check(
        State::Serving,
        &[
            (Event::Alarm(ALARM), State::Serving, vec![CheckIdle]),
            (Event::Checked(Idleness::Retired), ASKED, vec![Lost(StopReason::Idle), Terminate, alarm_in(2)]),
            (until(9), State::Serving, vec![alarm_in(9)]),
            (Event::Checked(Idleness::Busy), State::Serving, vec![ClearAlarm]),
            (Event::Checked(Idleness::Needed), State::Serving, vec![alarm_in(60)]),
            (Event::BecameIdle, State::Serving, vec![alarm_in(60)]),
            (EXITED, State::Reaping, vec![Lost(StopReason::Exited(SandboxExit::Code(3))), ClearAlarm, Reclaim]),
            (STOP, ASKED, vec![Lost(StopReason::Drained), Terminate, alarm_in(2)]),
            (STOP_NOW, KILLED, vec![Lost(StopReason::Drained), Kill, alarm_in(5)]),
        ],
    );
}

#[test]
fn an_instance_that_was_asked_to_end_is_killed_when_it_does_not() {
    check(
        ASKED,
        &[
            (EXITED, State::Reaping, vec![ClearAlarm, Reclaim]),
            (Event::Alarm(ALARM), KILLED, killed_at_once()),
            (STOP_NOW, KILLED, killed_at_once()),
        ],
    );
}

#[test]
fn a_killed_instance_that_is_not_seen_dead_is_given_up_on() {
    check(
        KILLED,
        &[
            (EXITED, State::Reaping, vec![ClearAlarm, Reclaim]),
            (Event::Alarm(ALARM), State::Reaping, vec![ClearAlarm, Reclaim]),
        ],
    );
}

#[test]
fn reaping_ends_when_everything_is_given_back() {
    check(State::Reaping, &[(Event::Reclaimed, State::Gone, vec![Finish])]);
}

#[test]
fn gone_is_final() {
    check(State::Gone, &[]);
}

#[test]
fn without_a_grace_an_instance_is_killed_at_once() {
    let times = Times { stop_grace: Duration::ZERO, ..TIMES };
    let lost = vec![Lost(StopReason::Drained), Kill, alarm_in(5)];
    check_with(times, &State::Serving, STOP, &KILLED, &lost);
    check_with(times, &BOOTING, STOP, &KILLED, &lost);
    check_with(times, &UNWANTED, LAUNCHED, &KILLED, &killed_at_once());
}

#[test]
fn without_a_keepalive_a_needed_instance_still_rests_before_it_asks_again() {
    let times = Times { keepalive: Duration::ZERO, ..TIMES };
    check_with(times, &State::Serving, Event::Checked(Idleness::Needed), &State::Serving, &[alarm_in(1)]);
    check_with(times, &State::Serving, Event::BecameIdle, &State::Serving, &[alarm_in(0)]);
}

#[test]
fn every_alarm_but_the_last_is_late() {
    let mut lifecycle = lifecycle(State::Serving, TIMES);
    for rested in 1..=3 {
        assert_eq!(
            lifecycle.on(Event::BecameIdle, *START),
            [SetAlarm { serial: ALARM + rested, at: *START + TIMES.keepalive }]
        );
    }
    for late in 0..ALARM + 3 {
        assert_eq!(lifecycle.on(Event::Alarm(late), *START), [], "alarm {late}");
    }
    assert_eq!(lifecycle.on(Event::Alarm(ALARM + 3), *START), [CheckIdle]);
}

#[test]
fn an_alarm_that_was_cleared_is_late() {
    let mut lifecycle = lifecycle(State::Serving, TIMES);
    assert_eq!(lifecycle.on(Event::Checked(Idleness::Busy), *START), [ClearAlarm]);
    assert_eq!(lifecycle.on(Event::Alarm(ALARM), *START), []);
}

#[test]
fn a_change_of_state_is_dated_and_counted() {
    let mut lifecycle = lifecycle(BOOTING, TIMES);
    let later = *START + Duration::from_secs(3);
    lifecycle.on(Event::Probed, later);
    assert_eq!((lifecycle.since(), lifecycle.epoch()), (later, 2));
    lifecycle.on(Event::BecameIdle, later + Duration::from_secs(1));
    assert_eq!((lifecycle.since(), lifecycle.epoch()), (later, 2));
}

#[test]
fn only_the_first_callback_from_the_instance_itself_is_believed() {
    #[track_caller]
    fn check(state: State, from: IpAddr, outcome: Option<CallbackOutcome>, next: &State, effects: &[Effect]) {
        let mut lifecycle = lifecycle(state, TIMES);
        let got = lifecycle.callback(from, *START);
        assert_eq!((lifecycle.state(), got), (next, (outcome, effects.to_vec())));
    }
    check(BOOTING, GUEST, Some(CallbackOutcome::Accepted), &State::Serving, &[Ready, alarm_in(60)]);
    check(BOOTING, STRANGER, Some(CallbackOutcome::WrongSource), &BOOTING, &[]);
    for from in [GUEST, STRANGER] {
        check(LAUNCHING, from, None, &LAUNCHING, &[]);
        for state in [UNWANTED, DOOMED, State::Serving, ASKED, KILLED, State::Reaping, State::Gone] {
            check(state.clone(), from, Some(CallbackOutcome::NotExpected), &state, &[]);
        }
    }
}
