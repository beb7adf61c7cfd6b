//! Minutes of a host on which something always starts, in virtual time: templates start there all the same, and no
//! request waits longer for them.

use std::{
    cell::Cell,
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::time::Instant;

use super::super::{
    HostLimits, StartKind, StartRequest, TEMPLATE_PATIENCE, Urgency,
    ledger::{Admitted, Ledger},
};
use crate::{
    id::{FunctionKey, InstanceId},
    seeds::for_each_seed,
};

const SEEDS: u64 = 10;
/// In MiB, of each instance.
const MEMORY: u64 = 100;
const SPAN: Duration = Duration::from_secs(600);
/// The functions that want a snapshot. Each request is of a function of its own, with a greater key.
const TEMPLATES: FunctionKey = 4;
/// From the start of a template to the end of its capture.
const CAPTURE: Duration = Duration::from_secs(2);
/// The longest start.
const LONGEST_START: Duration = Duration::from_secs(3);
/// When a template is due again that had to end.
const RETRY: Duration = Duration::from_secs(60);

/// Of a request: when it arrives, and how long its instance starts and serves.
type Arrival = (Duration, Duration, Duration);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrives(FunctionKey),
    Due(FunctionKey),
    /// A template does not wait for a moment at which nothing starts any longer.
    Waited,
    Started(FunctionKey, InstanceId),
    Ended(FunctionKey, InstanceId),
}

struct Host<'a> {
    arrivals: &'a [Arrival],
    ledger: Ledger,
    events: BinaryHeap<Reverse<(Instant, Event)>>,
    origin: Instant,
    now: Instant,
    /// How long each request has waited for its start.
    waits: BTreeMap<FunctionKey, Duration>,
    /// How long each template has waited.
    template_waits: BTreeMap<FunctionKey, Duration>,
    templates_ended: usize,
    /// How long nothing started.
    quiet: Duration,
}

impl<'a> Host<'a> {
    fn new(arrivals: &'a [Arrival], memory: u64, with_templates: bool, origin: Instant) -> Self {
        let mut host = Self {
            arrivals,
            ledger: Ledger::new(HostLimits { memory, process_starts: 2, starts: 2 }),
            events: BinaryHeap::new(),
            origin,
            now: origin,
            waits: BTreeMap::new(),
            template_waits: BTreeMap::new(),
            templates_ended: 0,
            quiet: Duration::ZERO,
        };
        for (key, (at, ..)) in (TEMPLATES..).zip(arrivals) {
            host.schedule(*at, Event::Arrives(key));
        }
        for key in (0..TEMPLATES).filter(|_| with_templates) {
            host.schedule(Duration::from_secs(10), Event::Due(key));
        }
        host
    }

    fn schedule(&mut self, after: Duration, event: Event) {
        self.events.push(Reverse((self.now + after, event)));
    }

    fn run(mut self) -> Self {
        while let Some(Reverse((at, event))) = self.events.pop() {
            if self.ledger.starting() == 0 && at <= self.origin + SPAN {
                self.quiet += at - self.now;
            }
            self.now = at;
            match event {
                Event::Arrives(key) => self.request(key, Urgency::Caller(at)),
                Event::Due(key) => self.request(key, Urgency::Template(at)),
                Event::Started(_, instance) => self.ledger.set_started(instance, at),
                Event::Waited => {}
                // A template that had to end is gone already.
                Event::Ended(_, instance) => self.ledger.release(instance, at),
            }
            self.advance();
        }
        self
    }

    fn request(&mut self, key: FunctionKey, urgency: Urgency) {
        self.ledger.request(key, StartRequest { memory: MEMORY, kind: StartKind::Isolated, urgency }).expect("it fits");
    }

    fn advance(&mut self) {
        loop {
            while let Some(admitted) = self.ledger.admit_next(self.now) {
                let Admitted::Start(start) = admitted else { panic!("{admitted:?}: nothing is paused") };
                let (key, instance) = (start.function, start.instance);
                if key < TEMPLATES {
                    self.template_waits.entry(key).or_insert(self.now - self.origin - Duration::from_secs(10));
                    self.schedule(CAPTURE, Event::Ended(key, instance));
                } else {
                    let (at, starts, serves) = self.arrivals[(key - TEMPLATES) as usize];
                    self.waits.insert(key, self.now - self.origin - at);
                    self.schedule(starts, Event::Started(key, instance));
                    self.schedule(starts + serves, Event::Ended(key, instance));
                }
            }
            let Some((key, instance)) = self.ledger.end_template(self.now) else { break };
            self.templates_ended += 1;
            self.ledger.release(instance, self.now);
            self.schedule(RETRY, Event::Due(key));
        }
        if let Some(at) = self.ledger.next_template(self.now) {
            self.schedule(at - self.now, Event::Waited);
        }
    }
}

/// Draws requests that come every `mean` seconds, until the end.
fn draw(seed: u64, mean: f64) -> Vec<Arrival> {
    let mut random = StdRng::seed_from_u64(seed);
    let (mut arrivals, mut at) = (Vec::new(), Duration::ZERO);
    while at < SPAN {
        let starts = LONGEST_START.mul_f64(random.random_range(0.3..1.0));
        arrivals.push((at, starts, Duration::from_secs_f64(random.random_range(0.1..2.0))));
        at += Duration::from_secs_f64(-mean * (1.0 - random.random_range(0.0..1.0_f64)).ln());
    }
    arrivals
}

#[test]
fn templates_start_where_something_always_starts() {
    for_each_seed(SEEDS, |seed| {
        // Each instance starts for two seconds, so two start at almost any time.
        let (arrivals, origin) = (draw(seed, 0.9), Instant::now());
        let with = Host::new(&arrivals, 100_000, true, origin).run();
        assert!(with.quiet < SPAN / 10, "nothing starts for {:?}", with.quiet);
        // Behind the patience, one begins whenever the one before it has ended.
        let longest = TEMPLATE_PATIENCE + CAPTURE * (TEMPLATES as u32 - 1);
        assert_eq!(with.template_waits.len(), TEMPLATES as usize);
        assert!(with.template_waits.values().all(|wait| *wait <= longest), "{:?}", with.template_waits);
        let without = Host::new(&arrivals, 100_000, false, origin).run();
        assert_eq!((with.waits, with.templates_ended), (without.waits, 0));
    });
}

#[test]
fn no_request_waits_for_the_memory_of_a_template() {
    let ended = Cell::new(0);
    for_each_seed(SEEDS, |seed| {
        let (arrivals, origin) = (draw(seed, 1.2), Instant::now());
        let with = Host::new(&arrivals, 3 * MEMORY, true, origin).run();
        let without = Host::new(&arrivals, 3 * MEMORY, false, origin).run();
        assert_eq!(with.waits, without.waits);
        assert_eq!(with.template_waits.len(), TEMPLATES as usize, "each was begun in the end");
        ended.set(ended.get() + with.templates_ended);
    });
    assert!(ended.get() > 0, "memory was never short");
}
