//! The thread that makes attempts: each is recorded as begun, served like any request, and reported.

use std::sync::{Arc, Mutex, PoisonError};

use actix::Recipient;
use slog::error;
use tokio::task::{LocalSet, spawn_local};
use unifaas_actors::inbox::{
    Attempt, AttemptEnd, Attempted, Attempts, Begun, Command, Outcome, RecordedResponse, Seq, StoredRequest,
};

use crate::{
    invocation::{StoredClients, serve_stored},
    shared::Shared,
    worker::{Requests, Worker},
};

/// Names the invocation to the function.
pub const INVOCATION: &str = "x-unifaas-invocation";
/// Counts the attempts of the invocation, from 1.
pub const ATTEMPT: &str = "x-unifaas-attempt";
/// The client's name for the request, or the invocation's id.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";

type Job = (Attempt, Recipient<Attempted>);

/// Makes attempts, on a thread of its own that starts with the first one.
pub struct AttemptThread {
    shared: Arc<Shared>,
    worker: Mutex<Option<Worker<Job>>>,
}

impl AttemptThread {
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared, worker: Mutex::default() }
    }
}

impl Attempts for AttemptThread {
    fn begin(&self, attempt: Attempt, report: Recipient<Attempted>) {
        let mut worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        if worker.is_none() {
            let shared = self.shared.clone();
            match Worker::on_runtime("inbox-attempts", async move |jobs| make_attempts(jobs, shared).await) {
                Ok(started) => *worker = Some(started),
                Err(error) => {
                    error!(self.shared.log, "no asynchronous invocation can be tried"; "error" => %error);
                    report.do_send(Attempted { seq: attempt.entry.seq, end: AttemptEnd::NotRecorded });
                    return;
                }
            }
        }
        if let Some(worker) = &*worker {
            worker.handle().send((attempt, report));
        }
    }
}

async fn make_attempts(jobs: Requests<Job>, shared: Arc<Shared>) {
    let clients = Arc::new(StoredClients::new());
    let serve = async {
        while let Ok((attempt, report)) = jobs.recv().await {
            let report = ReportOnDrop { seq: attempt.entry.seq, begun: None, report, is_sent: false };
            spawn_local(make_attempt(attempt, report, shared.clone(), clients.clone()));
        }
    };
    let tasks = LocalSet::new();
    tasks.run_until(serve).await;
}

async fn make_attempt(attempt: Attempt, mut report: ReportOnDrop, shared: Arc<Shared>, clients: Arc<StoredClients>) {
    let (seq, epoch) = (attempt.entry.seq, attempt.entry.epoch);
    let begun = shared.inbox.handle.ask(|reply| Command::Start { seq, epoch, reply }).await;
    let begun = match begun {
        Ok(Some(begun)) => *begun,
        Ok(None) => return report.send(AttemptEnd::Stale),
        Err(_) => return report.send(AttemptEnd::NotRecorded),
    };
    let epoch = begun.record.epoch;
    report.begun = Some(epoch);
    let (outcome, response) = match shared.directory.find(&begun.record.function) {
        Some(handle) => {
            let request = attempt_request(begun);
            serve_stored(&shared, &clients, handle, request, attempt.max_response).await
        }
        None => (Outcome::Untouched { retry_after: None }, None),
    };
    report.send(AttemptEnd::Made { epoch, outcome, response });
}

/// Adds to a request what tells the function which attempt it is.
pub fn attempt_request(Begun { record, request }: Begun) -> StoredRequest {
    let id = record.id.to_string();
    let key = record.key.as_deref().unwrap_or(&id).to_owned();
    request.header(INVOCATION, id).header(ATTEMPT, record.attempts.to_string()).header(IDEMPOTENCY_KEY, key)
}

/// Reports the end of an attempt, also if its task panics.
struct ReportOnDrop {
    seq: Seq,
    /// The epoch of the attempt, once its beginning is recorded.
    begun: Option<u32>,
    report: Recipient<Attempted>,
    is_sent: bool,
}

impl ReportOnDrop {
    fn send(mut self, end: AttemptEnd) {
        self.is_sent = true;
        self.report.do_send(Attempted { seq: self.seq, end });
    }
}

impl Drop for ReportOnDrop {
    fn drop(&mut self) {
        if !self.is_sent {
            let no_response: Option<RecordedResponse> = None;
            let end = match self.begun {
                Some(epoch) => AttemptEnd::Made { epoch, outcome: Outcome::Failed, response: no_response },
                None => AttemptEnd::NotRecorded,
            };
            self.report.do_send(Attempted { seq: self.seq, end });
        }
    }
}
