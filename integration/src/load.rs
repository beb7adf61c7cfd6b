//! Clients that ask all the time, and keep of every request who answered it, and what.
//!
//! They judge nothing: which answers are right depends on what a test does to the daemon meanwhile.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{task::JoinHandle, time::Instant};

use crate::client::{Connection, Reply, empty, request};

/// What some clients ask for, each again and again.
#[derive(Debug, Clone, Copy)]
pub struct Errand {
    /// The method.
    pub method: &'static str,
    /// The path, `/invoke/...`.
    pub path: &'static str,
    /// So many at once.
    pub clients: usize,
    /// Between an answer and the next request.
    pub pause: Duration,
}

impl Errand {
    /// The name of the function.
    pub fn function(&self) -> &'static str {
        self.path.split('/').nth(2).unwrap_or_default()
    }
}

/// Who answered, and what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The function itself.
    Function {
        /// Its status.
        status: u16,
    },
    /// The platform, instead of the function.
    Platform {
        /// The status.
        status: u16,
        /// The code.
        code: String,
        /// What it says of the reason.
        detail: String,
        /// Because of which instance, if it was one.
        instance: Option<String>,
    },
    /// Nobody: the connection was refused or broke.
    Nobody {
        /// How.
        error: String,
    },
}

impl Outcome {
    fn of(reply: &Reply) -> Self {
        let status = reply.status;
        let Some(code) = reply.header("x-unifaas-error") else { return Self::Function { status } };
        let problem = reply.problem(status, &code);
        let text = |member: &str| problem[member].as_str().map(str::to_owned);
        Self::Platform { status, code, detail: text("detail").unwrap_or_default(), instance: text("instance") }
    }
}

/// One request and what became of it.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Of which function.
    pub function: &'static str,
    /// When the request was sent.
    pub asked: Instant,
    /// When the answer was complete.
    pub answered: Instant,
    /// What it was.
    pub outcome: Outcome,
}

impl Answer {
    /// Status and code, for a table.
    pub fn label(&self) -> String {
        match &self.outcome {
            Outcome::Function { status } => format!("{status} by the function"),
            Outcome::Platform { status, code, .. } => format!("{status} {code}"),
            Outcome::Nobody { .. } => "no answer".to_owned(),
        }
    }
}

/// Answers of a kind, counted, by function.
pub fn tally(answers: &[Answer]) -> BTreeMap<(&'static str, String), u64> {
    let mut counts = BTreeMap::new();
    for answer in answers {
        *counts.entry((answer.function, answer.label())).or_default() += 1;
    }
    counts
}

/// Clients at work.
#[derive(Debug)]
pub struct Load {
    over: Arc<AtomicBool>,
    answers: Arc<Mutex<Vec<Answer>>>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    /// Sets them to work.
    pub fn on(daemon: SocketAddr, errands: &[Errand]) -> Self {
        let (over, answers) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let each = errands.iter().flat_map(|errand| std::iter::repeat_n(*errand, errand.clients));
        let clients = each.map(|errand| tokio::spawn(client(daemon, errand, Arc::clone(&over), Arc::clone(&answers))));
        let clients = clients.collect();
        Self { over, answers, clients }
    }

    /// Lets every client have its last answer; all of them.
    ///
    /// # Panics
    /// When one does not get it.
    pub async fn stop(self) -> Vec<Answer> {
        self.over.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await.expect("every request is answered in time, and every problem is whole");
        }
        std::mem::take(&mut *self.answers.lock().expect("no client panicked"))
    }
}

async fn client(daemon: SocketAddr, errand: Errand, over: Arc<AtomicBool>, answers: Arc<Mutex<Vec<Answer>>>) {
    let mut kept = None;
    while !over.load(Ordering::Relaxed) {
        let asked = Instant::now();
        let outcome = match ask(daemon, &errand, &mut kept).await {
            Ok(reply) => Outcome::of(&reply),
            Err(error) => Outcome::Nobody { error },
        };
        let answer = Answer { function: errand.function(), asked, answered: Instant::now(), outcome };
        answers.lock().expect("no client panicked").push(answer);
        tokio::time::sleep(errand.pause).await;
    }
}

/// Asks over the connection that was kept, if it still is one.
async fn ask(daemon: SocketAddr, errand: &Errand, kept: &mut Option<Connection>) -> Result<Reply, String> {
    let mut connection = match kept.take() {
        Some(connection) if connection.is_open() => connection,
        _ => Connection::open(daemon).await.map_err(|error| format!("connecting: {error}"))?,
    };
    let reply = connection.send(request(errand.method, errand.path, empty())).await;
    let reply = reply.map_err(|error| format!("{error:?}"))?;
    if reply.header("connection").is_none_or(|value| value != "close") {
        *kept = Some(connection);
    }
    Ok(reply)
}
