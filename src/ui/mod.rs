//! The dashboard: pages rendered from what the daemon knows anyway. `admin/dashboard.rs` serves them.
//!
//! | file | content |
//! | --- | --- |
//! | `page.rs` | which pages there are, and their addresses |
//! | `layout.rs` | the document, and parts of all pages |
//! | `overview.rs`, `function.rs`, `instance.rs`, `boots.rs`, `boot.rs`, `memory.rs`, `errors.rs`, `cluster.rs` | the pages |
//! | `published.rs` | published functions, on the page of the cluster |
//! | `phases.rs` | the phases of a start; pure |
//! | `attention.rs` | what needs attention, and what to change; pure |
//! | `inbox.rs` | asynchronous invocations on the overview and on a function's page |
//! | `triggers.rs` | schedules and the connections to brokers, there as well |
//! | `function_list.rs`, `traffic.rs` | the list of functions on the overview; the charts of traffic |
//! | `charts.rs`, `format.rs` | charts, numbers and times |
//! | `history.rs`, `point.rs`, `counters.rs` | the last hour |
//! | `sample.rs`, `shares.rs` | the summaries of all functions; what each has of the memory |
//! | `render.rs` | each page rendered at most twice a second, for all that have it open |
//! | `assets/` | the stylesheet, the script and the icon |

mod attention;
mod boot;
mod boots;
mod charts;
mod cluster;
mod counters;
mod errors;
mod format;
mod function;
mod function_list;
mod history;
mod inbox;
mod instance;
mod layout;
mod memory;
mod overview;
mod page;
mod phases;
mod point;
mod published;
mod render;
mod sample;
mod shares;
mod traffic;
mod triggers;

use std::{sync::Arc, time::Duration};

use actix::Addr;
use tokio::time::timeout;
use unifaas_actors::{
    AdmissionQuestion, AdmissionReport, InstanceRecord, OutputLine, OutputStream,
    cluster::{ClusterQuestion, ClusterReport},
    inbox::{Command, Record},
    trigger::{FunctionTriggers, FunctionTriggersQuestion, TriggerActor, TriggerOverview, TriggerOverviewQuestion},
};

use crate::{cluster::FunctionsReport, shared::Shared, turn::Turns};
pub use history::UsageHistory;
pub use layout::{Content, Theme, document, not_found};
pub use page::{Page, PageError};
pub use render::{Renderer, Viewer};
use sample::{Sample, Sampler};
pub use shares::Shares;

/// The stylesheet, the script and the icon.
pub const STYLE: &str = include_str!("assets/style.css");
pub const SCRIPT: &str = include_str!("assets/ui.js");
pub const ICON: &str = include_str!("assets/icon.svg");

/// How long the admission actor may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Lines of an ended instance among which the last printed one is sought.
const LINES_OF_WORDS: usize = 10;

/// What the pages of all workers share.
#[derive(Debug)]
pub struct Dashboard {
    pub history: Arc<UsageHistory>,
    pub renderer: Renderer,
    sampler: Sampler,
    triggers: Addr<TriggerActor>,
}

/// Where a page gets what it shows.
pub struct Known<'a> {
    shared: &'a Shared,
    dashboard: &'a Dashboard,
    turns: &'a Turns,
}

impl Dashboard {
    /// Makes the dashboard of a daemon that has begun to serve.
    pub fn new(triggers: Addr<TriggerActor>) -> Self {
        let (history, renderer, sampler) = Default::default();
        Self { history, renderer, sampler, triggers }
    }

    /// Returns what a page shows now. `None`: its subject does not exist.
    pub async fn content(&self, page: &Page, shared: &Shared, turns: &Turns) -> Option<Content> {
        let known = Known { shared, dashboard: self, turns };
        match page {
            Page::Overview(listing) => Some(overview::content(&known, listing).await),
            Page::Function(name) => function::content(&known, name).await,
            Page::Instance(id) => instance::content(&known, *id).await,
            Page::Boots(function) => Some(boots::content(&known, function.as_deref())),
            Page::Boot(id) => boot::content(&known, *id),
            Page::Memory => Some(memory::content(&known).await),
            Page::Errors(function) => Some(errors::content(&known, function.as_deref())),
            Page::Nodes => cluster::content(&known).await,
        }
    }

    /// Returns what admission has granted, and what each function has of the memory.
    pub async fn memory(&self, shared: &Shared, turns: &Turns) -> (Option<AdmissionReport>, Shares) {
        let known = Known { shared, dashboard: self, turns };
        let admission = known.admission().await;
        (admission, shares::read(&known, admission, shared.settings().memory_budget).await)
    }

    /// Forgets what only open pages need.
    pub fn clear(&self) {
        self.sampler.clear();
    }
}

impl Known<'_> {
    async fn sample(&self) -> Arc<Sample> {
        self.dashboard.sampler.sample(&self.shared.directory, self.turns).await
    }

    async fn admission(&self) -> Option<AdmissionReport> {
        timeout(ANSWER_TIMEOUT, self.shared.admission.send(AdmissionQuestion)).await.ok()?.ok()
    }

    /// Returns what is known of the other nodes. `None`: the daemon runs without a cluster.
    async fn cluster(&self) -> Option<ClusterReport> {
        let actor = self.shared.cluster.as_ref()?.handle.actor();
        timeout(ANSWER_TIMEOUT, actor.send(ClusterQuestion)).await.ok()?.ok()
    }

    /// Returns what is known of published functions. `None`: as above.
    fn published(&self) -> Option<FunctionsReport> {
        self.shared.cluster.as_ref().map(|cluster| cluster.functions.report())
    }

    async fn triggers(&self) -> Option<TriggerOverview> {
        timeout(ANSWER_TIMEOUT, self.dashboard.triggers.send(TriggerOverviewQuestion)).await.ok()?.ok()
    }

    async fn triggers_of(&self, function: &str) -> Option<FunctionTriggers> {
        let question = FunctionTriggersQuestion(function.into());
        timeout(ANSWER_TIMEOUT, self.dashboard.triggers.send(question)).await.ok()?.ok()
    }

    /// Returns the oldest dead letters of a function.
    async fn dead_letters(&self, function: &str, limit: usize) -> Vec<Record> {
        let function = Some(function.into());
        let dead = self.shared.inbox.handle.ask(|reply| Command::Dead { function, after: 0, limit, reply });
        timeout(ANSWER_TIMEOUT, dead).await.ok().and_then(Result::ok).unwrap_or_default()
    }

    fn history(&self) -> &UsageHistory {
        &self.dashboard.history
    }

    /// Returns the last line that an instance printed of a function that keeps failing to start.
    fn last_words(&self, function: &str) -> Option<String> {
        let ended = self.shared.history.instances.ended_of(function).into_iter().next()?;
        let lines = ended.output.complete(LINES_OF_WORDS);
        let mut printed = lines.iter().rev().filter(|line| line.stream != OutputStream::Platform);
        printed.find(|line| !line.text.trim().is_empty()).map(|line| line.text.to_string())
    }

    /// Returns the last lines of all instances of a function, in the order in which they were printed.
    async fn last_lines(&self, function: &str, count: usize) -> Vec<(Arc<InstanceRecord>, Arc<OutputLine>)> {
        let records = self.shared.history.instances.all_of(Some(function));
        let mut lines: Vec<_> = Vec::new();
        for record in records {
            lines.extend(record.output.complete(count).into_iter().map(|line| (record.clone(), line)));
        }
        lines.sort_by_key(|(_, line)| line.sequence);
        lines.drain(..lines.len().saturating_sub(count));
        lines
    }
}
