//! Live output for followers: each has a bounded queue of its own, so that a slow one loses lines and delays no writer.
//!
//! Without followers a line costs its sequence number. Writers and followers meet under locks that are held for a few
//! instructions per follower and chunk of output.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use tokio::sync::Notify;

use crate::{
    id::InstanceId,
    output::{LINE_OVERHEAD, OutputLine},
};

/// Bytes that a follower may be behind.
const MAX_BEHIND: usize = 256 << 10;

/// Distributes the output of instances, and numbers what happens.
#[derive(Debug)]
pub struct Feed {
    sequence: AtomicU64,
    followers: Mutex<Followers>,
    /// Whether there are followers.
    is_followed: AtomicBool,
}

#[derive(Debug, Default)]
struct Followers {
    queues: Vec<Arc<Queue>>,
    /// The daemon ends.
    closed: bool,
}

/// Which lines a follower gets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum LineFilter {
    /// None: it waits for the end of the feed only.
    #[default]
    Nothing,
    /// Those of all instances.
    All,
    /// Those of a function's instances.
    Function(String),
    /// Those of one instance.
    Instance(InstanceId),
}

/// Complete lines of one instance.
#[derive(Debug, PartialEq, Eq)]
pub struct LineBatch {
    /// The instance's function.
    pub function: Arc<str>,
    /// The instance.
    pub instance: InstanceId,
    /// At least one, in order.
    pub lines: Vec<Arc<OutputLine>>,
}

/// What a follower gets.
#[derive(Debug, PartialEq, Eq)]
pub enum FeedItem {
    /// Lines of an instance.
    Lines(Arc<LineBatch>),
    /// The follower was too far behind, and has lost so many lines at this place.
    Gap(u64),
    /// The daemon ends.
    Closed,
}

/// Receives lines until it is dropped.
#[derive(Debug)]
pub struct Follower {
    feed: Arc<Feed>,
    queue: Arc<Queue>,
}

#[derive(Debug)]
struct Queue {
    filter: LineFilter,
    state: Mutex<QueueState>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct QueueState {
    batches: VecDeque<Arc<LineBatch>>,
    bytes: usize,
    /// Lines lost behind the batches.
    lost: u64,
    closed: bool,
}

impl Default for Feed {
    fn default() -> Self {
        // The numbers of a daemon are greater than those of the daemon before, so that followers can go on after a restart.
        let start = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        let sequence = AtomicU64::new(u64::try_from(start).unwrap_or_default());
        Self { sequence, followers: Mutex::default(), is_followed: AtomicBool::default() }
    }
}

impl Feed {
    /// Returns the next number in the order of all events.
    pub fn next_sequence(&self) -> u64 {
        self.sequence.fetch_add(1, Relaxed) + 1
    }

    /// Returns the number of the last event.
    pub fn last_sequence(&self) -> u64 {
        self.sequence.load(Relaxed)
    }

    /// Adds a follower. It gets what is written from now on.
    pub fn follow(self: &Arc<Self>, filter: LineFilter) -> Follower {
        let mut followers = self.lock();
        let state = Mutex::new(QueueState { closed: followers.closed, ..QueueState::default() });
        let queue = Arc::new(Queue { filter, state, changed: Notify::new() });
        followers.queues.push(queue.clone());
        self.is_followed.store(true, Relaxed);
        Follower { feed: self.clone(), queue }
    }

    /// Ends all followers, now and later.
    pub fn close(&self) {
        let mut followers = self.lock();
        followers.closed = true;
        for queue in &followers.queues {
            queue.lock().closed = true;
            queue.changed.notify_one();
        }
    }

    /// Returns whether lines are to be [published](Self::publish).
    pub(crate) fn is_followed(&self) -> bool {
        self.is_followed.load(Relaxed)
    }

    /// Distributes lines. Never waits for a follower.
    pub(crate) fn publish(&self, batch: LineBatch) {
        let (size, batch) = (batch.size(), Arc::new(batch));
        for queue in &self.lock().queues {
            if queue.filter.includes(&batch) {
                queue.push(&batch, size);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Followers> {
        self.followers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LineBatch {
    /// Returns how many bytes it takes.
    fn size(&self) -> usize {
        self.lines.iter().map(|line| LINE_OVERHEAD + line.text.len()).sum()
    }
}

impl LineFilter {
    fn includes(&self, batch: &LineBatch) -> bool {
        match self {
            Self::Nothing => false,
            Self::All => true,
            Self::Function(function) => **function == *batch.function,
            Self::Instance(instance) => *instance == batch.instance,
        }
    }
}

impl Queue {
    fn push(&self, batch: &Arc<LineBatch>, size: usize) {
        let mut state = self.lock();
        // What follows lost lines is lost, too, until the follower knows of the gap.
        if state.lost > 0 || state.bytes + size > MAX_BEHIND {
            state.lost += batch.lines.len() as u64;
        } else {
            state.bytes += size;
            state.batches.push_back(batch.clone());
        }
        drop(state);
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Follower {
    /// Returns the next item if there is one.
    pub fn try_next(&mut self) -> Option<FeedItem> {
        if let Some(batch) = self.try_next_lines() {
            return Some(FeedItem::Lines(batch));
        }
        let mut state = self.queue.lock();
        match std::mem::take(&mut state.lost) {
            0 => state.closed.then_some(FeedItem::Closed),
            lost => Some(FeedItem::Gap(lost)),
        }
    }

    /// Returns the next lines if they are the next item.
    pub fn try_next_lines(&mut self) -> Option<Arc<LineBatch>> {
        let mut state = self.queue.lock();
        let batch = state.batches.pop_front()?;
        state.bytes -= batch.size();
        Some(batch)
    }

    /// Waits for the next item. Cancelling the wait loses nothing.
    pub async fn next(&mut self) -> FeedItem {
        loop {
            if let Some(item) = self.try_next() {
                return item;
            }
            self.queue.changed.notified().await;
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut followers = self.feed.lock();
        followers.queues.retain(|queue| !Arc::ptr_eq(queue, &self.queue));
        self.feed.is_followed.store(!followers.queues.is_empty(), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use tokio::time::Instant;

    use super::*;
    use crate::{
        boot::BootClock,
        output::{OutputLog, OutputStream::Out},
        redact::Redactor,
    };

    fn log(feed: &Arc<Feed>, function: &str) -> (OutputLog, InstanceId) {
        let instance = InstanceId::random();
        let clock = BootClock::new(Instant::now());
        (OutputLog::of(function.into(), instance, Redactor::default(), feed.clone(), clock), instance)
    }

    fn texts(follower: &mut Follower) -> Vec<String> {
        let items = std::iter::from_fn(|| follower.try_next());
        let texts = items.flat_map(|item| match item {
            FeedItem::Lines(batch) => batch.lines.iter().map(|line| line.text.to_string()).collect(),
            FeedItem::Gap(lost) => vec![format!("gap {lost}")],
            FeedItem::Closed => panic!("closed"),
        });
        texts.collect()
    }

    #[test]
    fn followers_get_the_lines_that_they_want() {
        let feed = Arc::<Feed>::default();
        let ((f, _), (g, of_g)) = (log(&feed, "f"), log(&feed, "g"));
        f.write(Out, b"before\n");
        let filters =
            [LineFilter::All, LineFilter::Function("f".to_owned()), LineFilter::Instance(of_g), LineFilter::Nothing];
        let mut followers = filters.map(|filter| feed.follow(filter));
        f.write(Out, b"one\ntw");
        g.write(Out, b"three\n");
        f.write(Out, b"o\n");
        g.note("ready");
        let expected: [&[&str]; 4] = [&["one", "three", "two", "ready"], &["one", "two"], &["three", "ready"], &[]];
        for (follower, expected) in followers.iter_mut().zip(expected) {
            assert_eq!(texts(follower), expected);
        }
        drop(followers);
        assert!(!feed.is_followed());
    }

    #[test]
    fn a_follower_that_is_behind_gets_a_gap_and_holds_a_bounded_queue() {
        let feed = Arc::<Feed>::default();
        let (f, _) = log(&feed, "f");
        let (mut slow, mut quick) = (feed.follow(LineFilter::All), feed.follow(LineFilter::All));
        let (mut of_quick, line) = (0, [&[b'x'; 999][..], b"\n"].concat());
        for _ in 0..10_000 {
            f.write(Out, &line);
            of_quick += texts(&mut quick).len();
        }
        assert_eq!(of_quick, 10_000);
        let held = slow.queue.lock().batches.len();
        assert!((200..MAX_BEHIND / 1000).contains(&held), "{held}");
        let seen = texts(&mut slow);
        assert_eq!((seen.len(), seen.last().unwrap().clone()), (held + 1, format!("gap {}", 10_000 - held)));
        f.write(Out, b"after\n");
        assert_eq!(texts(&mut slow), ["after"]);
    }

    #[test]
    fn followers_end_with_the_feed() {
        let feed = Arc::<Feed>::default();
        let (f, _) = log(&feed, "f");
        let mut follower = feed.follow(LineFilter::All);
        assert_eq!(follower.next().now_or_never(), None);
        f.write(Out, b"last\n");
        feed.close();
        assert_eq!(texts_before_end(&mut follower), 1);
        assert_eq!(feed.follow(LineFilter::All).next().now_or_never(), Some(FeedItem::Closed));
    }

    fn texts_before_end(follower: &mut Follower) -> usize {
        std::iter::from_fn(|| follower.next().now_or_never()).take_while(|item| *item != FeedItem::Closed).count()
    }

    #[test]
    fn numbers_grow() {
        let feed = Feed::default();
        let first = feed.next_sequence();
        assert_eq!((feed.next_sequence(), feed.last_sequence()), (first + 1, first + 1));
        assert!(first > 1_600_000_000_000_000, "they begin with the time, so they grow across restarts");
    }
}
