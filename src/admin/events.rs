//! `/debug/events`: one stream of everything that a page shows.
//!
//! | topic | events |
//! | --- | --- |
//! | `change` | `snapshot` with all summaries, then `change` with those that have changed, at most twice a second |
//! | `boot` | `boot` for each start that has succeeded or failed |
//! | `error` | `error` for each group of failures in which something has happened |
//! | `log` | `log` for each line of output, `gap` where lines are missing |

use actix_web::{HttpRequest, HttpResponse, web};
use futures::{FutureExt as _, future::LocalBoxFuture};
use serde::Deserialize;
use unifaas_actors::LineFilter;

use super::{
    Pages,
    access::{AdminAccess, reject},
    format::{Format, json, put_event},
    live::{self, Updates, Wanted},
    logs,
    query::query_of,
    summary::{DaemonSummary, daemon},
};
use crate::{
    failure::{Failure, Rejection},
    shared::Shared,
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Query {
    topics: Option<String>,
    function: Option<String>,
    instance: Option<String>,
    #[serde(default)]
    tail: usize,
}

/// The topics of a stream.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Topics {
    change: bool,
    boot: bool,
    error: bool,
    log: bool,
}

/// Serves the page.
pub async fn events(
    access: AdminAccess,
    request: HttpRequest,
    payload: web::Payload,
    shared: web::Data<Shared>,
    pages: web::Data<Pages>,
) -> Result<HttpResponse, Rejection> {
    let Query { topics, function, instance, tail } = query_of(&request)?;
    let Some(topics) = Topics::parse(topics.as_deref()) else {
        let why = "a topic is one of change, boot, error, log";
        return Err(reject(&request, Failure::BadQuery { why: why.to_owned() }));
    };
    let lines = logs::filter(&request, &shared, function.clone(), instance)?;
    let wanted = Wanted {
        format: Format::EventStream,
        lines: if topics.log { lines } else { LineFilter::Nothing },
        tail,
        behind: None,
        updates: Some(Box::new(Changes { topics, function, version: 0, daemon: None, boots: 0, errors: 0 })),
    };
    live::respond(access, &request, payload, shared.into_inner(), pages.into_inner(), wanted).await
}

impl Topics {
    /// Parses a list. Without one, all but the output are wanted. `None`: there is no such topic.
    fn parse(list: Option<&str>) -> Option<Self> {
        let Some(list) = list else { return Some(Self { change: true, boot: true, error: true, log: false }) };
        list.split(',').filter(|topic| !topic.is_empty()).try_fold(Self::default(), |topics, topic| match topic {
            "change" => Some(Self { change: true, ..topics }),
            "boot" => Some(Self { boot: true, ..topics }),
            "error" => Some(Self { error: true, ..topics }),
            "log" => Some(Self { log: true, ..topics }),
            _ => None,
        })
    }
}

/// What a stream sends besides output, and how much of it was sent.
struct Changes {
    topics: Topics,
    /// The only function of interest.
    function: Option<String>,
    /// Of the last sample of summaries.
    version: u64,
    daemon: Option<DaemonSummary>,
    /// The last start that was sent, and the last failure, by their sequence numbers.
    boots: u64,
    errors: u64,
}

impl Updates for Changes {
    fn first<'a>(&'a mut self, shared: &'a Shared, pages: &'a Pages, behind: u64) -> LocalBoxFuture<'a, String> {
        let first = async move {
            let mut out = String::new();
            (self.boots, self.errors) = (behind, behind);
            if self.topics.change {
                self.put_snapshot(&mut out, shared, pages).await;
            }
            out
        };
        first.boxed_local()
    }

    fn next<'a>(&'a mut self, shared: &'a Shared, pages: &'a Pages) -> LocalBoxFuture<'a, String> {
        let next = async move {
            let mut out = String::new();
            if self.topics.change {
                self.put_changes(&mut out, shared, pages).await;
            }
            out
        };
        next.boxed_local()
    }

    fn records(&mut self, shared: &Shared) -> Vec<(u64, String)> {
        let mut records = Vec::new();
        let mut add = |name: &str, sequence: u64, data: String| {
            let mut event = String::new();
            put_event(&mut event, name, Some(sequence), &data);
            records.push((sequence, event));
        };
        let (boots, errors) = (&shared.history.boots, &shared.history.errors);
        for (sequence, boot) in if self.topics.boot { boots.since(self.boots) } else { Vec::new() } {
            self.boots = sequence;
            if self.is_wanted(&boot.function) {
                add("boot", sequence, json(&boot));
            }
        }
        for (sequence, error) in if self.topics.error { errors.since(self.errors) } else { Vec::new() } {
            self.errors = sequence;
            if self.is_wanted(&error.function) {
                add("error", sequence, json(&error));
            }
        }
        records.sort_by_key(|(sequence, _)| *sequence);
        records
    }
}

impl Changes {
    async fn put_snapshot(&mut self, out: &mut String, shared: &Shared, pages: &Pages) {
        let daemon = daemon(shared).await;
        let sample = pages.sampler.sample(&shared.directory).await;
        let functions = sample.all(|name| self.is_wanted(name)).join(",");
        self.version = sample.version();
        put_event(out, "snapshot", None, &format!("{{\"daemon\":{},\"functions\":{{{functions}}}}}", json(&daemon)));
        self.daemon = Some(daemon);
    }

    async fn put_changes(&mut self, out: &mut String, shared: &Shared, pages: &Pages) {
        let sample = pages.sampler.sample(&shared.directory).await;
        let Some(functions) = sample.changes(self.version, |name| self.is_wanted(name)) else {
            drop(sample);
            return self.put_snapshot(out, shared, pages).await;
        };
        self.version = sample.version();
        drop(sample);
        let daemon = daemon(shared).await;
        let mut members = Vec::new();
        if self.daemon.as_ref() != Some(&daemon) {
            members.push(format!("\"daemon\":{}", json(&daemon)));
            self.daemon = Some(daemon);
        }
        if !functions.is_empty() {
            members.push(format!("\"functions\":{{{}}}", functions.join(",")));
        }
        if !members.is_empty() {
            put_event(out, "change", None, &format!("{{{}}}", members.join(",")));
        }
    }

    fn is_wanted(&self, function: &str) -> bool {
        self.function.as_deref().is_none_or(|wanted| wanted == function)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_a_list_of_known_names() {
        let none = Topics::default();
        assert_eq!(Topics::parse(None), Some(Topics { change: true, boot: true, error: true, ..none }));
        assert_eq!(Topics::parse(Some("log")), Some(Topics { log: true, ..none }));
        assert_eq!(Topics::parse(Some("error,boot")), Some(Topics { boot: true, error: true, ..none }));
        assert_eq!(Topics::parse(Some("")), Some(Topics::default()));
        assert_eq!(Topics::parse(Some("log,weather")), None);
    }
}
