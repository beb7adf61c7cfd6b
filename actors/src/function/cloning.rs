//! When a function's snapshot is taken, and whether its instances are clones that are restored from it.
//!
//! Pure. A snapshot is due after a cold start that succeeded although the instance could have been a clone: there is none
//! that fits. A capture that failed is tried again after longer and longer pauses, and then not before the next spec. After
//! a failed restore the next start is cold. The second one within an hour discards the snapshot, and the third, which is of
//! another snapshot, ends the use of snapshots until the next spec.
//!
//! A restore may take too long because the host is busy, which says nothing of the snapshot. If that happens beside other
//! starts and nothing fails, the restore does not count. But a snapshot can also hang each of its clones. So such restores
//! count from the third busy spell on in which no clone became ready.

use std::{sync::Arc, time::Duration};

use serde::Serialize;
use tokio::time::Instant;

use crate::{
    admission::TEMPLATE_PATIENCE,
    id::InstanceId,
    sandbox::{RestoreError, SnapshotInfo},
    wall_time::rounded_seconds,
};

/// Pauses after failed captures. There is no further attempt after the last one.
const RETRY_PAUSES: [Duration; 3] = [Duration::from_secs(60), Duration::from_secs(600), Duration::from_secs(3600)];
/// The pause after a capture that was interrupted.
const INTERRUPTED_PAUSE: Duration = RETRY_PAUSES[0];
/// For how long a failed restore counts.
const RESTORE_WINDOW: Duration = Duration::from_secs(3600);
/// Failed restores in that time that discard the snapshot, and that end the use of snapshots.
const DISCARDED_AT: usize = 2;
const GIVEN_UP_AT: usize = 3;
/// How long a busy spell lasts, from the first restore that took too long beside other starts.
const BUSY_SPELL: Duration = Duration::from_secs(60);
/// How many busy spells are excused, with no clone that became ready in between.
const EXCUSED_SPELLS: usize = 2;

#[derive(Debug, Default)]
pub(super) struct Cloning {
    state: State,
    /// The snapshot that is kept, which may be of an earlier spec.
    snapshot: Option<SnapshotInfo>,
    /// Failed captures in a row.
    failed_captures: usize,
    /// The failed restores of the last hour.
    failed_restores: Vec<Instant>,
    /// Busy spells since a clone became ready, and when the last one began.
    busy_spells: usize,
    busy_since: Option<Instant>,
    /// When a snapshot was last taken.
    captured: Option<Instant>,
    /// When a snapshot was last discarded.
    discarded: Option<Instant>,
    /// How many of the next starts are cold, in place of restores that failed.
    cold_starts: usize,
    restores: u64,
    failures: u64,
    error: Option<Arc<str>>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The spec wants no snapshot.
    #[default]
    Off,
    /// No snapshot has to be taken.
    Idle,
    /// One has to be taken, from this time on.
    Due(Instant),
    /// It is being taken of this template.
    Making(InstanceId),
    /// Nothing more is tried with this spec.
    GivenUp,
}

impl Cloning {
    /// Begins with a spec that wants snapshots or not, of which one may be kept.
    pub fn configure(&mut self, is_wanted: bool, snapshot: Option<SnapshotInfo>) {
        let (restores, failures) = (self.restores, self.failures);
        let state = if is_wanted { State::Idle } else { State::Off };
        *self = Self { state, snapshot, restores, failures, ..Self::default() };
    }

    /// Returns whether the next instance, which is started now, may be a clone.
    pub fn may_restore(&mut self) -> bool {
        let is_cold = self.cold_starts > 0;
        self.cold_starts = self.cold_starts.saturating_sub(1);
        !is_cold && !matches!(self.state, State::Off | State::GivenUp)
    }

    /// Records that an instance, which was ordered at `ordered`, has become ready without a snapshot. `may_restore`: it could
    /// have been a clone, if there was a snapshot by then.
    pub fn started_cold(&mut self, may_restore: bool, ordered: Instant, now: Instant) {
        let is_unfit = may_restore && self.captured.is_none_or(|captured| ordered > captured);
        if self.state == State::Idle && (is_unfit || self.snapshot.is_none()) {
            self.state = State::Due(now);
        }
    }

    /// Records that a clone has become ready.
    pub fn restored(&mut self) {
        self.restores += 1;
        self.end_busy_spells();
    }

    /// Records that a clone, which was ordered at `ordered`, could not be restored. `alone`: nothing else of the host started
    /// meanwhile. Returns whether the snapshot is to be removed.
    pub fn restore_failed(&mut self, error: &RestoreError, alone: bool, ordered: Instant, now: Instant) -> bool {
        self.failures += 1;
        self.cold_starts += 1;
        self.error = Some(error.to_string().into());
        if self.discarded.is_some_and(|discarded| ordered <= discarded) {
            // Of a burst with the discarded snapshot: this says nothing about the next one.
            return false;
        }
        if matches!(error, RestoreError::TimedOut(_)) && !alone && self.is_excused(now) {
            return false;
        }
        self.failed_restores.retain(|at| now - *at < RESTORE_WINDOW);
        self.failed_restores.push(now);
        let count = self.failed_restores.len();
        if count >= GIVEN_UP_AT {
            self.state = State::GivenUp;
        }
        if count >= DISCARDED_AT {
            (self.snapshot, self.discarded) = (None, Some(now));
        }
        count >= DISCARDED_AT
    }

    /// Returns whether a restore that took too long beside other starts says nothing of its snapshot.
    fn is_excused(&mut self, now: Instant) -> bool {
        if self.busy_since.is_none_or(|since| now - since >= BUSY_SPELL) {
            self.busy_since = Some(now);
            self.busy_spells += 1;
        }
        self.busy_spells <= EXCUSED_SPELLS
    }

    fn end_busy_spells(&mut self) {
        (self.busy_spells, self.busy_since) = (0, None);
    }

    /// Returns since when a template is due.
    pub fn template_due(&self, now: Instant) -> Option<Instant> {
        match self.state {
            State::Due(from) => Some(from).filter(|from| *from <= now),
            State::Off | State::Idle | State::Making(_) | State::GivenUp => None,
        }
    }

    /// Returns when a template will be due, or will not wait for a quiet moment any longer.
    pub fn next_template(&self, now: Instant) -> Option<Instant> {
        match self.state {
            State::Due(from) => [from, from + TEMPLATE_PATIENCE].into_iter().find(|at| *at > now),
            State::Off | State::Idle | State::Making(_) | State::GivenUp => None,
        }
    }

    /// Records that a template was started.
    pub fn template_started(&mut self, id: InstanceId) {
        self.state = State::Making(id);
    }

    /// Records that the template's snapshot was taken.
    pub fn captured(&mut self, id: InstanceId, snapshot: SnapshotInfo, now: Instant) {
        if self.state != State::Making(id) {
            return;
        }
        (self.state, self.snapshot, self.captured) = (State::Idle, Some(snapshot), Some(now));
        (self.failed_captures, self.error) = (0, None);
        self.end_busy_spells();
    }

    /// Records that the template did not become ready, or that its snapshot could not be taken.
    pub fn capture_failed(&mut self, id: InstanceId, why: &str, now: Instant) {
        if self.state != State::Making(id) {
            return;
        }
        self.state = match RETRY_PAUSES.get(self.failed_captures) {
            Some(pause) => State::Due(now + *pause),
            None => State::GivenUp,
        };
        self.failed_captures += 1;
        self.error = Some(why.into());
    }

    /// Records that the template was stopped before its snapshot was taken.
    pub fn interrupted(&mut self, id: InstanceId, now: Instant) {
        if self.state == State::Making(id) {
            self.state = State::Due(now + INTERRUPTED_PAUSE);
        }
    }

    /// Orders a snapshot, also if there is one or it was given up. Returns whether the spec wants snapshots.
    pub fn order(&mut self, now: Instant) -> bool {
        if matches!(self.state, State::Idle | State::Due(_) | State::GivenUp) {
            (self.state, self.failed_captures) = (State::Due(now), 0);
            self.failed_restores.clear();
        }
        self.state != State::Off
    }

    /// Records that the snapshot was removed. Returns whether there was one.
    pub fn removed(&mut self) -> bool {
        self.snapshot.take().is_some()
    }

    /// Returns what is shown. `None`: the spec wants no snapshot.
    pub fn status(&self) -> Option<CloningStatus> {
        let name = match self.state {
            State::Off => return None,
            State::Making(_) => "making",
            State::GivenUp => "failing",
            State::Due(_) if self.failed_captures > 0 => "failing",
            _ if self.snapshot.is_some() => "ready",
            State::Idle | State::Due(_) => "none",
        };
        let Self { snapshot, restores, failures, ref error, .. } = *self;
        Some(CloningStatus { name, snapshot, restores, failures, error: error.clone() })
    }
}

/// What the FunctionActor publishes of its snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CloningStatus {
    name: &'static str,
    snapshot: Option<SnapshotInfo>,
    restores: u64,
    failures: u64,
    error: Option<Arc<str>>,
}

/// What `/debug` shows of a function's snapshot.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SnapshotReport {
    /// `none`, `making`, `ready` or `failing`.
    pub state: &'static str,
    /// Its size on disk.
    pub bytes: u64,
    /// How old it is.
    pub age_seconds: Option<f64>,
    /// Clones that were restored from it or from earlier ones.
    pub restores: u64,
    /// Clones that could not be restored.
    pub failures: u64,
    /// The last failure.
    pub error: Option<Arc<str>>,
}

impl From<&CloningStatus> for SnapshotReport {
    fn from(status: &CloningStatus) -> Self {
        let CloningStatus { name, snapshot, restores, failures, error } = status.clone();
        Self {
            state: name,
            bytes: snapshot.map_or(0, |snapshot| snapshot.bytes),
            age_seconds: snapshot.map(|snapshot| rounded_seconds(snapshot.taken.elapsed())),
            restores,
            failures,
            error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wall_time::WallTime;

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn snapshot() -> SnapshotInfo {
        SnapshotInfo { bytes: 7, taken: WallTime::now() }
    }

    fn failed(why: &str) -> RestoreError {
        RestoreError::Failed(why.to_owned())
    }

    /// Records so many restores that took too long beside each other, and returns which of them discard the snapshot.
    fn time_out<const COUNT: usize>(cloning: &mut Cloning, now: Instant) -> [bool; COUNT] {
        let error = RestoreError::TimedOut("2 s".to_owned());
        [(); COUNT].map(|()| cloning.restore_failed(&error, false, now - secs(2), now))
    }

    fn cloning() -> Cloning {
        let mut cloning = Cloning::default();
        cloning.configure(true, None);
        cloning
    }

    fn is_due(cloning: &Cloning, now: Instant) -> bool {
        cloning.template_due(now).is_some()
    }

    fn state(cloning: &Cloning) -> &'static str {
        cloning.status().map_or("off", |status| status.name)
    }

    fn made(cloning: &mut Cloning, now: Instant) {
        let id = InstanceId::random();
        cloning.template_started(id);
        assert_eq!(state(cloning), "making");
        cloning.captured(id, snapshot(), now);
        assert_eq!(state(cloning), "ready");
    }

    #[test]
    fn snapshot_is_due_after_a_cold_start_that_could_have_been_a_restore() {
        let (mut cloning, now) = (cloning(), Instant::now());
        assert!(cloning.may_restore() && !is_due(&cloning, now));
        cloning.started_cold(true, now, now);
        assert!(is_due(&cloning, now) && cloning.next_template(now) == Some(now + TEMPLATE_PATIENCE));
        assert_eq!(cloning.next_template(now + TEMPLATE_PATIENCE), None);
        made(&mut cloning, now);
        assert!(!is_due(&cloning, now));
        cloning.started_cold(false, now, now);
        assert!(!is_due(&cloning, now), "a cold start that was ordered says nothing");
        cloning.started_cold(true, now + secs(1), now + secs(1));
        assert!(is_due(&cloning, now + secs(1)), "the snapshot does not fit any more");
    }

    #[test]
    fn instances_that_were_ordered_before_a_snapshot_say_nothing_of_it() {
        let (mut cloning, now, id) = (cloning(), Instant::now(), InstanceId::random());
        cloning.started_cold(true, now, now);
        cloning.template_started(id);
        cloning.captured(id, snapshot(), now + secs(2));
        cloning.started_cold(true, now + secs(1), now + secs(3));
        assert!(!is_due(&cloning, now + secs(3)));
        cloning.started_cold(true, now + secs(3), now + secs(4));
        assert!(is_due(&cloning, now + secs(4)));
    }

    #[test]
    fn function_that_wants_no_snapshot_has_none() {
        let (mut cloning, now) = (Cloning::default(), Instant::now());
        cloning.started_cold(true, now, now);
        assert!(!cloning.may_restore() && !is_due(&cloning, now) && !cloning.order(now));
        assert_eq!(cloning.status(), None);
        cloning.configure(true, Some(snapshot()));
        assert_eq!(state(&cloning), "ready");
    }

    #[test]
    fn failed_captures_are_tried_again_three_times() {
        let (mut cloning, mut now) = (cloning(), Instant::now());
        cloning.started_cold(true, now, now);
        for pause in [60, 600, 3600] {
            let id = InstanceId::random();
            cloning.template_started(id);
            cloning.capture_failed(InstanceId::random(), "another one", now);
            assert_eq!(state(&cloning), "making");
            cloning.capture_failed(id, "full", now);
            assert_eq!((state(&cloning), cloning.next_template(now)), ("failing", Some(now + secs(pause))));
            assert!(!is_due(&cloning, now));
            now += secs(pause);
            assert!(is_due(&cloning, now));
        }
        let id = InstanceId::random();
        cloning.template_started(id);
        cloning.capture_failed(id, "full", now);
        assert_eq!((state(&cloning), cloning.next_template(now)), ("failing", None));
        cloning.started_cold(true, now, now);
        assert!(!is_due(&cloning, now + secs(100_000)));
        cloning.configure(true, None);
        assert_eq!((state(&cloning), cloning.status().unwrap().error), ("none", None));
    }

    #[test]
    fn interrupted_capture_is_no_failure() {
        let (mut cloning, now) = (cloning(), Instant::now());
        cloning.started_cold(true, now, now);
        let id = InstanceId::random();
        cloning.template_started(id);
        cloning.interrupted(id, now);
        assert_eq!((state(&cloning), cloning.next_template(now)), ("none", Some(now + secs(60))));
    }

    #[test]
    fn each_failed_restore_is_followed_by_a_cold_start() {
        let (mut cloning, now) = (cloning(), Instant::now());
        cloning.started_cold(true, now, now);
        made(&mut cloning, now);
        assert!(!cloning.restore_failed(&failed("corrupt"), true, now, now), "the first one may be bad luck");
        assert_eq!([cloning.may_restore(), cloning.may_restore()], [false, true]);
        assert!(cloning.restore_failed(&failed("corrupt"), true, now + secs(3598), now + secs(3598)));
        assert_eq!(state(&cloning), "none");
        assert!(!cloning.may_restore());
        cloning.started_cold(false, now, now);
        assert!(is_due(&cloning, now), "it is made anew");
        made(&mut cloning, now);
        assert!(cloning.restore_failed(&failed("corrupt"), true, now + secs(3599), now + secs(3599)));
        assert_eq!(state(&cloning), "failing");
        assert!(!cloning.may_restore() && !cloning.may_restore());
        assert!(cloning.order(now) && is_due(&cloning, now));
    }

    #[test]
    fn failed_restores_count_for_an_hour() {
        let (mut cloning, now) = (cloning(), Instant::now());
        cloning.configure(true, Some(snapshot()));
        for hours in 0..5 {
            assert!(!cloning.restore_failed(&failed("slow"), true, now + secs(hours * 3600), now + secs(hours * 3600)));
        }
        assert_eq!((state(&cloning), cloning.status().unwrap().failures), ("ready", 5));
    }

    #[test]
    fn failed_restores_of_a_burst_discard_one_snapshot() {
        let (mut cloning, now) = (cloning(), Instant::now());
        cloning.started_cold(true, now, now);
        made(&mut cloning, now);
        let discards = [1, 2, 3, 4].map(|at| cloning.restore_failed(&failed("killed"), true, now, now + secs(at)));
        assert_eq!(discards, [false, true, false, false]);
        assert_eq!([(); 5].map(|()| cloning.may_restore()), [false, false, false, false, true]);
        cloning.started_cold(false, now + secs(5), now + secs(5));
        assert!(is_due(&cloning, now + secs(5)), "it is made anew");
        made(&mut cloning, now);
        assert!(cloning.restore_failed(&failed("killed"), true, now + secs(6), now + secs(7)));
        assert_eq!(state(&cloning), "failing");
    }

    #[test]
    fn restores_that_take_too_long_on_a_busy_host_do_not_count() {
        let (mut cloning, now) = (cloning(), Instant::now());
        made(&mut cloning, now);
        for hours in 1..9 {
            let now = now + secs(hours * 1200);
            assert_eq!(time_out(&mut cloning, now), [false; 50], "{hours}");
            assert_eq!(time_out(&mut cloning, now + secs(60)), [false; 50], "{hours}");
            cloning.restored();
        }
        assert_eq!((state(&cloning), cloning.status().unwrap().failures), ("ready", 800));
        assert!(!cloning.may_restore(), "the next ones are cold");
    }

    #[test]
    fn restores_that_take_too_long_without_another_start_count() {
        let (mut cloning, now) = (cloning(), Instant::now());
        made(&mut cloning, now);
        let late = RestoreError::TimedOut("2 s".to_owned());
        let discards = [2, 4].map(|at| cloning.restore_failed(&late, true, now + secs(at - 1), now + secs(at)));
        assert_eq!(discards, [false, true]);
        made(&mut cloning, now);
        assert!(cloning.restore_failed(&late, true, now + secs(5), now + secs(6)));
        assert_eq!(state(&cloning), "failing");
    }

    #[test]
    fn errors_count_on_a_busy_host_as_well() {
        let (mut cloning, now) = (cloning(), Instant::now());
        made(&mut cloning, now);
        assert_eq!(time_out(&mut cloning, now), [false; 2]);
        let discards = [2, 4].map(|at| cloning.restore_failed(&failed("corrupt"), false, now, now + secs(at)));
        assert_eq!(discards, [false, true]);
    }

    #[test]
    fn snapshot_whose_clones_always_hang_is_discarded_on_a_host_that_is_always_busy() {
        let (mut cloning, start) = (cloning(), Instant::now());
        for (at, discards) in [(100, [false, true, false]), (400, [true, false, false])] {
            made(&mut cloning, start + secs(at));
            for spell in 1..3 {
                assert_eq!(time_out(&mut cloning, start + secs(at + spell * 60)), [false; 3]);
            }
            assert_eq!(time_out(&mut cloning, start + secs(at + 180)), discards);
        }
        assert_eq!(state(&cloning), "failing");
    }
}
