//! `/debug` and `/healthz`: what the daemon and its actors are doing, as JSON with stable names (see docs/observability.md).
//!
//! Pages that walk all functions do so in slices, one reader's slice at a time, with pauses: however many there are, they
//! take a bounded share of a processor and hold one slice each. An actor that does not answer in time is left out.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use actix_http::ConnectionType;
use actix_web::{
    HttpRequest, HttpResponse,
    body::{BodySize, BoxBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    guard,
    http::header::{HeaderName, HeaderValue},
    middleware::{Next, from_fn},
    web,
};
use bytes::Bytes;
use futures::{Stream, future::join_all, stream::unfold};
use serde::Serialize;
use tokio::time::timeout;
use unifaas_actors::{
    AdmissionQuestion, AdmissionReport, BootReport, EndedReport, FunctionReport, InstanceId, InstanceRecord,
    rounded_seconds,
    trigger::{FunctionTriggers, FunctionTriggersQuestion, TriggerQuestion, TriggerReport},
};

use super::{
    Pages,
    access::{AdminAccess, AdminAudience, reject},
    actions, blobs, cluster, dashboard, events,
    format::json,
    inbox, logs, memory, metrics, publish, records, summary,
};
use crate::{
    cluster::FunctionVersions,
    failure::{Failure, Rejection},
    header_names::REQUEST_ID,
    http::{ActiveRequest, ConnectionReport, ListenerKind, RequestFacts, client_of},
    inbox::{FunctionOverview, InboxOverview},
    invocation::is_invocation,
    shared::{Settings, Shared},
};

/// How long the admission actor may take to answer.
const ACTOR_TIMEOUT: Duration = Duration::from_secs(2);
/// Lines of an instance's output on the page of all functions.
const LINES_OF_ALL: usize = 20;
/// Functions in a slice.
const SLICE: usize = 16;

/// Adds the routes of the admin pages for an audience, and the answer to everything else.
pub fn routes(config: &mut web::ServiceConfig, audience: AdminAudience) {
    config.app_data(audience);
    let read = || web::route().guard(guard::Any(guard::Get()).or(guard::Head()));
    let pages = web::scope("")
        .guard(guard::fn_guard(|context| !is_invocation(context.head())))
        .wrap(from_fn(count_and_name))
        .route("/healthz", read().to(healthz))
        .route("/metrics", read().to(metrics::metrics))
        .route("/debug", read().to(everything))
        .route("/debug/", read().to(everything))
        .route("/debug/summary", read().to(summary::summary))
        .route("/debug/logs", read().to(logs::logs))
        .route("/debug/events", read().to(events::events))
        .route("/debug/memory", read().to(memory::memory))
        .route("/debug/boots", read().to(records::boots))
        .route("/debug/errors", read().to(records::errors))
        .route("/debug/snapshots", read().to(records::snapshots))
        .route("/debug/cluster", read().to(cluster::cluster))
        .configure(dashboard::routes)
        .route("/debug/functions/{name}", read().to(one_function))
        .route("/debug/instances/{id}", read().to(one_instance))
        .configure(actions::routes)
        .configure(inbox::routes)
        .configure(publish::routes)
        .default_service(web::to(nothing));
    config.service(pages);
    // A target without a path, like that of `OPTIONS *`, is outside of every scope.
    config.default_service(web::to(nothing).wrap(from_fn(count_and_name)));
}

/// Adds the routes of the listener for metrics. Every client that can connect sees them.
pub fn metrics_routes(config: &mut web::ServiceConfig) {
    config.app_data(AdminAudience::Public);
    let read = || web::route().guard(guard::Any(guard::Get()).or(guard::Head()));
    let pages = web::scope("")
        .wrap(from_fn(count_and_name))
        .route("/healthz", read().to(healthz))
        .route("/metrics", read().to(metrics::metrics))
        .default_service(web::to(nothing));
    config.service(pages);
    config.default_service(web::to(nothing).wrap(from_fn(count_and_name)));
}

/// Adds the routes of the listener for other nodes, besides invocations.
pub fn peer_routes(config: &mut web::ServiceConfig) {
    let blob = web::resource("/blobs/{id}").guard(guard::Any(guard::Get()).or(guard::Head()));
    config.service(blob.wrap(from_fn(count_and_name)).to(blobs::blob));
}

/// Counts a page request among those of its connection, and sets its request id in the response.
async fn count_and_name(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    let client = client_of(request.request()).cloned();
    let facts = RequestFacts::of(request.head(), client.as_ref().is_some_and(|client| client.is_http2));
    let active = client.as_ref().map(|client| client.begin_request(&facts));
    let is_last = request.head().connection_type() != ConnectionType::KeepAlive;
    if let Some(client) = client.as_ref().filter(|_| is_last) {
        client.end_after_response();
    }
    if client.is_some_and(|client| !client.guard.is_within_limit()) {
        return Err(reject(request.request(), Failure::TooManyConnections).into());
    }
    let mut response = next.call(request).await?;
    if is_last {
        // actix-http would announce an upgrade that was asked for.
        response.response_mut().head_mut().set_connection_type(ConnectionType::Close);
    }
    if !response.headers().contains_key(REQUEST_ID)
        && let Ok(value) = HeaderValue::from_bytes(facts.request_id.as_bytes())
    {
        response.headers_mut().insert(HeaderName::from_static(REQUEST_ID), value);
    }
    Ok(response.map_body(|_, body| ActiveBody { body: body.boxed(), _active: active }))
}

/// The body of a page. The connection counts as busy until its end.
struct ActiveBody {
    body: BoxBody,
    _active: Option<ActiveRequest>,
}

impl MessageBody for ActiveBody {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        self.body.as_pin_mut().poll_next(cx)
    }
}

#[derive(Serialize)]
struct Daemon<'a> {
    version: &'static str,
    pid: u32,
    uptime_seconds: f64,
    draining: bool,
    settings: &'a Settings,
    connections: ConnectionReport,
    callbacks_refused: u64,
    snapshot_bytes: u64,
    /// Asynchronous invocations.
    inbox: Option<InboxOverview>,
    triggers: Option<TriggerReport>,
    #[serde(flatten)]
    admission: Option<AdmissionReport>,
}

#[derive(Serialize)]
struct Function {
    #[serde(flatten)]
    itself: FunctionReport,
    /// Instances that have ended, the last one first.
    ended: Vec<EndedReport>,
    /// Asynchronous invocations, if it has any.
    #[serde(skip_serializing_if = "Option::is_none")]
    inbox: Option<FunctionOverview>,
    /// Its schedules and subscriptions, if it has any.
    #[serde(skip_serializing_if = "Option::is_none")]
    triggers: Option<FunctionTriggers>,
    /// Its versions, if it is published.
    #[serde(skip_serializing_if = "Option::is_none")]
    published: Option<FunctionVersions>,
}

#[derive(Serialize)]
struct Instance<'a, T> {
    function: &'a str,
    boot: BootReport,
    memory: InstanceMemory,
    #[serde(flatten)]
    itself: T,
}

/// In bytes. What is not known is left out.
#[derive(Serialize)]
struct InstanceMemory {
    declared: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    used: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peak: Option<u64>,
}

impl From<&InstanceRecord> for InstanceMemory {
    fn from(record: &InstanceRecord) -> Self {
        Self { declared: record.memory << 20, used: record.memory_used(), peak: record.memory_peak() }
    }
}

/// Tells a load balancer to send its requests elsewhere as soon as this daemon refuses them.
async fn healthz(request: HttpRequest, shared: web::Data<Shared>) -> Result<HttpResponse, Rejection> {
    if shared.is_draining() {
        return Err(reject(&request, Failure::Draining));
    }
    Ok(HttpResponse::Ok().content_type("text/plain").body("ok\n"))
}

async fn everything(_: AdminAccess, shared: web::Data<Shared>, pages: web::Data<Pages>) -> HttpResponse {
    let admission = timeout(ACTOR_TIMEOUT, shared.admission.send(AdmissionQuestion)).await.ok().and_then(Result::ok);
    let settings = shared.settings();
    let triggers = &pages.control.triggers;
    let daemon = Daemon {
        version: env!("CARGO_PKG_VERSION"),
        pid: std::process::id(),
        uptime_seconds: rounded_seconds(shared.started.elapsed()),
        draining: shared.is_draining(),
        settings: &settings,
        connections: shared.server.connections(ListenerKind::Front).report(),
        callbacks_refused: shared.callbacks_refused(),
        snapshot_bytes: shared.snapshots.bytes(),
        inbox: shared.inbox.overview_with_site().await,
        triggers: timeout(ACTOR_TIMEOUT, triggers.send(TriggerQuestion)).await.ok().and_then(Result::ok),
        admission,
    };
    let beginning = format!("{{\"daemon\":{},\"functions\":{{", json(&daemon));
    let mut page = HttpResponse::Ok();
    page.content_type("application/json").streaming(in_slices(&shared, pages.into_inner(), beginning))
}

/// The page of all functions, behind its beginning.
fn in_slices(
    shared: &Shared,
    pages: Arc<Pages>,
    beginning: String,
) -> impl Stream<Item = Result<Bytes, Infallible>> + use<> {
    let handles = summary::sorted(&shared.directory);
    unfold((pages, handles, Some(beginning), 0, true), |(pages, handles, beginning, at, mut is_first)| async move {
        if beginning.is_none() && at >= handles.len() {
            return None;
        }
        let mut text = beginning.unwrap_or_default();
        let end = (at + SLICE).min(handles.len());
        let turn = pages.turns.next().await;
        let reports = join_all(
            handles[at..end].iter().map(|handle| async { (handle.name(), handle.inspect(LINES_OF_ALL).await) }),
        );
        for (name, report) in reports.await {
            let Some(report) = report else { continue };
            if !std::mem::take(&mut is_first) {
                text.push(',');
            }
            text.push_str(&json(name));
            text.push(':');
            text.push_str(&json(&report));
        }
        if end == handles.len() {
            text.push_str("}}");
            drop(turn);
        } else {
            turn.pause().await;
        }
        Some((Ok(text.into()), (pages, handles, None, end.max(1), is_first)))
    })
}

async fn one_function(
    _: AdminAccess,
    request: HttpRequest,
    shared: web::Data<Shared>,
    pages: web::Data<Pages>,
    name: web::Path<String>,
) -> Result<HttpResponse, Rejection> {
    if let Some(handle) = shared.directory.find(&name)
        && let Some(itself) = handle.inspect(usize::MAX).await
    {
        let ended = shared.history.instances.ended_of(&name);
        let ended = ended.iter().filter_map(|record| record.ended()).collect();
        let inbox = shared.inbox.overview().await.and_then(|overview| overview.of(&name).cloned());
        let triggers = pages.control.triggers.send(FunctionTriggersQuestion(name.as_str().into()));
        let triggers = timeout(ACTOR_TIMEOUT, triggers).await.ok().and_then(Result::ok);
        let triggers = triggers.filter(|triggers| !triggers.is_empty());
        let published = shared.cluster.as_ref().and_then(|cluster| cluster.functions.report_of(&name));
        return Ok(HttpResponse::Ok().json(Function { itself, ended, inbox, triggers, published }));
    }
    nothing(request).await
}

async fn one_instance(
    _: AdminAccess,
    request: HttpRequest,
    shared: web::Data<Shared>,
    id: web::Path<String>,
) -> Result<HttpResponse, Rejection> {
    let Some(record) = InstanceId::parse(&id).and_then(|id| shared.history.instances.find(id)) else {
        return nothing(request).await;
    };
    let (function, boot, memory) = (&*record.function, record.boot.report(), InstanceMemory::from(&*record));
    if let Some(handle) = shared.directory.find(function)
        && let Some(itself) = handle.inspect_instance(record.instance).await
    {
        return Ok(HttpResponse::Ok().json(Instance { function, boot, memory, itself }));
    }
    // Its function has been removed, or it has just ended.
    match record.ended_with_output() {
        Some(itself) => Ok(HttpResponse::Ok().json(Instance { function, boot, memory, itself })),
        None => nothing(request).await,
    }
}

async fn nothing(request: HttpRequest) -> Result<HttpResponse, Rejection> {
    Err(reject(&request, Failure::NoSuchPage))
}
