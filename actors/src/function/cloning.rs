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

#[cfg(test)]
mod tests;

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
