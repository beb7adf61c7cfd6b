//! The callback listener: whatever a guest sends there, it is answered, and nothing is believed that nobody waits for.

use std::{mem::ManuallyDrop, net::SocketAddr, rc::Rc, sync::Arc};

use actix_http::HttpService;
use actix_rt::Runtime;
use actix_service::{Service, ServiceFactory, map_config};
use actix_web::{App, dev::AppConfig, web};
use bytes::BytesMut;
use futures::future::LocalBoxFuture;
use slog::{Discard, Logger, o};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use unifaas_actors::{Admission, ReadyToken};

use crate::{
    http::{
        Limits, Settings, Shared, ready,
        wire::{BodyReader, Piece, ResponseHead},
    },
    neighbours::Neighbours,
};

/// More than is sent or answered.
const PIPE: usize = 1 << 20;

/// The listener's service, over connections in memory.
struct Listener {
    runtime: Runtime,
    serve: Rc<dyn Fn(DuplexStream) -> LocalBoxFuture<'static, ()>>,
}

thread_local! {
    /// Never dropped: at the end of a thread, what it needs for that may be gone before it.
    static LISTENER: ManuallyDrop<Listener> = ManuallyDrop::new(Listener::new());
}

/// The bytes as a token, as a path, and as all that comes on a connection.
pub fn callback(data: &[u8]) {
    if let Ok(text) = str::from_utf8(data)
        && let Some(token) = ReadyToken::parse(text)
    {
        assert_eq!(token.reveal(), text);
        assert!(!format!("{token:?}").contains(text));
    }
    LISTENER.with(|listener| {
        listener.answers(data);
        listener.answers(&[b"GET /ready/", data, b" HTTP/1.1\r\nHost: h\r\n\r\n"].concat());
    });
}

impl Listener {
    fn new() -> Self {
        let runtime = Runtime::new().unwrap();
        let service = runtime.block_on(async {
            let data = web::Data::new(shared());
            let app = App::new().app_data(data).configure(ready::routes);
            let app = map_config(app, |()| AppConfig::default());
            let service = HttpService::build().h1(app);
            ServiceFactory::<(DuplexStream, Option<SocketAddr>)>::new_service(&service, ()).await.unwrap()
        });
        let service = Rc::new(service);
        let serve = Rc::new(move |connection| -> LocalBoxFuture<'static, ()> {
            let served = service.call((connection, Some(SocketAddr::from(([127, 0, 0, 1], 1)))));
            // How a connection ended is of no consequence.
            Box::pin(async { drop(served.await) })
        });
        Self { runtime, serve }
    }

    /// Sends the bytes and nothing more; what is answered refuses.
    fn answers(&self, data: &[u8]) {
        let wire = self.runtime.block_on(async {
            let (mut guest, connection) = duplex(PIPE);
            let served = (self.serve)(connection);
            let asked = async {
                guest.write_all(data).await.unwrap();
                guest.shutdown().await.unwrap();
                let mut wire = Vec::new();
                guest.read_to_end(&mut wire).await.unwrap();
                wire
            };
            tokio::join!(served, asked).1
        });
        check_refusals(&wire);
    }
}

fn check_refusals(wire: &[u8]) {
    let (mut head, mut input) = (ResponseHead::default(), BytesMut::from(wire));
    while !input.is_empty() {
        // Of those that answer a `HEAD` there is no body; they say so by their length.
        assert_eq!(head.take(&mut input, false), Ok(true), "{}", wire.escape_ascii());
        assert!(head.status.is_client_error() || head.status.as_u16() == 100, "{}", wire.escape_ascii());
        let mut reader = BodyReader::new(head.framing);
        while let Ok(Piece::Data(length)) = reader.next(&mut input) {
            drop(input.split_to(length));
        }
    }
}

fn shared() -> Shared {
    let settings = Settings {
        registry: String::new(),
        listen: String::new(),
        callback_listen: String::new(),
        admin_listen: None,
        subnet: String::new(),
        state_dir: String::new(),
        drain_grace_seconds: 0.0,
        max_connections: 1,
        max_connections_per_client: 1,
        client_timeout_seconds: 0.0,
        memory_budget: 0,
        max_starts: 0,
        max_process_starts: None,
    };
    let admission = Admission::new(unifaas_actors::Limits { memory: 0, process_starts: 0, starts: 0 });
    let limits = Limits { connections: 1, connections_each: 1, client_timeout: None };
    let log = Logger::root(Discard, o!());
    Shared::new(Arc::default(), Arc::default(), admission, Neighbours::default(), limits, settings, log)
}
