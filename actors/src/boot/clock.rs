//! The times of a start, marked phase by phase from any thread without locks.

use std::{
    array,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::Origin;

/// Marks of its own that an instance may make, and the length of their names in bytes.
const MAX_MARKS: usize = 8;
const MAX_MARK_NAME: usize = 32;

/// The phases of a start, in order. Each is marked at its end. A kind of sandbox may lack some. The first output may come
/// late or never.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Memory and a start were granted. Until then the start waits for them.
    Admitted,
    /// Ports, addresses, users and disks are there, and the journal is written.
    Resources,
    /// The sandbox was created, and nothing runs in it yet.
    Created,
    /// The program, the container or the VMM runs.
    Started,
    /// The first byte of output was read.
    FirstOutput,
    /// The callback was accepted, or the probe succeeded.
    Ready,
    /// The head of the first response was read.
    FirstByte,
}

impl Phase {
    /// Every phase, in order.
    pub const ALL: [Phase; 7] = [
        Phase::Admitted,
        Phase::Resources,
        Phase::Created,
        Phase::Started,
        Phase::FirstOutput,
        Phase::Ready,
        Phase::FirstByte,
    ];

    /// Returns the stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Phase::Admitted => "admitted",
            Phase::Resources => "resources",
            Phase::Created => "created",
            Phase::Started => "started",
            Phase::FirstOutput => "first_output",
            Phase::Ready => "ready",
            Phase::FirstByte => "first_byte",
        }
    }
}

/// The span of a start, in the trace of the request that has caused it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BootSpan {
    /// The trace.
    pub trace_id: u128,
    /// The span.
    pub span_id: u64,
}

/// The clock of one start. Clones share it.
#[derive(Debug, Clone)]
pub struct BootClock(Arc<Times>);

#[derive(Debug)]
struct Times {
    origin: Instant,
    /// Microseconds from the origin to the end of each phase, plus one; 0: not reached.
    ends: [AtomicU64; Phase::ALL.len()],
    /// The instance was restored from a snapshot.
    is_restored: AtomicBool,
    /// The span of the start, in the trace of the request that has caused it.
    span: OnceLock<BootSpan>,
    /// Made for instances that use it, which few do.
    marks: OnceLock<Box<Marks>>,
}

#[derive(Debug, Default)]
struct Marks {
    count: AtomicUsize,
    marks: [OnceLock<(Box<str>, u64)>; MAX_MARKS],
}

impl BootClock {
    /// Starts a clock at the moment when the instance was first wanted.
    pub fn new(origin: Instant) -> Self {
        let (is_restored, span, marks) = Default::default();
        Self(Arc::new(Times { origin, ends: array::from_fn(|_| AtomicU64::new(0)), is_restored, span, marks }))
    }

    /// Returns when the instance was first wanted.
    pub fn origin(&self) -> Instant {
        self.0.origin
    }

    /// Notes that a phase ends now. Only the first time counts.
    pub fn mark(&self, phase: Phase) {
        // The clock is not read in vain: output is marked with every read.
        if self.0.ends[phase as usize].load(Relaxed) == 0 {
            self.mark_at(phase, Instant::now());
        }
    }

    /// Notes that a phase ended at `at`. Only the first time counts.
    pub fn mark_at(&self, phase: Phase, at: Instant) {
        let _ = self.0.ends[phase as usize].compare_exchange(0, self.micros(at) + 1, Relaxed, Relaxed);
    }

    /// Notes that the instance was restored from a snapshot instead of booted.
    pub fn set_restored(&self) {
        self.0.is_restored.store(true, Relaxed);
    }

    /// Returns whether the instance was booted or restored.
    pub fn started_from(&self) -> Origin {
        if self.0.is_restored.load(Relaxed) { Origin::Restored } else { Origin::Cold }
    }

    /// Makes `span` the span of the start if it has none. Returns the span that it has.
    pub fn claim(&self, span: BootSpan) -> BootSpan {
        *self.0.span.get_or_init(|| span)
    }

    /// Returns the span of the start, if a traced request has caused it.
    pub fn claimed(&self) -> Option<BootSpan> {
        self.0.span.get().copied()
    }

    /// Notes a mark that the instance makes itself. Those beyond the limit are dropped.
    pub(crate) fn mark_guest(&self, name: &str) {
        let marks = self.0.marks.get_or_init(Box::default);
        let name = name[..name.floor_char_boundary(MAX_MARK_NAME)].into();
        if let Some(mark) = marks.marks.get(marks.count.fetch_add(1, Relaxed).min(MAX_MARKS)) {
            let _ = mark.set((name, self.micros(Instant::now())));
        }
    }

    /// Returns the time from the origin to the end of a phase, if that was reached.
    pub fn offset(&self, phase: Phase) -> Option<Duration> {
        let end = self.0.ends[phase as usize].load(Relaxed);
        end.checked_sub(1).map(Duration::from_micros)
    }

    /// Returns when a phase ended, if it has.
    pub fn at(&self, phase: Phase) -> Option<Instant> {
        self.offset(phase).map(|offset| self.0.origin + offset)
    }

    /// Returns the time from admission to readiness; zero before that.
    pub fn boot(&self) -> Duration {
        let ready = self.offset(Phase::Ready).unwrap_or_default();
        ready.saturating_sub(self.offset(Phase::Admitted).unwrap_or_default())
    }

    /// Returns the ends of the phases up to readiness, in an order in which none precedes another: the first output may come
    /// late, or before the phase that precedes it.
    pub fn boot_phases(&self) -> impl Iterator<Item = (Phase, Duration)> {
        let ready = self.offset(Phase::Ready).unwrap_or(Duration::MAX);
        let mut before = Duration::ZERO;
        let ends = Phase::ALL.into_iter().filter_map(|phase| Some((phase, self.offset(phase)?)));
        ends.filter(move |(_, end)| {
            (before..=ready).contains(end) && {
                before = *end;
                true
            }
        })
    }

    /// Returns the instance's own marks, with their times from the origin.
    pub(super) fn marks(&self) -> impl Iterator<Item = (&str, Duration)> {
        let marks = self.0.marks.get().into_iter().flat_map(|marks| &marks.marks);
        marks.filter_map(OnceLock::get).map(|(name, at)| (&**name, Duration::from_micros(*at)))
    }

    /// Returns how many bytes it takes.
    pub(super) fn size(&self) -> usize {
        let marks = self.0.marks.get().map_or(0, |_| size_of::<Marks>());
        size_of::<Times>() + marks + self.marks().map(|(name, _)| name.len()).sum::<usize>()
    }

    fn micros(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.0.origin).as_micros()).unwrap_or(u64::MAX - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_mark_of_a_phase_counts() {
        let clock = BootClock::new(Instant::now());
        assert_eq!((clock.offset(Phase::Admitted), clock.boot()), (None, Duration::ZERO));
        clock.mark(Phase::Admitted);
        tokio::time::advance(Duration::from_micros(1500)).await;
        clock.mark(Phase::Admitted);
        clock.clone().mark(Phase::Ready);
        assert_eq!(clock.offset(Phase::Admitted), Some(Duration::ZERO));
        assert_eq!((clock.boot(), clock.at(Phase::Ready)), (Duration::from_micros(1500), Some(Instant::now())));
        assert_eq!(clock.offset(Phase::Created), None, "a kind may lack it");
        for (position, phase) in Phase::ALL.into_iter().enumerate() {
            assert_eq!(phase as usize, position);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn marks_of_an_instance_are_bounded() {
        let clock = BootClock::new(Instant::now());
        let small = clock.size();
        for number in 0..20 {
            tokio::time::advance(Duration::from_millis(1)).await;
            clock.mark_guest(&format!("{number} {}", "é".repeat(100)));
        }
        let marks: Vec<_> = clock.marks().collect();
        assert_eq!((marks.len(), marks[7].1), (MAX_MARKS, Duration::from_millis(8)));
        assert!(marks.iter().all(|(name, _)| name.len() <= MAX_MARK_NAME) && marks[0].0.starts_with("0 é"));
        assert!(clock.size() > small + 8 * 30);
    }
}
