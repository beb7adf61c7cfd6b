//! The callback listener: whatever a guest sends there, it is answered, and nothing is believed that nobody waits for.

use std::{mem::ManuallyDrop, net::Ipv4Addr, sync::Arc};

use actix_rt::Runtime;
use bytes::BytesMut;
use slog::{Discard, Logger, o};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use unifaas_actors::{AdmissionActor, ReadyToken};

use crate::{
    host::function_peers::FunctionPeers,
    http::{
        Limits, Settings, Shared,
        server::{Listener, Worker},
        wire::{BodyReader, Piece, ResponseHead},
    },
};

/// What serves the listener's connections, and where they come from.
struct Rig {
    runtime: Runtime,
    worker: Worker,
    socket: TcpListener,
}

thread_local! {
    /// Never dropped: at the end of a thread, what it needs for that may be gone before it.
    static RIG: ManuallyDrop<Rig> = ManuallyDrop::new(Rig::new());
}

/// The bytes as a token, as a path, and as all that comes on a connection.
pub fn callback(data: &[u8]) {
    if let Ok(text) = str::from_utf8(data)
        && let Some(token) = ReadyToken::parse(text)
    {
        assert_eq!(token.reveal(), text);
        assert!(!format!("{token:?}").contains(text));
    }
    RIG.with(|rig| {
        rig.answers(data);
        rig.answers(&[b"GET /ready/", data, b" HTTP/1.1\r\nHost: h\r\n\r\n"].concat());
    });
}

impl Rig {
    fn new() -> Self {
        let runtime = Runtime::new().unwrap();
        let (worker, socket) = runtime.block_on(async {
            let shared = Arc::new(shared());
            let worker = Worker::new(Listener::callback(&shared), shared).await.unwrap();
            (worker, TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap())
        });
        Self { runtime, worker, socket }
    }

    /// Sends the bytes and nothing more; what is answered refuses.
    fn answers(&self, data: &[u8]) {
        let wire = self.runtime.block_on(async {
            let guest = TcpStream::connect(self.socket.local_addr().unwrap()).await.unwrap();
            let (connection, _) = self.socket.accept().await.unwrap();
            let (mut answers, mut asks) = guest.into_split();
            let asked = async {
                // One that is refused may be left before it has said everything.
                let _ = asks.write_all(data).await;
                let _ = asks.shutdown().await;
            };
            let answered = async {
                let mut wire = Vec::new();
                answers.read_to_end(&mut wire).await.unwrap();
                wire
            };
            tokio::join!(self.worker.serve(connection), asked, answered).2
        });
        check_refusals(&wire);
    }
}

fn check_refusals(wire: &[u8]) {
    let (mut head, mut input) = (ResponseHead::default(), BytesMut::from(wire));
    while !input.is_empty() {
        // Of those that answer a `HEAD` there is no body; they say so by their length.
        assert_eq!(head.take(&mut input, false), Ok(true), "{}", wire.escape_ascii());
        assert!(!head.status.is_success(), "{}", wire.escape_ascii());
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
    let admission = AdmissionActor::launch(unifaas_actors::HostLimits { memory: 0, process_starts: 0, starts: 0 });
    let limits = Limits { connections: 1, connections_each: 1, client_timeout: None };
    let log = Logger::root(Discard, o!());
    Shared::new(Arc::default(), Arc::default(), admission, FunctionPeers::default(), limits, settings, log)
}
