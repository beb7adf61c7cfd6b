//! Behaviour of actix that the actors rely on and that its documentation does not promise.

use std::{
    cell::RefCell,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use actix::{Actor, ActorContext, Addr, AsyncContext, Context, Handler, MailboxError, Message, ResponseFuture, System};
use tokio::time::sleep;

/// Records its messages and counts its drops.
#[derive(Default)]
struct Recorder {
    received: Rc<RefCell<Vec<usize>>>,
    dropped: Arc<AtomicUsize>,
}

impl Actor for Recorder {
    type Context = Context<Self>;
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.dropped.fetch_add(1, SeqCst);
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct Note(usize);

#[derive(Message)]
#[rtype(result = "()")]
struct Panic;

#[derive(Message)]
#[rtype(result = "()")]
struct SpawnAndStop(DropCounter);

#[derive(Message)]
#[rtype(result = "usize")]
struct Question;

struct DropCounter(Arc<AtomicUsize>);

impl Drop for DropCounter {
    fn drop(&mut self) {
        self.0.fetch_add(1, SeqCst);
    }
}

impl Handler<Note> for Recorder {
    type Result = ();

    fn handle(&mut self, Note(number): Note, _: &mut Self::Context) {
        self.received.borrow_mut().push(number);
    }
}

impl Handler<Panic> for Recorder {
    type Result = ();

    fn handle(&mut self, _: Panic, ctx: &mut Self::Context) {
        // A ready item must not be polled while the actor is dropped.
        ctx.spawn(actix::fut::wrap_future(async { panic!("polled after the panic") }));
        panic!("as planned");
    }
}

impl Handler<SpawnAndStop> for Recorder {
    type Result = ();

    fn handle(&mut self, SpawnAndStop(counter): SpawnAndStop, ctx: &mut Self::Context) {
        let received = self.received.clone();
        ctx.spawn(actix::fut::wrap_future(async move {
            let _counter = counter;
            received.borrow_mut().push(usize::MAX);
        }));
        ctx.stop();
    }
}

impl Handler<Question> for Recorder {
    type Result = ResponseFuture<usize>;

    fn handle(&mut self, _: Question, _: &mut Self::Context) -> Self::Result {
        Box::pin(async {
            sleep(Duration::from_millis(1)).await;
            7
        })
    }
}

type Received = Rc<RefCell<Vec<usize>>>;

fn recorder() -> (Addr<Recorder>, Received, Arc<AtomicUsize>) {
    let recorder = Recorder::default();
    let (received, dropped) = (recorder.received.clone(), recorder.dropped.clone());
    (recorder.start(), received, dropped)
}

/// Waits long enough for everything that can happen at once.
async fn pause() {
    sleep(Duration::from_millis(20)).await;
}

#[test]
fn do_send_ignores_the_capacity_and_keeps_the_order_of_one_thread() {
    System::new().block_on(async {
        let (address, received, _) = recorder();
        for number in 0..10_000 {
            // A fresh clone each time: the order is that of the calls, not of the addresses.
            address.clone().do_send(Note(number));
        }
        pause().await;
        assert_eq!(*received.borrow(), (0..10_000).collect::<Vec<_>>());
    });
}

#[test]
fn a_panic_drops_the_actor_without_a_message() {
    System::new().block_on(async {
        let (address, received, dropped) = recorder();
        address.do_send(Panic);
        pause().await;
        assert_eq!(dropped.load(SeqCst), 1);
        // The arbiter keeps running, and `do_send` does not report the end of the actor.
        address.do_send(Note(1));
        assert!(matches!(address.send(Note(2)).await, Err(MailboxError::Closed)));
        assert_eq!(*received.borrow(), [0; 0]);
        assert!(!address.connected());
    });
}

#[test]
fn stop_drops_waiting_messages_and_spawned_futures() {
    System::new().block_on(async {
        let (address, received, dropped) = recorder();
        let counter = Arc::new(AtomicUsize::new(0));
        address.do_send(SpawnAndStop(DropCounter(counter.clone())));
        address.do_send(Note(1));
        let answer = address.send(Question);
        assert!(matches!(answer.await, Err(MailboxError::Closed)));
        pause().await;
        assert_eq!((counter.load(SeqCst), dropped.load(SeqCst)), (1, 1));
        assert_eq!(*received.borrow(), [0; 0]);
    });
}

#[test]
fn a_send_whose_future_is_dropped_is_not_delivered() {
    System::new().block_on(async {
        let (address, received, _) = recorder();
        drop(address.send(Note(1)));
        address.do_send(Note(2));
        pause().await;
        assert_eq!(*received.borrow(), [2]);
    });
}

#[test]
fn a_response_future_outlives_its_actor() {
    System::new().block_on(async {
        let (address, _, dropped) = recorder();
        let answer = address.send(Question);
        address.do_send(Panic);
        let answer = answer.await;
        assert_eq!((answer, dropped.load(SeqCst)), (Ok(7), 1));
    });
}

#[test]
fn an_actor_with_a_timer_runs_without_an_address() {
    System::new().block_on(async {
        let actor = Recorder::default();
        let dropped = actor.dropped.clone();
        drop(Recorder::create(|ctx| {
            ctx.run_later(Duration::from_millis(40), |_, _| ());
            actor
        }));
        pause().await;
        assert_eq!(dropped.load(SeqCst), 0);
        pause().await;
        pause().await;
        assert_eq!(dropped.load(SeqCst), 1);
    });
}
