//! What the actors rely on in actix, and what its documentation does not promise.

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

/// Notes what it is told, and counts how often it is dropped.
#[derive(Default)]
struct Listener {
    heard: Rc<RefCell<Vec<usize>>>,
    dropped: Arc<AtomicUsize>,
}

impl Actor for Listener {
    type Context = Context<Self>;
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.dropped.fetch_add(1, SeqCst);
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct Say(usize);

#[derive(Message)]
#[rtype(result = "()")]
struct Panic;

#[derive(Message)]
#[rtype(result = "()")]
struct SpawnAndStop(DropCounter);

#[derive(Message)]
#[rtype(result = "usize")]
struct Answer;

struct DropCounter(Arc<AtomicUsize>);

impl Drop for DropCounter {
    fn drop(&mut self) {
        self.0.fetch_add(1, SeqCst);
    }
}

impl Handler<Say> for Listener {
    type Result = ();

    fn handle(&mut self, Say(number): Say, _: &mut Self::Context) {
        self.heard.borrow_mut().push(number);
    }
}

impl Handler<Panic> for Listener {
    type Result = ();

    fn handle(&mut self, _: Panic, ctx: &mut Self::Context) {
        // An item that is ready must not be polled on the way out.
        ctx.spawn(actix::fut::wrap_future(async { panic!("polled after the panic") }));
        panic!("as the test wants it");
    }
}

impl Handler<SpawnAndStop> for Listener {
    type Result = ();

    fn handle(&mut self, SpawnAndStop(counter): SpawnAndStop, ctx: &mut Self::Context) {
        let heard = self.heard.clone();
        ctx.spawn(actix::fut::wrap_future(async move {
            let _counter = counter;
            heard.borrow_mut().push(usize::MAX);
        }));
        ctx.stop();
    }
}

impl Handler<Answer> for Listener {
    type Result = ResponseFuture<usize>;

    fn handle(&mut self, _: Answer, _: &mut Self::Context) -> Self::Result {
        Box::pin(async {
            sleep(Duration::from_millis(1)).await;
            7
        })
    }
}

type Heard = Rc<RefCell<Vec<usize>>>;

fn listener() -> (Addr<Listener>, Heard, Arc<AtomicUsize>) {
    let listener = Listener::default();
    let (heard, dropped) = (listener.heard.clone(), listener.dropped.clone());
    (listener.start(), heard, dropped)
}

/// Long enough for everything that can happen at once.
async fn pause() {
    sleep(Duration::from_millis(20)).await;
}

#[test]
fn do_send_knows_no_capacity_and_keeps_the_order_of_one_thread() {
    System::new().block_on(async {
        let (address, heard, _) = listener();
        for number in 0..10_000 {
            // A fresh clone each time: the order is that of the calls, not of the addresses.
            address.clone().do_send(Say(number));
        }
        pause().await;
        assert_eq!(*heard.borrow(), (0..10_000).collect::<Vec<_>>());
    });
}

#[test]
fn a_panic_is_told_to_nobody_but_the_actor_is_dropped() {
    System::new().block_on(async {
        let (address, heard, dropped) = listener();
        address.do_send(Panic);
        pause().await;
        assert_eq!(dropped.load(SeqCst), 1);
        // The arbiter versions on, and whoever sends is none the wiser.
        address.do_send(Say(1));
        assert!(matches!(address.send(Say(2)).await, Err(MailboxError::Closed)));
        assert_eq!(*heard.borrow(), [0; 0]);
        assert!(!address.connected());
    });
}

#[test]
fn stop_drops_the_mail_that_waits_and_the_futures_that_were_spawned() {
    System::new().block_on(async {
        let (address, heard, dropped) = listener();
        let counter = Arc::new(AtomicUsize::new(0));
        address.do_send(SpawnAndStop(DropCounter(counter.clone())));
        address.do_send(Say(1));
        let answer = address.send(Answer);
        assert!(matches!(answer.await, Err(MailboxError::Closed)));
        pause().await;
        assert_eq!((counter.load(SeqCst), dropped.load(SeqCst)), (1, 1));
        assert_eq!(*heard.borrow(), [0; 0]);
    });
}

#[test]
fn a_send_whose_future_is_dropped_is_not_delivered() {
    System::new().block_on(async {
        let (address, heard, _) = listener();
        drop(address.send(Say(1)));
        address.do_send(Say(2));
        pause().await;
        assert_eq!(*heard.borrow(), [2]);
    });
}

#[test]
fn an_answer_that_is_on_its_way_outlives_its_actor() {
    System::new().block_on(async {
        let (address, _, dropped) = listener();
        let answer = address.send(Answer);
        address.do_send(Panic);
        let answer = answer.await;
        assert_eq!((answer, dropped.load(SeqCst)), (Ok(7), 1));
    });
}

#[test]
fn an_actor_with_a_timer_lives_on_without_an_address() {
    System::new().block_on(async {
        let actor = Listener::default();
        let dropped = actor.dropped.clone();
        drop(Listener::create(|ctx| {
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
