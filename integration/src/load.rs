//! Clients that send requests continuously and keep every outcome.
//!
//! They do not judge: which outcomes are right depends on what the test does meanwhile.

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

/// A request that some clients repeat.
#[derive(Debug, Clone, Copy)]
pub struct Workload {
    /// The method.
    pub method: &'static str,
    /// The path, `/invoke/...`.
    pub path: &'static str,
    /// Number of clients.
    pub clients: usize,
    /// Pause between a response and the next request.
    pub pause: Duration,
}

impl Workload {
    /// Returns the name of the function.
    pub fn function(&self) -> &'static str {
        self.path.split('/').nth(2).unwrap_or_default()
    }
}

/// The outcome of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The function answered.
    Function {
        /// The status.
        status: u16,
    },
    /// The platform answered.
    Platform {
        /// The status.
        status: u16,
        /// The code.
        code: String,
        /// The `detail` of the problem document.
        detail: String,
        /// The instance that the problem document names.
        instance: Option<String>,
    },
    /// The connection was refused or broke.
    NoAnswer {
        /// The error.
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

/// A request and its outcome.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The function.
    pub function: &'static str,
    /// When the request was sent.
    pub asked: Instant,
    /// When the response was complete.
    pub answered: Instant,
    /// The outcome.
    pub outcome: Outcome,
}

impl Answer {
    /// Returns status and code, for a table.
    pub fn label(&self) -> String {
        match &self.outcome {
            Outcome::Function { status } => format!("{status} by the function"),
            Outcome::Platform { status, code, .. } => format!("{status} {code}"),
            Outcome::NoAnswer { .. } => "no answer".to_owned(),
        }
    }
}

/// Counts answers by function and label.
pub fn tally(answers: &[Answer]) -> BTreeMap<(&'static str, String), u64> {
    let mut counts = BTreeMap::new();
    for answer in answers {
        *counts.entry((answer.function, answer.label())).or_default() += 1;
    }
    counts
}

/// Running clients.
#[derive(Debug)]
pub struct Load {
    over: Arc<AtomicBool>,
    answers: Arc<Mutex<Vec<Answer>>>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts the clients.
    pub fn on(daemon: SocketAddr, workloads: &[Workload]) -> Self {
        let (over, answers) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let each = workloads.iter().flat_map(|workload| std::iter::repeat_n(*workload, workload.clients));
        let clients =
            each.map(|workload| tokio::spawn(client(daemon, workload, Arc::clone(&over), Arc::clone(&answers))));
        let clients = clients.collect();
        Self { over, answers, clients }
    }

    /// Lets every client finish its request, and returns all answers.
    ///
    /// # Panics
    /// When a client gets no answer.
    pub async fn stop(self) -> Vec<Answer> {
        self.over.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await.expect("every request is answered in time, and every problem is whole");
        }
        std::mem::take(&mut *self.answers.lock().expect("no client panicked"))
    }
}

async fn client(daemon: SocketAddr, workload: Workload, over: Arc<AtomicBool>, answers: Arc<Mutex<Vec<Answer>>>) {
    let mut kept = None;
    while !over.load(Ordering::Relaxed) {
        let asked = Instant::now();
        let outcome = match ask(daemon, &workload, &mut kept).await {
            Ok(reply) => Outcome::of(&reply),
            Err(error) => Outcome::NoAnswer { error },
        };
        let answer = Answer { function: workload.function(), asked, answered: Instant::now(), outcome };
        answers.lock().expect("no client panicked").push(answer);
        tokio::time::sleep(workload.pause).await;
    }
}

/// Sends the request over the kept connection, if it is open, else over a new one.
async fn ask(daemon: SocketAddr, workload: &Workload, kept: &mut Option<Connection>) -> Result<Reply, String> {
    let mut connection = match kept.take() {
        Some(connection) if connection.is_open() => connection,
        _ => Connection::open(daemon).await.map_err(|error| format!("connecting: {error}"))?,
    };
    let reply = connection.send(request(workload.method, workload.path, empty())).await;
    let reply = reply.map_err(|error| format!("{error:?}"))?;
    if reply.header("connection").is_none_or(|value| value != "close") {
        *kept = Some(connection);
    }
    Ok(reply)
}
