//! The effects of every event in every state, row by row. Sequences of events are in `walk.rs`.

mod walk;

use std::{net::Ipv4Addr, sync::LazyLock, time::SystemTime};

use super::{Effect::*, *};
use crate::sandbox::{CaptureError, PauseError, SandboxExit, SnapshotInfo};

const INSTANCE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));
const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 3));
/// The serial of the alarm that is set when an event comes. The next alarm has the next number.
const ALARM: u64 = 7;

const TIMES: Times =
    Times { boot_timeout: Duration::from_secs(25), stop_grace: Duration::from_secs(2), capture_timeout: None };
const TEMPLATE: Times = Times { capture_timeout: Some(Duration::from_secs(120)), ..TIMES };

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

const LAUNCHING: State = State::Launching(LaunchIntent::Serve);
const CANCELLED: State = State::Launching(LaunchIntent::Cancel);
const TO_BE_KILLED: State = State::Launching(LaunchIntent::Kill);
const BOOTING: State = State::Booting { callback_source: Some(INSTANCE) };
const BOOTING_WITHOUT_ADDRESS: State = State::Booting { callback_source: None };
const TERMINATING: State = State::Stopping { killed: false };
const KILLED: State = State::Stopping { killed: true };

const LAUNCHED: Event = Event::Launched { callback_source: Some(INSTANCE), restored: false };
const RESTORED: Event = Event::Launched { callback_source: Some(INSTANCE), restored: true };
const PAUSING: State = State::Pausing { resume: false };
const PAUSING_TO_RESUME: State = State::Pausing { resume: true };

const EXITED: Event = Event::Exited(SandboxExit::Code(3));
const STOP: Event = Event::Stop { reason: StopReason::Drained, now: false };
const STOP_NOW: Event = Event::Stop { reason: StopReason::Drained, now: true };

fn launch_failed() -> Event {
    Event::LaunchFailed(refused())
}

fn refused() -> LaunchError {
    LaunchError::Refused("no".to_owned())
}

fn unreachable() -> Event {
    Event::Unreachable("refused".to_owned())
}

fn explained() -> Event {
    Event::Explained("silent".to_owned())
}

fn cannot() -> PauseError {
    PauseError::Failed("cannot".to_owned())
}

fn snapshot() -> SnapshotInfo {
    SnapshotInfo { bytes: 7, taken: SystemTime::UNIX_EPOCH.into() }
}

fn captured() -> Event {
    Event::CaptureEnded(Ok(snapshot()))
}

fn not_captured() -> Event {
    Event::CaptureEnded(Err(CaptureError("full".to_owned())))
}

fn timed_out(why: &str) -> Effect {
    Lost(StopReason::BootTimedOut(why.to_owned()))
}

fn every_event() -> Vec<Event> {
    let alarms = [Event::Alarm(ALARM), Event::Alarm(ALARM - 1)];
    let probes = [Event::Reached, unreachable(), explained()];
    let events = [LAUNCHED, launch_failed(), EXITED, STOP, STOP_NOW, Event::Reclaimed];
    let paused = [Event::PauseEnded(Ok(())), Event::PauseEnded(Err(cannot()))];
    let resumed = [Event::ResumeEnded(Ok(())), Event::ResumeEnded(Err(cannot()))];
    let pauses = [Event::Pause, Event::Resume, Event::PausedExternally].into_iter().chain(paused).chain(resumed);
    let captures = [RESTORED, captured(), not_captured()];
    alarms.into_iter().chain(probes).chain(events).chain(pauses).chain(captures).collect()
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
            (RESTORED, State::Verifying, vec![alarm_in(1), Probe]),
            (launch_failed(), State::Gone, vec![Lost(StopReason::LaunchFailed(refused())), ClearAlarm, Finish]),
            (Event::Alarm(ALARM), CANCELLED, vec![ClearAlarm, timed_out("its launch had not finished")]),
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
            (RESTORED, TERMINATING, vec![Terminate, alarm_in(2)]),
            (launch_failed(), State::Gone, vec![ClearAlarm, Finish]),
            (STOP_NOW, TO_BE_KILLED, vec![]),
        ],
    );
}

#[test]
fn a_cancelled_launch_without_grace_is_killed_as_soon_as_the_instance_exists() {
    check(
        TO_BE_KILLED,
        &[
            (LAUNCHED, KILLED, killed_at_once()),
            (RESTORED, KILLED, killed_at_once()),
            (launch_failed(), State::Gone, vec![ClearAlarm, Finish]),
        ],
    );
}

/// Checks a state between launch and readiness.
#[track_caller]
fn check_booting(state: State, rows: Vec<(Event, State, Vec<Effect>)>) {
    let others = [
        (EXITED, State::Reaping, vec![Lost(StopReason::BootFailed(SandboxExit::Code(3))), ClearAlarm, Reclaim]),
        (STOP, TERMINATING, vec![Lost(StopReason::Drained), Terminate, alarm_in(2)]),
        (STOP_NOW, KILLED, vec![Lost(StopReason::Drained), Kill, alarm_in(5)]),
        (Event::PausedExternally, state.clone(), vec![Resume]),
    ];
    check(state, &rows.into_iter().chain(others).collect::<Vec<_>>());
}

#[test]
fn booting_ends_by_readiness_timeout_exit_or_stop() {
    for state in [BOOTING, BOOTING_WITHOUT_ADDRESS] {
        let rows = vec![
            (Event::Reached, State::Serving, vec![ClearAlarm, Ready]),
            (Event::Alarm(ALARM), State::Explaining, vec![alarm_in(1), Explain]),
        ];
        check_booting(state, rows);
    }
}

#[test]
fn an_instance_that_called_back_serves_once_it_is_connected_to() {
    let lost = Lost(StopReason::Unreachable("refused".to_owned()));
    let rows = vec![
        (Event::Reached, State::Serving, vec![ClearAlarm, Ready]),
        (unreachable(), TERMINATING, vec![lost, Terminate, alarm_in(2)]),
        (Event::Alarm(ALARM), State::Explaining, vec![alarm_in(1), Explain]),
    ];
    check_booting(State::Connecting, rows);
}

#[test]
fn a_boot_timeout_is_reported_with_its_reason() {
    let lost = |why: &str| vec![timed_out(why), Terminate, alarm_in(2)];
    let rows = vec![
        (explained(), TERMINATING, lost("silent")),
        (Event::Alarm(ALARM), TERMINATING, lost("the reason could not be found out")),
    ];
    check_booting(State::Explaining, rows);
}

/// Checks a state of an instance that was ready.
#[track_caller]
fn check_ready(state: State, rows: Vec<(Event, State, Vec<Effect>)>) {
    let ends = [
        (EXITED, State::Reaping, vec![Lost(StopReason::Exited(SandboxExit::Code(3))), ClearAlarm, Reclaim]),
        (STOP, TERMINATING, vec![Lost(StopReason::Drained), Terminate, alarm_in(2)]),
        (STOP_NOW, KILLED, vec![Lost(StopReason::Drained), Kill, alarm_in(5)]),
    ];
    check(state, &rows.into_iter().chain(ends).collect::<Vec<_>>());
}

#[test]
fn serving_ends_by_exit_stop_or_pause() {
    let external = (Event::PausedExternally, State::Paused, vec![PausedExternally]);
    check_ready(State::Serving, vec![(Event::Pause, PAUSING, vec![alarm_in(10), Pause]), external]);
}

fn resume_failed(why: &str) -> Vec<Effect> {
    [Lost(StopReason::ResumeFailed(why.to_owned()))].into_iter().chain(killed_at_once()).collect()
}

#[test]
fn an_instance_that_is_being_paused_is_resumed_afterwards_if_it_is_needed_meanwhile() {
    let failed = || (Event::PauseEnded(Err(cannot())), State::Serving, vec![ClearAlarm, NotPaused(cannot())]);
    let hangs = || (Event::Alarm(ALARM), KILLED, resume_failed("its pause took more than 10s"));
    let paused = (Event::PauseEnded(Ok(())), State::Paused, vec![ClearAlarm, Paused]);
    check_ready(PAUSING, vec![(Event::Resume, PAUSING_TO_RESUME, vec![]), paused, failed(), hangs()]);
    let paused = (Event::PauseEnded(Ok(())), State::Resuming, vec![alarm_in(1), Resume]);
    check_ready(PAUSING_TO_RESUME, vec![paused, failed(), hangs()]);
}

#[test]
fn a_paused_instance_is_resumed_on_request() {
    check_ready(State::Paused, vec![(Event::Resume, State::Resuming, vec![alarm_in(1), Resume])]);
}

#[test]
fn an_instance_that_cannot_be_resumed_is_killed() {
    let rows = vec![
        (Event::ResumeEnded(Ok(())), State::Serving, vec![ClearAlarm, Resumed]),
        (Event::ResumeEnded(Err(cannot())), KILLED, resume_failed("cannot")),
        (Event::Alarm(ALARM), KILLED, resume_failed("it took more than 1s")),
        (Event::PausedExternally, State::Resuming, vec![Resume]),
    ];
    check_ready(State::Resuming, rows);
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
    assert_eq!(lifecycle.on(Event::Reached, *START), [ClearAlarm, Ready]);
    assert_eq!(lifecycle.on(Event::Alarm(ALARM), *START), []);
}

#[test]
fn a_change_of_state_is_dated_and_counted() {
    let mut lifecycle = lifecycle(BOOTING, TIMES);
    let later = *START + Duration::from_secs(3);
    lifecycle.on(Event::Reached, later);
    assert_eq!((lifecycle.since(), lifecycle.epoch()), (later, 2));
    lifecycle.on(Event::Reached, later + Duration::from_secs(1));
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
    check(BOOTING, INSTANCE, Some(CallbackOutcome::Accepted), &State::Connecting, &[Connect]);
    check(BOOTING, ELSEWHERE, Some(CallbackOutcome::WrongSource), &BOOTING, &[]);
    for from in [INSTANCE, ELSEWHERE] {
        check(LAUNCHING, from, None, &LAUNCHING, &[]);
        let unready = [BOOTING_WITHOUT_ADDRESS, State::Connecting, State::Explaining];
        let pauses = [PAUSING, PAUSING_TO_RESUME, State::Paused, State::Resuming];
        let others = [CANCELLED, TO_BE_KILLED, State::Serving, TERMINATING, KILLED, State::Reaping, State::Gone];
        for state in unready.into_iter().chain(pauses).chain(others) {
            check(state.clone(), from, Some(CallbackOutcome::NotExpected), &state, &[]);
        }
    }
}

#[test]
fn a_clone_serves_once_it_accepts_a_connection_and_is_killed_otherwise() {
    check_with(TIMES, &LAUNCHING, RESTORED, &State::Verifying, &[alarm_in(1), Probe]);
    let lost = |error| Lost(StopReason::RestoreFailed(error));
    let ended = lost(RestoreError::Failed("the clone ended: exited with status 3".to_owned()));
    let late = lost(RestoreError::TimedOut("the clone accepted no connection within 1s".to_owned()));
    check(
        State::Verifying,
        &[
            (Event::Reached, State::Serving, vec![ClearAlarm, Ready]),
            (Event::Alarm(ALARM), KILLED, [late].into_iter().chain(killed_at_once()).collect()),
            (EXITED, State::Reaping, vec![ended, ClearAlarm, Reclaim]),
            (STOP, TERMINATING, vec![Lost(StopReason::Drained), Terminate, alarm_in(2)]),
            (STOP_NOW, KILLED, vec![Lost(StopReason::Drained), Kill, alarm_in(5)]),
        ],
    );
    let damaged = RestoreError::Failed("damaged".to_owned());
    let not_restored = Event::LaunchFailed(damaged.clone().into());
    check_with(TIMES, &LAUNCHING, not_restored, &State::Gone, &[lost(damaged), ClearAlarm, Finish]);
}

#[test]
fn a_template_never_serves_and_is_killed_after_its_snapshot() {
    for booting in [BOOTING, State::Connecting] {
        check_with(TEMPLATE, &booting, Event::Reached, &State::Capturing, &[alarm_in(120), Capture]);
    }
    let killed = |reason| [Lost(reason)].into_iter().chain(killed_at_once()).collect();
    let failed = |why: &str| StopReason::CaptureFailed(why.to_owned());
    let ended = Lost(failed("the template ended: exited with status 3"));
    check(
        State::Capturing,
        &[
            (captured(), KILLED, killed(StopReason::Captured(snapshot()))),
            (not_captured(), KILLED, killed(failed("full"))),
            (Event::Alarm(ALARM), KILLED, killed(failed("it took too long"))),
            (EXITED, State::Reaping, vec![ended, ClearAlarm, Reclaim]),
            (STOP, TERMINATING, vec![Lost(StopReason::Drained), Terminate, alarm_in(2)]),
            (STOP_NOW, KILLED, killed(StopReason::Drained)),
        ],
    );
}
