//! `/debug/boots`, `/debug/errors` and `/debug/snapshots`: what is kept of starts, of failures and of guests.

use std::collections::BTreeMap;

use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use unifaas_actors::{BootReport, ErrorReport, SnapshotReport};

use super::{access::AdminAccess, query::query_of};
use crate::{failure::Rejection, shared::Shared, snapshot::SnapshotEntry};

/// Starts that are shown without a wish.
const DEFAULT_LIMIT: usize = 100;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct BootsQuery {
    function: Option<String>,
    limit: Option<usize>,
}

#[derive(Debug, Serialize)]
struct Boots {
    /// The last one first.
    boots: Vec<BootReport>,
    /// Of the last hour, the slowest first.
    slowest: Vec<BootReport>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ErrorsQuery {
    function: Option<String>,
}

#[derive(Debug, Serialize)]
struct Errors {
    /// The last failure first.
    errors: Vec<ErrorReport>,
}

#[derive(Debug, Serialize)]
struct Snapshots {
    /// Those that are kept, by function.
    snapshots: Vec<SnapshotEntry>,
    /// The functions that want one, and how far that is.
    functions: BTreeMap<String, SnapshotReport>,
}

/// Serves the page of snapshots.
pub async fn snapshots(_: AdminAccess, shared: web::Data<Shared>) -> HttpResponse {
    let handles = shared.directory.all();
    let reports = handles.values().filter_map(|it| Some((it.name().to_owned(), it.snapshot_report()?)));
    HttpResponse::Ok().json(Snapshots { snapshots: shared.snapshots.list(), functions: reports.collect() })
}

/// Serves the page of starts.
pub async fn boots(_: AdminAccess, request: HttpRequest, shared: web::Data<Shared>) -> Result<HttpResponse, Rejection> {
    let BootsQuery { function, limit } = query_of(&request)?;
    let (boots, function, limit) = (&shared.history.boots, function.as_deref(), limit.unwrap_or(DEFAULT_LIMIT));
    let (recent, slowest) = (boots.recent(function, limit), boots.slowest(function, limit));
    Ok(HttpResponse::Ok().json(Boots { boots: recent, slowest }))
}

/// Serves the page of failures.
pub async fn errors(
    _: AdminAccess,
    request: HttpRequest,
    shared: web::Data<Shared>,
) -> Result<HttpResponse, Rejection> {
    let ErrorsQuery { function } = query_of(&request)?;
    Ok(HttpResponse::Ok().json(Errors { errors: shared.history.errors.reports(function.as_deref()) }))
}
