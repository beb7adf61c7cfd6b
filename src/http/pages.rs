//! The pages of an actix-web `App`, for people and for instances, on connections of ours.

use std::{net::SocketAddr, sync::Arc};

use actix_http::{HttpService, KeepAlive, Request, Response, body::BoxBody, error::DispatchError};
use actix_server::GracefulShutdownSignal;
use actix_service::{Service, ServiceFactory, ServiceFactoryExt, fn_factory, map_config};
use actix_web::{
    App,
    dev::{AppConfig, ServiceResponse},
    web,
};
use futures::future::{LocalBoxFuture, ready};
use tokio::net::TcpStream;

use super::{
    CLIENT_GOODBYE, HEAD_TIMEOUT, Shared,
    admin::Audience,
    client::{Client, ClientStream},
    crowd::{Crowd, Room},
    debug,
    gate::{self, Door},
    headers::REQUEST_ID,
    invoke::request_id,
    manners::Patience,
    ready,
    status::Failure,
};

/// Shown to everybody.
const HEALTH: &str = "/healthz";
/// Connections that there may be at the admin listener, and at the one for callbacks. Each is over in no time.
const ADMIN_PLACES: usize = 64;
const CALLBACK_PLACES: usize = 1024;
/// Of those, as many for one address.
const PLACES_EACH: usize = 32;
/// A callback is the path that the instance was given, and little else.
const CALLBACK_BYTES: usize = 8 * 1024;

/// A listener that has nothing but pages.
#[derive(Debug, Clone)]
pub struct PageListener {
    door: Door,
    audience: Audience,
    room: Arc<Room>,
    patience: Patience,
    keep_alive: KeepAlive,
    routes: fn(&mut web::ServiceConfig),
}

impl PageListener {
    /// The one with the admin pages, at that address.
    pub fn admin(at: SocketAddr, shared: &Shared) -> Self {
        Self {
            door: Door::Admin,
            audience: Audience::at(at),
            room: Room::new(ADMIN_PLACES, PLACES_EACH),
            patience: shared.limits.patience(),
            keep_alive: KeepAlive::Timeout(super::CLIENT_KEEP_ALIVE),
            routes: debug::routes,
        }
    }

    /// The one where instances call back.
    pub fn callback(shared: &Shared) -> Self {
        Self {
            door: Door::Callback,
            audience: Audience::Everybody,
            room: Room::new(CALLBACK_PLACES, PLACES_EACH),
            patience: Patience { head_bytes: CALLBACK_BYTES, ..shared.limits.patience() },
            keep_alive: KeepAlive::Disabled,
            routes: ready::routes,
        }
    }

    /// What serves a connection. To be called on each worker's own thread.
    pub fn service(
        self,
        shared: Arc<Shared>,
        last_call: GracefulShutdownSignal,
    ) -> impl ServiceFactory<TcpStream, Config = (), Response = (), Error = DispatchError, InitError = ()> {
        let crowd = Crowd::new(self.room, self.patience);
        crowd.tend();
        let entrance = gate::at(self.door, shared.clone(), crowd);
        let http = HttpService::build()
            .graceful_shutdown_signal(move || {
                let last_call = last_call.clone();
                async move { last_call.notified().await }
            })
            .keep_alive(self.keep_alive)
            .client_request_timeout(HEAD_TIMEOUT)
            .client_disconnect_timeout(CLIENT_GOODBYE)
            .on_connect_ext(|connection: &ClientStream, data| {
                data.insert(connection.client().clone());
            })
            .h1(fn_factory(move || pages(shared.clone(), self.door, self.audience, self.routes)));
        entrance.and_then(http)
    }
}

/// The pages of these routes, for that audience.
pub async fn pages(
    shared: Arc<Shared>,
    door: Door,
    audience: Audience,
    routes: fn(&mut web::ServiceConfig),
) -> Result<Pages<impl Service<Request, Response = ServiceResponse<BoxBody>, Error = actix_web::Error> + 'static>, ()> {
    let app = App::new().app_data(web::Data::from(shared.clone())).configure(routes);
    let app = map_config(app, |()| AppConfig::default()).new_service(()).await?;
    Ok(Pages { app, door, audience, shared })
}

/// Serves pages.
pub struct Pages<S> {
    app: S,
    door: Door,
    audience: Audience,
    shared: Arc<Shared>,
}

impl<S> Pages<S> {
    /// The reason not to serve that request.
    fn objection(&self, request: &Request, client: Option<&Client>) -> Option<Failure> {
        if let Some(client) = client.filter(|client| !client.is_welcome()) {
            client.dismiss();
            Some(Failure::Crowded)
        } else if request.path() == HEALTH || self.audience.includes(request, &self.shared) {
            None
        } else {
            Some(Failure::NoSuchPage)
        }
    }
}

impl<S> Service<Request> for Pages<S>
where
    S: Service<Request, Response = ServiceResponse<BoxBody>, Error = actix_web::Error> + 'static,
{
    type Response = Response<BoxBody>;
    type Error = actix_web::Error;
    type Future = LocalBoxFuture<'static, Result<Self::Response, Self::Error>>;

    actix_service::always_ready!();

    fn call(&self, request: Request) -> Self::Future {
        let client = request.conn_data::<Client>().cloned();
        let request_id = request_id(&request.head().headers);
        if let Some(client) = &client {
            client.manners().asks();
        }
        if let Some(failure) = self.objection(&request, client.as_ref()) {
            let response = failure.response(None, &request_id);
            return Box::pin(ready(Ok(response.map_into_boxed_body())));
        }
        let served = client.map(Client::serve);
        let page = self.app.call(request);
        // An instance asks for nothing that could be looked up.
        let is_named = self.door != Door::Callback;
        Box::pin(async move {
            let mut response = Response::from(page.await?);
            if is_named && !response.headers().contains_key(REQUEST_ID) {
                response.headers_mut().insert(REQUEST_ID, request_id);
            }
            drop(served);
            Ok(response)
        })
    }
}
