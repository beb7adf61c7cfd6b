//! The front: a client's connection, and its requests sorted into invocations and pages.

use std::{rc::Rc, sync::Arc, time::Duration};

use actix_http::{HttpService, KeepAlive, Request, Response, body::BoxBody, error::DispatchError};
use actix_server::GracefulShutdownSignal;
use actix_service::{Service, ServiceFactory, ServiceFactoryExt, fn_factory, fn_service, map_config};
use actix_web::{
    App,
    dev::{AppConfig, ServiceResponse},
    web,
};
use futures::future::{LocalBoxFuture, ready};
use tokio::net::TcpStream;

use super::{
    HEAD_TIMEOUT, Shared,
    client::ClientStream,
    debug,
    headers::REQUEST_ID,
    invoke::{Invoker, PREFIX, request_id},
    relay::Body,
    status::Failure,
    upstream::Pool,
};

/// How long an unused connection of a client is kept.
const CLIENT_KEEP_ALIVE: Duration = Duration::from_secs(75);
/// Time for a client to take notice that its connection is being closed.
const CLIENT_GOODBYE: Duration = Duration::from_secs(1);
/// Between two looks at the pool of connections to instances.
const SWEEP: Duration = Duration::from_secs(1);

/// What serves a client's connection. To be called on each worker's own thread.
///
/// `last_call` resolves when the server is told to stop, after everything was drained.
/// `admin_here`: the admin part has no listener of its own and is served here, to callers of this host alone.
pub fn service(
    shared: Arc<Shared>,
    admin_here: bool,
    last_call: GracefulShutdownSignal,
) -> impl ServiceFactory<TcpStream, Config = (), Response = (), Error = DispatchError, InitError = ()> {
    let pool = Rc::new(Pool::default());
    sweep(&pool);
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
            let app = App::new().app_data(web::Data::from(shared.clone())).configure(debug::routes);
            let pages = map_config(app, |()| AppConfig::default()).new_service(());
            let invoker = invoker.clone();
            async move { Ok::<_, ()>(Front { invoker, pages: Rc::new(pages.await?), admin_here }) }
        }));
    fn_service(|connection: TcpStream| {
        let client = connection.peer_addr().ok();
        // Without it a small answer may wait for the acknowledgement of the one before.
        let _ = connection.set_nodelay(true);
        ready(Ok((ClientStream::new(connection), client)))
    })
    .and_then(http)
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

struct Front<P> {
    invoker: Rc<Invoker>,
    pages: Rc<P>,
    admin_here: bool,
}

impl<P> Front<P> {
    /// Health is everybody's business, the rest only that of this host.
    fn shows_pages_to(&self, request: &Request) -> bool {
        let local = request.peer_addr().is_some_and(|peer| peer.ip().to_canonical().is_loopback());
        request.path() == "/healthz" || (self.admin_here && local)
    }
}

impl<P> Service<Request> for Front<P>
where
    P: Service<Request, Response = ServiceResponse<BoxBody>, Error = actix_web::Error> + 'static,
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
        let request_id = request_id(&request.head().headers);
        if self.shows_pages_to(&request) {
            let page = self.pages.call(request);
            return Box::pin(async move {
                let mut response = Response::from(page.await?).map_body(|_, page| Body::Page(page));
                if !response.headers().contains_key(REQUEST_ID) {
                    response.headers_mut().insert(REQUEST_ID, request_id);
                }
                Ok(response)
            });
        }
        let response = Failure::NoSuchPage.response(None, &request_id);
        Box::pin(ready(Ok(response.map_body(|_, text| text.into()))))
    }
}
