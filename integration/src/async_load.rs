//! Clients that request asynchronous invocations at a steady rate.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    sync::oneshot,
    task::{JoinHandle, JoinSet},
    time::{interval, sleep},
};

use crate::{Connection, body_of, ms, request, within};

/// New requests per second, while fewer than so many wait.
const RATE: u64 = 50;
const MAX_WAITING: usize = 200;

/// Clients at a steady rate, however long each has to wait. Each repeats its request until it is accepted, with the same
/// idempotency key, at one daemon after the other.
#[derive(Debug)]
pub struct AsyncLoad {
    task: JoinHandle<()>,
    stop: oneshot::Sender<()>,
    accepted: Arc<Mutex<Vec<Accepted>>>,
}

/// An answer of 202.
#[derive(Debug)]
pub struct Accepted {
    /// Of the invocation.
    pub id: String,
    /// An earlier request with the key had been stored, and its answer was lost.
    pub is_repeat: bool,
    /// Where it was stored.
    pub stored: String,
}

impl AsyncLoad {
    /// Begins requests to these daemons.
    pub fn start(daemons: &[SocketAddr], path: String) -> Self {
        let daemons = daemons.to_vec();
        let accepted = Arc::<Mutex<Vec<Accepted>>>::default();
        let (stop, mut stopped) = oneshot::channel();
        let all = accepted.clone();
        let task = tokio::spawn(async move {
            let mut ticks = interval(Duration::from_millis(1000 / RATE));
            let mut clients = JoinSet::new();
            for number in 0_u64.. {
                tokio::select! {
                    _ = ticks.tick() => {}
                    _ = &mut stopped => break,
                }
                while let Some(ended) = clients.try_join_next() {
                    ended.expect("a client");
                }
                // A machine that is too busy for the rate would get ever more clients.
                if clients.len() >= MAX_WAITING {
                    continue;
                }
                let (daemons, path, all) = (daemons.clone(), path.clone(), all.clone());
                clients.spawn(async move {
                    let one = accepted_in_the_end(&daemons, &path, number).await;
                    all.lock().expect("answers").push(one);
                });
            }
            drop(clients.join_all().await);
        });
        Self { task, stop, accepted }
    }

    /// Begins no more requests, and returns the answers when each has one.
    ///
    /// # Panics
    /// When a request is not accepted in time.
    pub async fn stop(self) -> Vec<Accepted> {
        self.stop.send(()).expect("the clients run");
        within(ms(60_000), "each request is accepted", self.task).await.expect("the clients end");
        std::mem::take(&mut *self.accepted.lock().expect("answers"))
    }
}

async fn accepted_in_the_end(daemons: &[SocketAddr], path: &str, number: u64) -> Accepted {
    let first = usize::try_from(number).expect("a number") % daemons.len();
    for daemon in daemons.iter().cycle().skip(first) {
        let mut request = request("POST", &format!("/async{path}"), body_of("x".repeat(1024)));
        request.headers_mut().insert("idempotency-key", format!("key-{number}").parse().expect("a value"));
        let answer = async { Connection::open(*daemon).await.ok()?.send(request).await.ok() };
        match answer.await {
            Some(reply) if reply.status == 202 => {
                let is_repeat = reply.header("x-unifaas-duplicate").is_some();
                let id = reply.header("x-unifaas-invocation").expect("an id");
                let stored = reply.header("x-unifaas-stored").expect("where it is stored");
                return Accepted { id, is_repeat, stored };
            }
            // It ends, or another one begins.
            Some(reply) => assert_eq!(reply.status, 503, "{}", reply.text()),
            None => {}
        }
        sleep(ms(20)).await;
    }
    unreachable!("there are daemons")
}
