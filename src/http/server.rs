//! Serves one listener's connections with actix-web, put together the way actix-web's `HttpServer` does it.
//!
//! Before actix-http's dispatcher a connection passes the accept policy, TLS, and the choice of the protocol. Below the
//! dispatcher is `client_stream.rs`, above it an `App`: `invoke.rs`, `debug.rs` and `ready.rs` are its routes. After the
//! dispatcher has ended, a connection whose client may still be sending is closed gently.

use std::{convert::Infallible, future::poll_fn, io, net::SocketAddr, rc::Rc, sync::Arc, task::Poll, time::Duration};

use actix_http::{HttpService, KeepAlive, Protocol};
use actix_server::GracefulShutdownSignal;
use actix_service::{
    Service as _, ServiceFactory,
    boxed::{self, BoxService},
    fn_factory, fn_service, map_config,
};
use actix_web::{App, dev::AppConfig, web};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{interval, sleep, timeout},
};
use tokio_util::either::Either;

use super::{
    accept_policy::{ConnAddrs, ListenerKind, admit},
    admin_access::AdminAudience,
    client_connection::ClientConnection,
    client_stream::{ClientStream, HEAD_TIMEOUT, Transport},
    conn_limit::ConnectionLimiter,
    connections::{ConnectionGuard, ConnectionTable},
    debug, invoke, ready,
    shared::Shared,
    tls::Tls,
};

/// Between two rounds of housekeeping.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// Connections that there may be at the admin listener, and at the callback listener. Each is short.
const MAX_ADMIN_CONNECTIONS: usize = 64;
const MAX_CALLBACK_CONNECTIONS: usize = 1024;
/// Of those, as many from one address.
const MAX_PER_ADDRESS: usize = 32;
/// Largest head of a callback, in bytes: the path that the instance was given, and little else.
const MAX_CALLBACK_HEAD: usize = 8 * 1024;
/// Bytes of an HTTP/2 connection preface that tell it from a request of HTTP/1.
const PREFACE: &[u8] = b"PRI * HTTP/2";
/// Before the rest of a preface is looked for again.
const PREFACE_INTERVAL: Duration = Duration::from_millis(10);
/// How long a connection that was answered early is read from, and how long it may be silent meanwhile.
const LINGER_TIMEOUT: Duration = Duration::from_secs(10);
const LINGER_SILENCE: Duration = Duration::from_secs(2);

/// The service of a listener, and its audience.
#[derive(Debug, Clone)]
pub struct ListenerConfig {
    kind: ListenerKind,
    audience: AdminAudience,
    limiter: Arc<ConnectionLimiter>,
    tls: Option<Tls>,
}

impl ListenerConfig {
    /// The listener where functions are invoked. It has the admin pages unless they have a listener of their own.
    pub fn front(shared: &Shared, has_admin_listener: bool, tls: Option<&Tls>) -> Self {
        let audience = if has_admin_listener { AdminAudience::Hidden } else { AdminAudience::ThisHost };
        Self { kind: ListenerKind::Front, audience, limiter: shared.limiter.clone(), tls: tls.cloned() }
    }

    /// The listener with the admin pages, at that address.
    pub fn admin(_shared: &Shared, address: SocketAddr, tls: Option<&Tls>) -> Self {
        let limiter = ConnectionLimiter::new(MAX_ADMIN_CONNECTIONS, MAX_PER_ADDRESS);
        Self { kind: ListenerKind::Admin, audience: AdminAudience::at(address), limiter, tls: tls.cloned() }
    }

    /// The listener where instances call back.
    pub fn callback(_shared: &Shared) -> Self {
        let limiter = ConnectionLimiter::new(MAX_CALLBACK_CONNECTIONS, MAX_PER_ADDRESS);
        Self { kind: ListenerKind::Callback, audience: AdminAudience::Hidden, limiter, tls: None }
    }

    /// Returns what serves a connection. To be called on each worker's own thread.
    ///
    /// `shutdown` resolves when the server is stopped, after everything was drained.
    pub fn service(
        self,
        shared: Arc<Shared>,
        shutdown: GracefulShutdownSignal,
    ) -> impl ServiceFactory<TcpStream, Config = (), Response = (), Error = Infallible, InitError = ()> {
        fn_factory(move || {
            let (listener, shared, shutdown) = (self.clone(), shared.clone(), shutdown.clone());
            async move {
                let worker = Rc::new(Worker::new(listener, shared).await?);
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
    shared: Arc<Shared>,
    connections: Rc<ConnectionTable>,
    http: Http,
}

/// Does what is due now and then, for as long as the worker lives.
fn keep_house(worker: &Rc<Worker>, shutdown: GracefulShutdownSignal) {
    let (connections, worker) = (worker.connections.clone(), Rc::downgrade(worker));
    actix_rt::spawn(async move {
        shutdown.notified().await;
        connections.close_idle();
    });
    actix_rt::spawn(async move {
        let mut turn = interval(SWEEP_INTERVAL);
        loop {
            turn.tick().await;
            let Some(worker) = worker.upgrade() else { return };
            worker.connections.sweep();
            worker.shared.upstream.sweep();
        }
    });
}

impl Worker {
    async fn new(listener: ListenerConfig, shared: Arc<Shared>) -> Result<Self, ()> {
        let ListenerConfig { kind, audience, limiter, tls } = listener;
        let app_shared = web::Data::from(shared.clone());
        let expecting = shared.clone();
        let app = App::new().app_data(app_shared).app_data(audience).configure(move |config| match kind {
            ListenerKind::Front => {
                config.service(web::scope(invoke::SCOPE).default_service(web::to(invoke::invoke)));
                debug::routes(config);
            }
            ListenerKind::Admin => debug::routes(config),
            ListenerKind::Callback => ready::routes(config),
        });
        // A callback is the only request of its connection.
        let keep_alive = if kind == ListenerKind::Callback { KeepAlive::Disabled } else { KeepAlive::Os };
        let http = HttpService::build()
            .keep_alive(keep_alive)
            .client_request_timeout(Duration::ZERO)
            .client_disconnect_timeout(Duration::ZERO)
            .h1_allow_half_closed(true)
            .expect(fn_service(move |request| {
                let expecting = expecting.clone();
                async move {
                    match kind {
                        ListenerKind::Front => invoke::expect(request, expecting).await,
                        // Nothing is invoked there.
                        ListenerKind::Admin | ListenerKind::Callback => Ok(request),
                    }
                }
            }))
            .on_connect_ext(|stream: &ClientStream, data| {
                data.insert(stream.connection().clone());
            })
            .finish(map_config(app, |()| AppConfig::default()));
        let http = boxed::service(http.new_service(()).await?);
        Ok(Self { kind, tls, shared, connections: ConnectionTable::new(limiter), http })
    }

    /// Serves a client's connection to its end.
    async fn serve(&self, tcp: TcpStream) {
        let Ok(addrs) = ConnAddrs::of(&tcp) else { return };
        let Some(guard) = admit(self.kind, &self.shared, &self.connections, addrs) else { return };
        let opened = unless_evicted(&guard, timeout(HEAD_TIMEOUT, open(tcp, self.tls.as_ref()))).await;
        let Some(Ok(Ok((transport, is_http2)))) = opened else { return };
        let client_timeout = self.shared.limits.client_timeout;
        let max_head = (self.kind == ListenerKind::Callback).then_some(MAX_CALLBACK_HEAD);
        let connection = ClientConnection::new(addrs, guard, client_timeout, max_head, is_http2, self.tls.is_some());
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

/// Finds out which protocol the client speaks; whether it is HTTP/2.
async fn open(tcp: TcpStream, tls: Option<&Tls>) -> io::Result<(Transport, bool)> {
    if let Some(tls) = tls {
        let stream = tls.accept(tcp).await?;
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        return Ok((Either::Right(Box::new(stream)), is_http2));
    }
    let mut bytes = [0; PREFACE.len()];
    loop {
        match tcp.peek(&mut bytes).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read if bytes[..read] != PREFACE[..read] => return Ok((Either::Left(tcp), false)),
            read if read == PREFACE.len() => return Ok((Either::Left(tcp), true)),
            // What has come stays readable, so there is nothing to be woken by.
            _ => sleep(PREFACE_INTERVAL).await,
        }
    }
}

/// Closes a connection so that its last response is not lost: a reset, which unread bytes cause, may overtake it.
async fn linger(mut transport: Transport, last: &[u8]) -> io::Result<()> {
    transport.write_all(last).await?;
    transport.shutdown().await?;
    let mut rest = vec![0; 64 * 1024];
    while timeout(LINGER_SILENCE, transport.read(&mut rest)).await.map_err(|_| io::ErrorKind::TimedOut)?? > 0 {}
    Ok(())
}
