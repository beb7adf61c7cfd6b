//! The front: a client's connection, and its requests sorted into invocations and pages.

use std::{rc::Rc, sync::Arc, time::Duration};

use actix_http::{HttpService, KeepAlive, Request, Response, body::BoxBody, error::DispatchError};
use actix_server::GracefulShutdownSignal;
use actix_service::{Service, ServiceFactory, ServiceFactoryExt, fn_factory, fn_service};
use futures::future::LocalBoxFuture;
use tokio::net::TcpStream;

use super::{
    CLIENT_GOODBYE, CLIENT_KEEP_ALIVE, HEAD_TIMEOUT, Shared,
    admin::Audience,
    client::ClientStream,
    crowd::Crowd,
    debug,
    gate::{self, Door},
    invoke::{Invoker, PREFIX},
    pages::{Pages, pages},
    relay::Body,
    upstream::Pool,
};

/// Between two looks at the pool of connections to instances.
const SWEEP: Duration = Duration::from_secs(1);

/// What serves a client's connection. To be called on each worker's own thread.
///
/// `last_call` resolves when the server is told to stop, after everything was drained.
/// `audience`: to whom the admin pages are shown here.
pub fn service(
    shared: Arc<Shared>,
    audience: Audience,
    last_call: GracefulShutdownSignal,
) -> impl ServiceFactory<TcpStream, Config = (), Response = (), Error = DispatchError, InitError = ()> {
    let pool = Rc::new(Pool::default());
    sweep(&pool);
    let crowd = Crowd::new(shared.room.clone(), shared.limits.patience());
    crowd.tend();
    let entrance = gate::at(Door::Front, shared.clone(), crowd);
    let invoker = Rc::new(Invoker::new(shared.clone(), pool));
    let expecting = invoker.clone();
    let http = HttpService::build()
        .graceful_shutdown_signal(move || {
            let last_call = last_call.clone();
            async move { last_call.notified().await }
        })
        .keep_alive(KeepAlive::Timeout(CLIENT_KEEP_ALIVE))
        .client_request_timeout(HEAD_TIMEOUT)
        .client_disconnect_timeout(CLIENT_GOODBYE)
        // What it means that a client has closed its side is `client.rs`'s business: with `false` the server would also
        // take a malformed body for it, and drop the request unanswered.
        .h1_allow_half_closed(true)
        .on_connect_ext(|connection: &ClientStream, data| {
            data.insert(connection.client().clone());
        })
        .expect(fn_service(move |request| invoke_expecting(expecting.clone(), request)))
        .h1(fn_factory(move || {
            let pages = pages(shared.clone(), Door::Front, audience, debug::routes);
            let invoker = invoker.clone();
            async move { Ok::<_, ()>(Front { invoker, pages: pages.await? }) }
        }));
    entrance.and_then(http)
}

/// Looks after `pool` for as long as its worker lives.
fn sweep(pool: &Rc<Pool>) {
    let pool = Rc::downgrade(pool);
    actix_rt::spawn(async move {
        let mut turn = tokio::time::interval(SWEEP);
        loop {
            turn.tick().await;
            match pool.upgrade() {
                Some(pool) => pool.sweep(),
                None => return,
            }
        }
    });
}

/// The answer to a request whose body is not wanted.
#[derive(Debug)]
struct Unwanted(Response<BoxBody>);

impl From<Unwanted> for Response<BoxBody> {
    fn from(unwanted: Unwanted) -> Self {
        unwanted.0
    }
}

async fn invoke_expecting(invoker: Rc<Invoker>, request: Request) -> Result<Request, Unwanted> {
    if !request.path().starts_with(PREFIX) {
        return Ok(request);
    }
    invoker.invoke_expecting(request).await.map_err(|response| Unwanted(response.map_into_boxed_body()))
}

struct Front<S> {
    invoker: Rc<Invoker>,
    pages: Pages<S>,
}

impl<S> Service<Request> for Front<S>
where
    Pages<S>: Service<Request, Response = Response<BoxBody>, Error = actix_web::Error>,
    <Pages<S> as Service<Request>>::Future: 'static,
{
    type Response = Response<Body>;
    type Error = actix_web::Error;
    type Future = LocalBoxFuture<'static, Result<Self::Response, Self::Error>>;

    actix_service::always_ready!();

    fn call(&self, request: Request) -> Self::Future {
        if request.path().starts_with(PREFIX) {
            let invoker = self.invoker.clone();
            return Box::pin(async move { Ok(invoker.invoke(request).await) });
        }
        let page = self.pages.call(request);
        Box::pin(async move { Ok(page.await?.map_body(|_, page| Body::Page(page))) })
    }
}
