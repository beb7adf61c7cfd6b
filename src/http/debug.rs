//! `/debug` and `/healthz`: what the daemon and its actors are doing, as JSON with stable names (see docs/observability.md).
//!
//! Each actor is asked for its own snapshot; one that does not answer in time is left out rather than waited for.

use std::{collections::BTreeMap, time::Duration};

use actix_web::{HttpRequest, HttpResponse, web};
use futures::future::join_all;
use serde::Serialize;
use tokio::time::timeout;
use unifaas_actors::{AdmissionQuestion, AdmissionReport, FunctionReport, InstanceId, InstanceSnapshot};

use super::{Shared, headers::REQUEST_ID, request_id::RequestId, room::Occupancy, status::Failure};

/// How long an actor may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// The routes of the admin part.
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/healthz", web::get().to(healthz))
        .route("/debug", web::get().to(everything))
        .route("/debug/", web::get().to(everything))
        .route("/debug/functions/{name}", web::get().to(one_function))
        .route("/debug/instances/{id}", web::get().to(one_instance))
        .default_service(web::to(nothing));
}

#[derive(Serialize)]
struct Everything<'a> {
    daemon: Daemon<'a>,
    functions: BTreeMap<String, FunctionReport>,
}

#[derive(Serialize)]
struct Daemon<'a> {
    version: &'static str,
    pid: u32,
    uptime_seconds: f64,
    draining: bool,
    settings: &'a super::Settings,
    connections: Occupancy,
    callbacks_refused: u64,
    #[serde(flatten)]
    admission: Option<AdmissionReport>,
}

#[derive(Serialize)]
struct Instance {
    function: String,
    #[serde(flatten)]
    itself: InstanceSnapshot,
}

/// Tells a balancer to send its requests elsewhere as soon as this daemon refuses them.
async fn healthz(request: HttpRequest, shared: web::Data<Shared>) -> HttpResponse {
    if shared.is_draining() {
        return problem(&Failure::Draining, &request);
    }
    HttpResponse::Ok().content_type("text/plain").body("ok\n")
}

async fn everything(shared: web::Data<Shared>) -> HttpResponse {
    let handles = shared.directory.all();
    let functions =
        join_all(handles.iter().map(|(name, handle)| async { Some((name.clone(), handle.inspect().await?)) })).await;
    let admission = timeout(PATIENCE, shared.admission.send(AdmissionQuestion)).await.ok().and_then(Result::ok);
    let daemon = Daemon {
        version: env!("CARGO_PKG_VERSION"),
        pid: std::process::id(),
        uptime_seconds: shared.started.elapsed().as_secs_f64(),
        draining: shared.is_draining(),
        settings: &shared.settings,
        connections: shared.room.occupancy(),
        callbacks_refused: shared.callbacks.refused(),
        admission,
    };
    page(&Everything { daemon, functions: functions.into_iter().flatten().collect() })
}

async fn one_function(request: HttpRequest, shared: web::Data<Shared>, name: web::Path<String>) -> HttpResponse {
    match shared.directory.find(&name) {
        Some(handle) => match handle.inspect().await {
            Some(function) => page(&function),
            None => nothing(request).await,
        },
        None => nothing(request).await,
    }
}

async fn one_instance(request: HttpRequest, shared: web::Data<Shared>, id: web::Path<String>) -> HttpResponse {
    let Some(id) = InstanceId::parse(&id) else { return nothing(request).await };
    for (name, handle) in shared.directory.all().iter() {
        if let Some(itself) = handle.inspect_instance(id).await {
            return page(&Instance { function: name.clone(), itself });
        }
    }
    nothing(request).await
}

async fn nothing(request: HttpRequest) -> HttpResponse {
    problem(&Failure::NoSuchPage, &request)
}

fn problem(failure: &Failure, request: &HttpRequest) -> HttpResponse {
    let request_id = RequestId::of(request.headers().get(REQUEST_ID).map(|id| id.as_bytes()));
    let problem = failure.problem(None, request_id.as_str());
    let mut response = HttpResponse::build(problem.status);
    for (name, value) in &problem.fields {
        response.insert_header((*name, value.as_bytes()));
    }
    response.insert_header((REQUEST_ID, request_id.as_str())).body(problem.body)
}

fn page(content: &impl Serialize) -> HttpResponse {
    HttpResponse::Ok().json(content)
}
