//! The thread that makes attempts: each is recorded as begun, served like any request, and reported.

use std::sync::{Arc, Mutex, PoisonError};

use actix::Recipient;
use slog::{Logger, error};
use tokio::task::{LocalSet, spawn_local};
use unifaas_actors::inbox::{
    Attempt, AttemptEnd, Attempted, Attempts, Command, InboxHandle, Outcome, RecordedResponse, Seq,
};

use super::invoker::{Invoker, attempt_request};
use crate::worker::{Requests, Worker};

type Job = (Attempt, Recipient<Attempted>);

/// Makes attempts, on a thread of its own that starts with the first one.
pub struct AttemptThread {
    inbox: InboxHandle,
    invoker: Arc<dyn Invoker>,
    log: Logger,
    worker: Mutex<Option<Worker<Job>>>,
}

impl AttemptThread {
    pub fn new(inbox: InboxHandle, invoker: Arc<dyn Invoker>, log: Logger) -> Self {
        Self { inbox, invoker, log, worker: Mutex::default() }
    }
}

impl Attempts for AttemptThread {
    fn begin(&self, attempt: Attempt, report: Recipient<Attempted>) {
        let mut worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        if worker.is_none() {
            let (inbox, invoker) = (self.inbox.clone(), self.invoker.clone());
            match Worker::on_runtime("inbox-attempts", async move |jobs| make_attempts(jobs, inbox, invoker).await) {
                Ok(started) => *worker = Some(started),
                Err(error) => {
                    error!(self.log, "no asynchronous invocation can be tried"; "error" => %error);
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

async fn make_attempts(jobs: Requests<Job>, inbox: InboxHandle, invoker: Arc<dyn Invoker>) {
    let serve = async {
        while let Ok((attempt, report)) = jobs.recv().await {
            let report = ReportOnDrop { seq: attempt.entry.seq, begun: None, report, is_sent: false };
            spawn_local(make_attempt(attempt, report, inbox.clone(), invoker.clone()));
        }
    };
    let tasks = LocalSet::new();
    tasks.run_until(serve).await;
}

async fn make_attempt(attempt: Attempt, mut report: ReportOnDrop, inbox: InboxHandle, invoker: Arc<dyn Invoker>) {
    let (seq, epoch) = (attempt.entry.seq, attempt.entry.epoch);
    let begun = inbox.ask(|reply| Command::Start { seq, epoch, reply }).await;
    let begun = match begun {
        Ok(Some(begun)) => *begun,
        Ok(None) => return report.send(AttemptEnd::Stale),
        Err(_) => return report.send(AttemptEnd::NotRecorded),
    };
    let epoch = begun.record.epoch;
    report.begun = Some(epoch);
    let function = begun.record.function.clone();
    let (outcome, response) = invoker.invoke(&function, attempt_request(begun), attempt.max_response).await;
    report.send(AttemptEnd::Made { epoch, outcome, response });
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
