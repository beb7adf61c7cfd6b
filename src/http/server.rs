//! Serves one listener's connections with actix-web, put together the way actix-web's `HttpServer` does it.
//!
//! Before actix-http's dispatcher a connection passes the accept policy, TLS, and the choice of the protocol. Below the
//! dispatcher is `client_stream.rs`, above it an `App` with what the [`Application`] adds. After the
//! dispatcher has ended, a connection whose client may still be sending is closed gently.

use std::{
    convert::Infallible,
    future::poll_fn,
    io,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use actix_http::{HttpService, KeepAlive, Protocol, Request, Response, body::BoxBody};
use actix_server::GracefulShutdownSignal;
use actix_service::{
    Service as _, ServiceFactory,
    boxed::{self, BoxService},
    fn_factory, fn_service, map_config,
};
use actix_web::{App, dev::AppConfig, web::ServiceConfig};
use futures::future::LocalBoxFuture;
use tokio::{
    net::TcpStream,
    time::{interval, timeout},
};
use tokio_util::either::Either;

use super::{
    accept_policy::{ConnAddrs, ListenerKind, admit},
    client_connection::ClientConnection,
    client_stream::{ClientStream, HEAD_TIMEOUT},
    connections::{ConnectionGuard, Connections},
    forwarded::Peer,
    server_state::{KeptConnections, ServerState},
    tls::Tls,
    transport::{Transport, linger, open},
};
use crate::cluster::PeerTls;

/// Between two rounds of housekeeping.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// Largest head of a callback, in bytes: the path that the instance was given, and little else.
const MAX_CALLBACK_HEAD: usize = 8 * 1024;
/// How long a connection that was answered early is read from.
const LINGER_TIMEOUT: Duration = Duration::from_secs(10);

/// What is served on the listeners, which is not this layer's matter.
pub trait Application: Send + Sync {
    /// Returns what the servers share.
    fn server(&self) -> &ServerState;

    /// Adds the services of a listener. `admin`: the address of the admin listener, if there is one.
    fn configure(&self, config: &mut ServiceConfig, kind: ListenerKind, admin: Option<SocketAddr>);

    /// Decides about a request with `Expect: 100-continue`: the client is asked for the body, or gets a response.
    fn expect(&self, kind: ListenerKind, request: Request) -> Expected;

    /// Returns what protects connections from other nodes.
    fn peer_tls(&self) -> Option<&PeerTls>;

    /// Does what is due about once a second. Called on each worker.
    fn keep_house(&self);
}

/// The request whose body the client is asked for, or the response without it.
pub type Expected = LocalBoxFuture<'static, Result<Request, Response<BoxBody>>>;

/// The service of a listener.
#[derive(Clone)]
pub struct ListenerConfig {
    kind: ListenerKind,
    tls: Option<Tls>,
    application: Arc<dyn Application>,
    admin: Option<SocketAddr>,
}

impl ListenerConfig {
    /// Describes a listener. `admin`: the address of the admin listener, if there is one.
    pub fn new(
        kind: ListenerKind,
        tls: Option<&Tls>,
        application: Arc<dyn Application>,
        admin: Option<SocketAddr>,
    ) -> Self {
        let tls = tls.filter(|_| matches!(kind, ListenerKind::Front | ListenerKind::Admin)).cloned();
        Self { kind, tls, application, admin }
    }

    /// Returns what serves a connection. To be called on each worker's own thread.
    ///
    /// `shutdown` resolves when the server is stopped, after everything was drained.
    pub fn service(
        self,
        shutdown: GracefulShutdownSignal,
    ) -> impl ServiceFactory<TcpStream, Config = (), Response = (), Error = Infallible, InitError = ()> {
        fn_factory(move || {
            let (listener, shutdown) = (self.clone(), shutdown.clone());
            async move {
                let worker = Rc::new(Worker::new(listener).await?);
                keep_house(&worker, shutdown);
                Ok(fn_service(move |tcp| {
                    let worker = worker.clone();
                    async move {
                        worker.serve(tcp).await;
                        Ok(())
                    }
                }))
            }
        })
    }
}

type Http = BoxService<(ClientStream, Protocol, Option<SocketAddr>), (), actix_http::error::DispatchError>;

/// One HTTP worker's part of a listener.
struct Worker {
    kind: ListenerKind,
    tls: Option<Tls>,
    application: Arc<dyn Application>,
    connections: Arc<Connections>,
    http: Http,
}

/// Does what is due now and then, for as long as the worker lives.
fn keep_house(worker: &Rc<Worker>, shutdown: GracefulShutdownSignal) {
    let (connections, mut kept) = (worker.connections.clone(), worker.application.server().kept_connections());
    // Another process takes the next connections of these.
    let is_passed = matches!(worker.kind, ListenerKind::Front | ListenerKind::Peer);
    actix_rt::spawn(async move {
        let handed_over = async {
            let _ = kept.wait_for(|kept| *kept >= KeptConnections::Ending).await;
            connections.end();
            let _ = kept.wait_for(|kept| *kept >= KeptConnections::ClosedIfIdle).await;
        };
        tokio::select! {
            () = shutdown.notified() => {}
            () = handed_over, if is_passed => {}
        }
        connections.close_idle();
    });
    let worker = Rc::downgrade(worker);
    actix_rt::spawn(async move {
        let mut turn = interval(SWEEP_INTERVAL);
        loop {
            turn.tick().await;
            let Some(worker) = worker.upgrade() else { return };
            worker.connections.tick();
            worker.application.keep_house();
        }
    });
}

impl Worker {
    async fn new(listener: ListenerConfig) -> Result<Self, ()> {
        let ListenerConfig { kind, tls, application, admin } = listener;
        let connections = application.server().connections(kind).clone();
        let (configuring, expecting) = (application.clone(), application.clone());
        let app = App::new().configure(move |config| configuring.configure(config, kind, admin));
        // A callback is the only request of its connection.
        let keep_alive = if kind == ListenerKind::Callback { KeepAlive::Disabled } else { KeepAlive::Os };
        let http = HttpService::build()
            .keep_alive(keep_alive)
            .client_request_timeout(Duration::ZERO)
            .client_disconnect_timeout(Duration::ZERO)
            .h1_allow_half_closed(true)
            .expect(fn_service(move |request| expecting.expect(kind, request)))
            .on_connect_ext(|stream: &ClientStream, data| {
                data.insert(stream.connection().clone());
            })
            .finish(map_config(app, |()| AppConfig::default()));
        let http = boxed::service(http.new_service(()).await?);
        Ok(Self { kind, tls, application, connections, http })
    }

    /// Begins a client's connection. Returns whether it is HTTP/2, and who the client is.
    async fn open(&self, tcp: TcpStream, from: IpAddr) -> io::Result<(Transport, bool, Peer)> {
        if self.kind == ListenerKind::Peer {
            return match self.application.peer_tls() {
                Some(tls) => {
                    let (stream, key) = tls.accept(tcp, from).await?;
                    Ok((Either::Right(Box::new(stream)), false, Peer::node(from, Some(key))))
                }
                None => {
                    open(tcp, None).await.map(|(transport, is_http2)| (transport, is_http2, Peer::node(from, None)))
                }
            };
        }
        let (transport, is_http2) = open(tcp, self.tls.as_ref()).await?;
        Ok((transport, is_http2, Peer::new(from, self.tls.is_some())))
    }

    /// Serves a client's connection to its end.
    async fn serve(&self, tcp: TcpStream) {
        let Ok(addrs) = ConnAddrs::of(&tcp) else { return };
        let Some(guard) = admit(self.kind, self.application.server(), addrs) else { return };
        let opened = unless_evicted(&guard, timeout(HEAD_TIMEOUT, self.open(tcp, addrs.peer.ip()))).await;
        let Some(Ok(Ok((transport, is_http2, peer)))) = opened else { return };
        let client_timeout = self.application.server().limits.client_timeout;
        let max_head = (self.kind == ListenerKind::Callback).then_some(MAX_CALLBACK_HEAD);
        let connection = ClientConnection::new(addrs, guard, client_timeout, max_head, is_http2, peer);
        let protocol = if is_http2 { Protocol::Http2 } else { Protocol::Http1 };
        let stream = ClientStream::new(transport, connection.clone());
        // What ended a connection is known to the handlers of its requests, or is no news.
        let _ = self.http.call((stream, protocol, Some(addrs.peer))).await;
        if let Some((transport, last)) = connection.take_transport() {
            let _ = unless_evicted(&connection.guard, timeout(LINGER_TIMEOUT, linger(transport, &last))).await;
        }
    }
}

/// The outcome of `work`, unless the connection is evicted before.
async fn unless_evicted<T>(guard: &ConnectionGuard, work: impl Future<Output = T>) -> Option<T> {
    let evicted = poll_fn(|cx| if guard.is_evicted(cx) { Poll::Ready(()) } else { Poll::Pending });
    tokio::select! {
        done = work => Some(done),
        () = evicted => None,
    }
}
