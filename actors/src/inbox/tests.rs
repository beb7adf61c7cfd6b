//! The decisions about attempts, and the writer over a store in memory.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::{
    settle::{Tried, settle},
    store::Removal,
    *,
};
use crate::spec::AsyncSpec;

const NOW: UnixMillis = UnixMillis(1_000_000);

fn tried(attempts: u32) -> Tried {
    Tried { attempts, untouched: 1, deadline: NOW.after(Duration::from_secs(3600)) }
}

fn answered(status: u16) -> Outcome {
    Outcome::Answered { status, retry_after: None }
}

fn decide(attempts: u32, outcome: Outcome) -> Settlement {
    settle(tried(attempts), outcome, &AsyncSpec::default(), NOW, 1.0)
}

fn retry(after_ms: u64, counts: bool) -> Settlement {
    Settlement::Retry { due: UnixMillis(NOW.0 + after_ms), counts }
}

fn dead(reason: DeadReason, status: Option<u16>) -> Settlement {
    Settlement::Dead { reason, status }
}

#[test]
fn an_answer_is_done_rejected_or_tried_again() {
    for status in [200, 204, 302, 304, 399] {
        assert_eq!(decide(1, answered(status)), Settlement::Done { status });
    }
    for status in [400, 401, 404, 409, 410, 422, 499] {
        assert_eq!(decide(1, answered(status)), dead(DeadReason::Rejected, Some(status)));
    }
    for status in [408, 425, 429, 500, 503, 599] {
        assert_eq!(decide(1, answered(status)), retry(1000, true), "{status}");
        assert_eq!(decide(2, answered(status)), retry(2000, true), "{status}");
        assert_eq!(decide(3, answered(status)), dead(DeadReason::AttemptsExhausted, Some(status)));
    }
    assert_eq!(decide(1, Outcome::Unservable), dead(DeadReason::Rejected, None));
    assert_eq!(
        (decide(1, Outcome::Failed), decide(3, Outcome::Failed)),
        (retry(1000, true), dead(DeadReason::AttemptsExhausted, None))
    );
}

#[test]
fn an_attempt_that_touched_no_instance_does_not_count() {
    let untouched = |retry_after| decide(99, Outcome::Untouched { retry_after });
    assert_eq!(untouched(None), retry(200, false));
    assert_eq!(untouched(Some(Duration::from_secs(7))), retry(7000, false));
}

#[test]
fn retry_after_is_waited_and_max_age_ends_everything() {
    let asked = Outcome::Answered { status: 503, retry_after: Some(Duration::from_secs(60)) };
    assert_eq!(decide(1, asked), retry(60_000, true));
    let spec = AsyncSpec::default();
    let soon = Tried { deadline: NOW.after(Duration::from_millis(300)), ..tried(1) };
    assert_eq!(settle(soon, asked, &spec, NOW, 1.0), retry(300, true));
    let late = Tried { deadline: NOW, ..tried(1) };
    assert_eq!(settle(late, asked, &spec, NOW, 1.0), dead(DeadReason::Expired, Some(503)));
    assert_eq!(settle(late, answered(200), &spec, NOW, 1.0), Settlement::Done { status: 200 });
}

/// A writer over a store in memory, and the facts that it reports.
struct Rig {
    writer: StoreWriter<MemoryStore>,
    facts: Arc<Mutex<Vec<StoreFact>>>,
}

impl Rig {
    fn open(store: MemoryStore) -> Self {
        let facts = Arc::<Mutex<Vec<StoreFact>>>::default();
        let reported = facts.clone();
        let writer = StoreWriter::open(store, NOW, move |fact| reported.lock().unwrap().push(fact)).unwrap();
        Self { writer, facts }
    }

    fn ask<T>(&mut self, command: impl FnOnce(Reply<T>) -> Command) -> Option<T> {
        let (reply, mut answer) = oneshot::channel();
        self.writer.run(vec![command(reply)], NOW);
        answer.try_recv().ok()
    }

    fn enqueue(&mut self, new: NewInvocation) -> Result<Stored, EnqueueRefusal> {
        self.ask(|reply| Command::Enqueue(Box::new(new), reply)).unwrap()
    }

    fn start(&mut self, seq: Seq, epoch: u32) -> Option<Box<Begun>> {
        self.ask(|reply| Command::Start { seq, epoch, reply }).unwrap()
    }

    fn settle(&mut self, seq: Seq, epoch: u32, settlement: Settlement) {
        let (was_running, response, keep) = (true, None, Duration::from_secs(60));
        let settle = Settle { seq, epoch, was_running, settlement, response, keep };
        self.writer.run(vec![Command::Settle(Box::new(settle))], NOW);
    }

    fn last_fact(&self) -> StoreFact {
        self.facts.lock().unwrap().last().unwrap().clone()
    }
}

fn new(key: Option<&str>, body: &'static str) -> NewInvocation {
    NewInvocation {
        function: "f".into(),
        request: StoredRequest::new("POST", "/x", Bytes::from_static(body.as_bytes())),
        key: key.map(Into::into),
        callback: None,
        delay: Duration::ZERO,
        max_age: Duration::from_secs(10),
        queue: 2,
        firing: None,
        for_site: false,
    }
}

#[test]
fn the_same_key_is_the_same_invocation_or_refused() {
    let mut rig = Rig::open(MemoryStore::default());
    let first = rig.enqueue(new(Some("k"), "a")).unwrap();
    assert!(!first.is_duplicate);
    assert_eq!(rig.enqueue(new(Some("k"), "a")), Ok(Stored { id: first.id, is_duplicate: true }));
    assert_eq!(rig.enqueue(new(Some("k"), "b")), Err(EnqueueRefusal::KeyReused));
    assert!(rig.enqueue(new(None, "a")).is_ok());
    assert_eq!(rig.enqueue(new(None, "a")), Err(EnqueueRefusal::Full { queued: 2 }));
    assert_eq!(
        rig.enqueue(new(Some("k"), "a")),
        Ok(Stored { id: first.id, is_duplicate: true }),
        "a full queue has it"
    );
}

#[test]
fn an_instant_of_a_trigger_is_stored_once() {
    let mut rig = Rig::open(MemoryStore::default());
    let open = |rig: &mut Rig, seen| {
        let (trigger, seen) = ("cron/f/0".to_owned(), UnixMillis(seen));
        let record = rig.ask(|reply| Command::OpenTrigger { trigger, seen, reply }).unwrap();
        (record.settled.0, record.has_fired)
    };
    assert_eq!(open(&mut rig, 7), (7, false));
    assert_eq!(open(&mut rig, 8), (7, false), "it was seen before");
    assert_eq!(open(&mut rig, 5), (5, false), "the clock was set back, and nothing has fired");
    let fired = |at| NewInvocation {
        firing: Some(Firing { trigger: "cron/f/0".to_owned(), instant: UnixMillis(at) }),
        queue: 9,
        ..new(None, "")
    };
    assert!(rig.enqueue(fired(10)).is_ok());
    assert_eq!(rig.enqueue(fired(10)), Err(EnqueueRefusal::AlreadyFired));
    assert_eq!(rig.enqueue(fired(9)), Err(EnqueueRefusal::AlreadyFired));
    assert!(rig.enqueue(fired(11)).is_ok());
    assert_eq!([12, 3].map(|seen| open(&mut rig, seen)), [(11, true); 2]);
}

#[test]
fn an_outcome_of_an_older_epoch_changes_nothing() {
    let mut rig = Rig::open(MemoryStore::default());
    rig.enqueue(new(None, "a")).unwrap();
    assert_eq!(rig.start(1, 0).unwrap().record.epoch, 1);
    assert!(rig.start(1, 0).is_none() && rig.start(1, 1).is_none(), "it is running");
    let store = rig.writer.store().clone();
    let mut rig = Rig::open(store);
    rig.settle(1, 1, Settlement::Done { status: 200 });
    assert_eq!(rig.last_fact(), StoreFact::Stale(1), "the daemon has ended meanwhile");
    let begun = rig.start(1, 2).unwrap();
    assert_eq!((begun.record.attempts, begun.record.epoch), (2, 3));
    rig.settle(1, 3, Settlement::Done { status: 200 });
    assert!(matches!(rig.last_fact(), StoreFact::Settled(record) if record.state.is_ended()));
    assert_eq!(rig.writer.unended(), 0);
}

#[test]
fn only_what_has_not_begun_is_cancelled() {
    let mut rig = Rig::open(MemoryStore::default());
    let (one, other) = (rig.enqueue(new(None, "a")).unwrap().id, rig.enqueue(new(None, "b")).unwrap().id);
    rig.start(1, 0).unwrap();
    let remove = |rig: &mut Rig, id| rig.ask(|reply| Command::Remove(id, reply)).unwrap();
    assert_eq!(remove(&mut rig, one), Removal::Running);
    assert!(matches!(remove(&mut rig, other), Removal::Cancelled(_)));
    assert_eq!(remove(&mut rig, other), Removal::Unknown);
    rig.settle(1, 1, Settlement::Done { status: 200 });
    assert_eq!((remove(&mut rig, one), rig.writer.unended()), (Removal::Forgotten { dead_of: None }, 0));
}

#[test]
fn a_dead_letter_is_redriven_with_its_full_age() {
    let mut rig = Rig::open(MemoryStore::default());
    let id = rig.enqueue(new(None, "a")).unwrap().id;
    rig.start(1, 0).unwrap();
    let redrive = |rig: &mut Rig| rig.ask(|reply| Command::Redrive(id, reply)).unwrap();
    assert_eq!(redrive(&mut rig), None);
    rig.settle(1, 1, dead(DeadReason::Rejected, Some(400)));
    let record = redrive(&mut rig).unwrap();
    assert_eq!((record.attempts, record.epoch, record.deadline), (0, 2, NOW.after(Duration::from_secs(10))));
    assert_eq!(rig.last_fact(), StoreFact::Queued(record.entry().unwrap()));
    assert_eq!(rig.writer.unended(), 1);
}

#[test]
fn a_question_waits_for_the_end_if_it_is_to() {
    let mut rig = Rig::open(MemoryStore::default());
    let id = rig.enqueue(new(None, "a")).unwrap().id;
    rig.start(1, 0).unwrap();
    let (reply, mut answer) = oneshot::channel();
    rig.writer.run(vec![Command::Find { id, awaits_end: true, reply }], NOW);
    assert!(answer.try_recv().is_err());
    assert!(rig.ask(|reply| Command::Find { id, awaits_end: false, reply }).unwrap().is_some());
    rig.settle(1, 1, Settlement::Done { status: 200 });
    assert_eq!(answer.try_recv().unwrap().unwrap().state, State::Done { ended: NOW, status: 200 });
}
