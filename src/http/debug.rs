//! `/debug` and `/healthz`: what the daemon and its actors are doing, as JSON with stable names (see docs/observability.md).
//!
//! Pages that walk all functions do so in slices, one reader's slice at a time, with pauses: however many there are, they
//! take a bounded share of a processor and hold one slice each. An actor that does not answer in time is left out.

use std::{convert::Infallible, sync::Arc, time::Duration};

use actix_web::{
    HttpRequest, HttpResponse,
    body::MessageBody,
    dev::{ServiceRequest, ServiceResponse},
    guard,
    http::header::{HeaderName, HeaderValue},
    middleware::{Next, from_fn},
    web,
};
use bytes::Bytes;
use futures::{Stream, future::join_all, stream::unfold};
use serde::Serialize;
use tokio::time::{Instant, sleep, timeout};
use unifaas_actors::{AdmissionQuestion, AdmissionReport, FunctionHandle, InstanceId, InstanceSnapshot};

use super::{
    admin_access::{AdminAccess, reject},
    client_connection::client_of,
    conn_limit::ConnectionReport,
    headers::REQUEST_ID,
    request_id::RequestId,
    shared::{Settings, Shared},
    status::{Failure, Rejection},
};

/// How long the admission actor may take to answer.
const ACTOR_TIMEOUT: Duration = Duration::from_secs(2);
/// Functions in a slice.
const SLICE: usize = 16;
/// Between two slices of all readers: at least this, and so many times as long as a slice has taken.
const SLICE_PAUSE: Duration = Duration::from_millis(1);
const PAUSE_FACTOR: u32 = 3;

/// Adds the routes of the admin pages, and the answer to everything else.
pub fn routes(config: &mut web::ServiceConfig) {
    let read = || web::route().guard(guard::Any(guard::Get()).or(guard::Head()));
    let pages = web::scope("")
        .wrap(from_fn(count_and_name))
        .route("/healthz", read().to(healthz))
        .route("/debug", read().to(everything))
        .route("/debug/", read().to(everything))
        .route("/debug/functions/{name}", read().to(one_function))
        .route("/debug/instances/{id}", read().to(one_instance))
        .default_service(web::to(nothing));
    config.service(pages);
    // A target without a path, like that of `OPTIONS *`, is outside of every scope.
    config.default_service(web::to(nothing).wrap(from_fn(count_and_name)));
}

/// Whether there may be a page at this path.
pub fn is_page(path: &str) -> bool {
    path == "/healthz" || path == "/debug" || path.starts_with("/debug/")
}

/// Counts a page request among those of its connection, and sets its request id in the response.
async fn count_and_name(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    let client = client_of(request.request()).cloned();
    if let Some(client) = &client {
        client.unless_ended().await;
    }
    let _active = client.as_ref().map(|client| client.begin_request(request.head()));
    if client.is_some_and(|client| !client.guard.is_within_limit()) {
        return Err(reject(request.request(), Failure::TooManyConnections).into());
    }
    let request_id = RequestId::of(request.headers().get(REQUEST_ID).map(|id| id.as_bytes()));
    let mut response = next.call(request).await?;
    if !response.headers().contains_key(REQUEST_ID)
        && let Ok(value) = HeaderValue::from_bytes(request_id.as_bytes())
    {
        response.headers_mut().insert(HeaderName::from_static(REQUEST_ID), value);
    }
    Ok(response)
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
    #[serde(flatten)]
    admission: Option<AdmissionReport>,
}

#[derive(Serialize)]
struct Instance<'a> {
    function: &'a str,
    #[serde(flatten)]
    itself: InstanceSnapshot,
}

/// Tells a load balancer to send its requests elsewhere as soon as this daemon refuses them.
async fn healthz(request: HttpRequest, shared: web::Data<Shared>) -> Result<HttpResponse, Rejection> {
    if shared.is_draining() {
        return Err(reject(&request, Failure::Draining));
    }
    Ok(HttpResponse::Ok().content_type("text/plain").body("ok\n"))
}

async fn everything(_: AdminAccess, shared: web::Data<Shared>) -> HttpResponse {
    let admission = timeout(ACTOR_TIMEOUT, shared.admission.send(AdmissionQuestion)).await.ok().and_then(Result::ok);
    let daemon = Daemon {
        version: env!("CARGO_PKG_VERSION"),
        pid: std::process::id(),
        uptime_seconds: shared.started.elapsed().as_secs_f64(),
        draining: shared.is_draining(),
        settings: &shared.settings,
        connections: shared.limiter.report(),
        callbacks_refused: shared.callbacks.refused(),
        admission,
    };
    let beginning = format!("{{\"daemon\":{},\"functions\":{{", json(&daemon));
    let mut page = HttpResponse::Ok();
    page.content_type("application/json").streaming(in_slices(shared.into_inner(), beginning))
}

/// All functions, by name.
fn sorted(shared: &Shared) -> Vec<Arc<FunctionHandle>> {
    let mut handles: Vec<_> = shared.directory.all().values().cloned().collect();
    handles.sort_unstable_by(|a, b| a.name().cmp(b.name()));
    handles
}

/// The page of all functions, behind its beginning.
fn in_slices(shared: Arc<Shared>, beginning: String) -> impl Stream<Item = Result<Bytes, Infallible>> {
    let handles = sorted(&shared);
    unfold((shared, handles, Some(beginning), 0, true), |(shared, handles, beginning, at, mut is_first)| async move {
        if beginning.is_none() && at >= handles.len() {
            return None;
        }
        let mut text = beginning.unwrap_or_default();
        let end = (at + SLICE).min(handles.len());
        let turn = shared.page_slices.acquire().await;
        let begun = Instant::now();
        let reports = join_all(handles[at..end].iter().map(|handle| async { (handle.name(), handle.inspect().await) }));
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
        } else {
            sleep(SLICE_PAUSE.max(begun.elapsed() * PAUSE_FACTOR)).await;
        }
        drop(turn);
        Some((Ok(text.into()), (shared, handles, None, end.max(1), is_first)))
    })
}

async fn one_function(
    _: AdminAccess,
    request: HttpRequest,
    shared: web::Data<Shared>,
    name: web::Path<String>,
) -> Result<HttpResponse, Rejection> {
    if let Some(handle) = shared.directory.find(&name)
        && let Some(function) = handle.inspect().await
    {
        return Ok(HttpResponse::Ok().json(function));
    }
    nothing(request).await
}

async fn one_instance(
    _: AdminAccess,
    request: HttpRequest,
    shared: web::Data<Shared>,
    id: web::Path<String>,
) -> Result<HttpResponse, Rejection> {
    let Some(id) = InstanceId::parse(&id) else { return nothing(request).await };
    for slice in sorted(&shared).chunks(SLICE) {
        let _turn = shared.page_slices.acquire().await;
        for handle in slice {
            if let Some(itself) = handle.inspect_instance(id).await {
                return Ok(HttpResponse::Ok().json(Instance { function: handle.name(), itself }));
            }
        }
    }
    nothing(request).await
}

async fn nothing(request: HttpRequest) -> Result<HttpResponse, Rejection> {
    Err(reject(&request, Failure::NoSuchPage))
}

fn json(content: &(impl Serialize + ?Sized)) -> String {
    // What is shown are numbers, strings and maps with names as keys, all of which can be written.
    serde_json::to_string(content).unwrap_or_else(|_| "null".to_owned())
}
