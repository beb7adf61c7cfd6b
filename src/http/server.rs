//! The listeners: who is let in, and requests sorted into invocations, callbacks and pages.
//!
//! actix-server accepts connections and spreads them over its workers; from there on each connection is one future of ours,
//! and everything about it lives in there: dropping it, for whatever reason, ends all that it had under way. HTTP/1.1 is
//! spoken by `wire/` and not by actix-http, whose general-purpose dispatcher took 22,000 of the 39,000 instructions of a
//! warm request (15,000 are left) and hid what a proxy has to know: that a client has left, how long it takes for what, and
//! what was wrong with what it sent. An actix-web `App` still serves the pages for people (`pages.rs`).

use std::{net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use actix_server::GracefulShutdownSignal;
use actix_service::{ServiceFactory, fn_factory, fn_service};
use tokio::net::TcpStream;

use super::{
    Shared,
    admin::Audience,
    client::{Client, Next, Terms},
    clock::Clock,
    crowd::Crowd,
    gate::{self, Door},
    invoke::{Fate, Invoker, PREFIX},
    pages::Pages,
    ready,
    request_id::RequestId,
    room::Room,
    status::Failure,
    wire::MAX_HEAD,
};

/// Between two looks at the clock, the crowd and the connections to instances.
const TURN: Duration = Duration::from_secs(1);
/// Connections that there may be at the admin listener, and at the one for callbacks. Each is over in no time.
const ADMIN_PLACES: usize = 64;
const CALLBACK_PLACES: usize = 1024;
/// Of those, as many for one address.
const PLACES_EACH: usize = 32;
/// A callback is the path that the instance was given, and little else.
const CALLBACK_HEAD: usize = 8 * 1024;

/// What is served at a listener, and to whom.
#[derive(Debug, Clone)]
pub struct Listener {
    door: Door,
    audience: Audience,
    room: Arc<Room>,
    terms: Terms,
}

impl Listener {
    /// The one where functions are invoked. `audience`: to whom the admin pages are shown there.
    pub fn front(audience: Audience, shared: &Shared) -> Self {
        let terms = Terms { timeout: shared.limits.client_timeout, head: MAX_HEAD, keep_alive: true };
        Self { door: Door::Front, audience, room: shared.room.clone(), terms }
    }

    /// The one with the admin pages, at that address.
    pub fn admin(at: SocketAddr, shared: &Shared) -> Self {
        let room = Room::new(ADMIN_PLACES, PLACES_EACH);
        Self { door: Door::Admin, audience: Audience::at(at), room, ..Self::front(Audience::Nobody, shared) }
    }

    /// The one where instances call back.
    pub fn callback(shared: &Shared) -> Self {
        let terms = Terms { timeout: shared.limits.client_timeout, head: CALLBACK_HEAD, keep_alive: false };
        let room = Room::new(CALLBACK_PLACES, PLACES_EACH);
        Self { door: Door::Callback, audience: Audience::Nobody, room, terms }
    }

    /// What serves a connection. To be called on each worker's own thread.
    ///
    /// `last_call` resolves when the server is told to stop, after everything was drained.
    pub fn service(
        self,
        shared: Arc<Shared>,
        last_call: GracefulShutdownSignal,
    ) -> impl ServiceFactory<TcpStream, Config = (), Response = (), Error = (), InitError = ()> {
        fn_factory(move || {
            let (listener, shared, last_call) = (self.clone(), shared.clone(), last_call.clone());
            async move {
                let worker = Rc::new(Worker::new(listener, shared).await?);
                tend(&worker, last_call);
                Ok(fn_service(move |connection| {
                    let worker = worker.clone();
                    async move {
                        worker.serve(connection).await;
                        Ok(())
                    }
                }))
            }
        })
    }
}

/// What one HTTP worker has for all connections of a listener.
pub struct Worker {
    shared: Arc<Shared>,
    door: Door,
    terms: Terms,
    crowd: Rc<Crowd>,
    invoker: Invoker,
    /// Where there are any.
    pages: Option<Pages>,
    clock: Rc<Clock>,
}

/// Does what is to be done now and then, for as long as the worker lives.
fn tend(worker: &Rc<Worker>, last_call: GracefulShutdownSignal) {
    let worker = Rc::downgrade(worker);
    let crowd = worker.clone();
    actix_rt::spawn(async move {
        last_call.notified().await;
        if let Some(worker) = crowd.upgrade() {
            worker.crowd.close();
        }
    });
    actix_rt::spawn(async move {
        let mut turn = tokio::time::interval(TURN);
        loop {
            turn.tick().await;
            let Some(worker) = worker.upgrade() else { return };
            worker.clock.tick();
            worker.crowd.sweep();
            worker.invoker.sweep();
        }
    });
}

impl Worker {
    pub async fn new(listener: Listener, shared: Arc<Shared>) -> Result<Self, ()> {
        let Listener { door, audience, room, terms } = listener;
        let pages = match door {
            Door::Front | Door::Admin => Some(Pages::new(shared.clone(), audience).await?),
            Door::Callback => None,
        };
        let (crowd, invoker, clock) = (Crowd::new(room), Invoker::new(shared.clone()), Rc::new(Clock::new()));
        Ok(Self { shared, door, terms, crowd, invoker, pages, clock })
    }

    /// Serves a client's connection to its end.
    pub async fn serve(&self, connection: TcpStream) {
        let Some((ends, guest)) = gate::let_in(self.door, &self.shared, &self.crowd, &connection) else { return };
        let mut client = Client::new(connection, ends, guest, self.terms, self.clock.clone());
        loop {
            let unnamed = || RequestId::of(None);
            match client.next_request().await {
                Next::Request if !client.guest.is_welcome() => client.refuse(&Failure::Crowded, None, &unnamed()),
                Next::Request if self.is_invocation(&client) => {
                    if self.invoker.invoke(&mut client).await == Fate::BrokenOff {
                        return;
                    }
                }
                Next::Request => match &self.pages {
                    Some(pages) => Box::pin(pages.show(&mut client)).await,
                    None => ready::hear(&mut client, &self.shared).await,
                },
                Next::Nonsense(error) => client.refuse(&error.into(), None, &unnamed()),
                Next::Slow => client.refuse(&Failure::HeadTimedOut, None, &unnamed()),
                Next::Nothing => return,
            }
            if client.flush().await.is_err() {
                return;
            }
            if !client.keep_alive || !client.skip_body().await {
                return client.say_goodbye().await;
            }
        }
    }

    fn is_invocation(&self, client: &Client) -> bool {
        self.door == Door::Front && client.request.path_and_query().starts_with(PREFIX)
    }
}
