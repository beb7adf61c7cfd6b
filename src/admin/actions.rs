//! `POST` below `/debug`: restarts and stops of functions and instances, snapshots, and reading the registry.

use std::{sync::Arc, time::Duration};

use actix_web::{
    HttpRequest, HttpResponse,
    http::Method,
    web::{self, ServiceConfig},
};
use serde::Serialize;
use slog::info;
use tokio::{sync::oneshot, time::timeout};
use unifaas_actors::{FunctionHandle, InstanceId, Refusal, Rescan, Rescanned};

use super::{
    Pages,
    access::{ActionAccess, AdminAccess, reject},
};
use crate::{
    failure::{Failure, Rejection},
    shared::Shared,
};

/// How long reading the registry may take.
const RESCAN_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug, Serialize)]
struct Restarted {
    restarted: bool,
    /// Instances that are replaced.
    replacing: usize,
}

#[derive(Debug, Serialize)]
struct Stopped {
    /// Instances.
    stopped: usize,
}

#[derive(Debug, Serialize)]
struct SnapshotOrdered {
    /// False: the function wants no snapshot.
    ordered: bool,
}

#[derive(Debug, Serialize)]
struct SnapshotRemoved {
    /// False: there was none.
    removed: bool,
}

#[derive(Debug, Serialize)]
struct Upgraded {
    upgraded: bool,
    /// The new daemon.
    pid: u32,
}

#[derive(Debug, Serialize)]
struct Registry {
    functions: usize,
    /// Names with reasons.
    invalid: Vec<String>,
}

/// Adds the routes of actions.
pub fn routes(config: &mut ServiceConfig) {
    let action = |path| web::resource(path).default_service(web::to(other_method));
    config
        .service(action("/debug/functions/{name}/restart").route(web::post().to(restart)))
        .service(action("/debug/functions/{name}/stop").route(web::post().to(stop_function)))
        .service(action("/debug/functions/{name}/snapshot").route(web::post().to(take_snapshot)))
        .service(action("/debug/functions/{name}/snapshot/remove").route(web::post().to(remove_snapshot)))
        .service(action("/debug/instances/{id}/stop").route(web::post().to(stop_instance)))
        .service(action("/debug/rescan").route(web::post().to(rescan)))
        .service(action("/debug/upgrade").route(web::post().to(upgrade)));
}

async fn restart(
    access: ActionAccess,
    request: HttpRequest,
    shared: web::Data<Shared>,
    name: web::Path<String>,
) -> Result<HttpResponse, Rejection> {
    require_serving(&shared).map_err(|failure| reject(&request, failure))?;
    let handle = function(&request, &shared, &name)?;
    let replacing = answered(&request, handle.restart().await)?;
    info!(shared.log, "restart was requested"; "function" => &*name, "user" => access.user, "replacing" => replacing);
    Ok(HttpResponse::Ok().json(Restarted { restarted: true, replacing }))
}

async fn stop_function(
    access: ActionAccess,
    request: HttpRequest,
    shared: web::Data<Shared>,
    name: web::Path<String>,
) -> Result<HttpResponse, Rejection> {
    let handle = function(&request, &shared, &name)?;
    let stopped = answered(&request, handle.stop().await)?;
    info!(shared.log, "stop was requested"; "function" => &*name, "user" => access.user, "stopped" => stopped);
    Ok(HttpResponse::Ok().json(Stopped { stopped }))
}

async fn take_snapshot(
    access: ActionAccess,
    request: HttpRequest,
    shared: web::Data<Shared>,
    name: web::Path<String>,
) -> Result<HttpResponse, Rejection> {
    require_serving(&shared).map_err(|failure| reject(&request, failure))?;
    let handle = function(&request, &shared, &name)?;
    let ordered = answered(&request, handle.take_snapshot().await)?;
    info!(shared.log, "snapshot was requested"; "function" => &*name, "user" => access.user, "ordered" => ordered);
    Ok(HttpResponse::Ok().json(SnapshotOrdered { ordered }))
}

async fn remove_snapshot(
    access: ActionAccess,
    request: HttpRequest,
    shared: web::Data<Shared>,
    name: web::Path<String>,
) -> Result<HttpResponse, Rejection> {
    let handle = function(&request, &shared, &name)?;
    let removed = answered(&request, handle.remove_snapshot().await)?;
    info!(shared.log, "removal of a snapshot was requested"; "function" => &*name, "user" => access.user,
        "removed" => removed);
    Ok(HttpResponse::Ok().json(SnapshotRemoved { removed }))
}

async fn stop_instance(
    access: ActionAccess,
    request: HttpRequest,
    shared: web::Data<Shared>,
    id: web::Path<String>,
) -> Result<HttpResponse, Rejection> {
    let no_instance = || reject(&request, Failure::NoSuchInstance);
    let id = InstanceId::parse(&id).ok_or_else(no_instance)?;
    let record = shared.history.instances.find(id).ok_or_else(no_instance)?;
    let handle = shared.directory.find(&record.function).ok_or_else(no_instance)?;
    if !answered(&request, handle.stop_instance(id).await)? {
        return Err(no_instance());
    }
    info!(shared.log, "stop was requested"; "function" => &*record.function, "instance" => %id, "user" => access.user);
    Ok(HttpResponse::Ok().json(Stopped { stopped: 1 }))
}

async fn rescan(
    access: ActionAccess,
    request: HttpRequest,
    shared: web::Data<Shared>,
    pages: web::Data<Pages>,
) -> Result<HttpResponse, Rejection> {
    let failed = |failure| reject(&request, failure);
    require_serving(&shared).map_err(failed)?;
    let (done, rescanned) = oneshot::channel();
    pages.control.registry.do_send(Rescan { done });
    let Rescanned { functions, invalid } = match timeout(RESCAN_TIMEOUT, rescanned).await {
        Ok(Ok(Ok(rescanned))) => rescanned,
        Ok(Ok(Err(why))) => return Err(failed(Failure::RegistryUnreadable { why })),
        Ok(Err(_)) => return Err(failed(Failure::Draining)),
        Err(_) => {
            let why = format!("it was not read within {} s", RESCAN_TIMEOUT.as_secs());
            return Err(failed(Failure::RegistryUnreadable { why }));
        }
    };
    let invalid: Vec<_> = invalid.iter().map(|(name, reason)| format!("{name}: {reason}")).collect();
    info!(shared.log, "registry was read on request"; "user" => access.user, "functions" => functions,
        "invalid" => invalid.len());
    Ok(HttpResponse::Ok().json(Registry { functions, invalid }))
}

async fn upgrade(
    access: ActionAccess,
    request: HttpRequest,
    shared: web::Data<Shared>,
    pages: web::Data<Pages>,
) -> Result<HttpResponse, Rejection> {
    info!(shared.log, "upgrade was requested"; "user" => access.user);
    let pid = pages.control.upgrades.request().await.map_err(|error| reject(&request, error.into()))?;
    Ok(HttpResponse::Ok().json(Upgraded { upgraded: true, pid }))
}

/// Returns the function of this name.
fn function(request: &HttpRequest, shared: &Shared, name: &str) -> Result<Arc<FunctionHandle>, Rejection> {
    shared.directory.find(name).ok_or_else(|| reject(request, Failure::NoSuchFunction))
}

/// Returns a FunctionActor's answer; there is none if the actor has ended.
fn answered<T>(request: &HttpRequest, answer: Option<T>) -> Result<T, Rejection> {
    answer.ok_or_else(|| reject(request, Refusal::Lost.into()))
}

/// Fails while the daemon drains: it starts nothing any more.
fn require_serving(shared: &Shared) -> Result<(), Failure> {
    if shared.is_draining() { Err(Failure::Draining) } else { Ok(()) }
}

/// Refuses what is no POST.
pub async fn other_method(_: AdminAccess, request: HttpRequest) -> Result<HttpResponse, Rejection> {
    Err(reject(&request, Failure::MethodNotAllowed { allowed: Method::POST.to_string() }))
}
