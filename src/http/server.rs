//! The front: clients' connections, and their requests sorted into invocations and pages.
//!
//! actix-server accepts connections and spreads them over its workers; from there on each connection is one future of ours,
//! and everything about it lives in there: dropping it, for whatever reason, ends all that it had under way. HTTP/1.1 is
//! spoken by `wire/` and not by actix-http, whose general-purpose dispatcher took 22,000 of the 39,000 instructions of a
//! warm request and hid what a proxy has to know: that a client has left, and what was wrong with what it sent. An
//! actix-web `App` still serves the pages for people (`pages.rs`).

use std::{pin::pin, rc::Rc, sync::Arc, time::Duration};

use actix_server::GracefulShutdownSignal;
use actix_service::{ServiceFactory, fn_factory, fn_service};
use tokio::net::TcpStream;

use super::{
    Shared,
    client::{Client, Next},
    clock::Clock,
    invoke::{Fate, Invoker, PREFIX},
    pages::Pages,
    request_id::RequestId,
    status::Failure,
};

/// Between two looks at the clock and at the connections to instances.
const TURN: Duration = Duration::from_secs(1);

/// What one HTTP worker has for all its connections.
struct Worker {
    invoker: Invoker,
    pages: Pages,
    clock: Rc<Clock>,
    /// Resolves when the server is told to stop, after everything was drained.
    last_call: GracefulShutdownSignal,
}

/// What serves a client's connection. To be called on each worker's own thread.
///
/// `admin_here`: the admin part has no listener of its own and is served here, to callers of this host alone.
pub fn service(
    shared: Arc<Shared>,
    admin_here: bool,
    last_call: GracefulShutdownSignal,
) -> impl ServiceFactory<TcpStream, Config = (), Response = (), Error = (), InitError = ()> {
    fn_factory(move || {
        let (shared, last_call) = (shared.clone(), last_call.clone());
        async move {
            let pages = Pages::new(shared.clone(), admin_here).await?;
            let worker = Worker { invoker: Invoker::new(shared), pages, clock: Rc::new(Clock::new()), last_call };
            let worker = Rc::new(worker);
            tend(&worker);
            Ok(fn_service(move |connection| {
                let worker = worker.clone();
                async move {
                    serve(&worker, connection).await;
                    Ok(())
                }
            }))
        }
    })
}

/// Does what is to be done now and then, for as long as the worker lives.
fn tend(worker: &Rc<Worker>) {
    let worker = Rc::downgrade(worker);
    actix_rt::spawn(async move {
        let mut turn = tokio::time::interval(TURN);
        loop {
            turn.tick().await;
            let Some(worker) = worker.upgrade() else { return };
            worker.clock.tick();
            worker.invoker.sweep();
        }
    });
}

/// Serves a client's connection to its end.
async fn serve(worker: &Worker, connection: TcpStream) {
    // Without it a small answer may wait for the acknowledgement of the one before.
    let _ = connection.set_nodelay(true);
    let mut client = Client::new(connection, worker.clock.clone());
    let mut last_call = pin!(worker.last_call.notified());
    loop {
        match client.next_request(last_call.as_mut()).await {
            Next::Request if client.request.path_and_query().starts_with(PREFIX) => {
                if worker.invoker.invoke(&mut client).await == Fate::BrokenOff {
                    return;
                }
            }
            Next::Request => Box::pin(worker.pages.show(&mut client)).await,
            Next::Nonsense(error) => client.refuse(&error.into(), None, &RequestId::of(None)),
            Next::Slow => client.refuse(&Failure::HeadTimedOut, None, &RequestId::of(None)),
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
