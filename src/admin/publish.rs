//! `POST` below `/debug/functions/<function>`: publishing, rollouts, and going back. `unifaas publish` and others send it.

use actix_web::{
    HttpRequest, HttpResponse,
    web::{self, ServiceConfig},
};
use futures::StreamExt as _;
use serde::{Deserialize, Serialize};
use slog::info;
use unifaas_actors::{
    WallTime,
    cluster::{BlobId, PublishedVersion},
    spec::check_name,
};

use super::{
    Pages,
    access::{ActionAccess, reject},
    actions::other_method,
    query::query_of,
};
use crate::{
    cluster::{ChangeKind, Changed, Functions, PublishError, Upload},
    failure::{Failure, Rejection},
    shared::Shared,
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Publishing {
    /// The length of the manifest, with which the body begins.
    manifest: usize,
    percent: Option<u8>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RollingOut {
    version: String,
    percent: Option<u8>,
}

#[derive(Debug, Serialize)]
struct Published {
    revision: u64,
    /// The version that was published.
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<BlobId>,
    /// The version that is served by nodes that try no other one.
    #[serde(skip_serializing_if = "Option::is_none")]
    wanted: Option<BlobId>,
}

/// Adds the routes.
pub fn routes(config: &mut ServiceConfig) {
    let action = |path| web::resource(path).default_service(web::to(other_method));
    config
        .service(action("/debug/functions/{name}/publish").route(web::post().to(publish)))
        .service(action("/debug/functions/{name}/rollout").route(web::post().to(roll_out)))
        .service(action("/debug/functions/{name}/rollback").route(web::post().to(roll_back)))
        .service(action("/debug/functions/{name}/unpublish").route(web::post().to(unpublish)));
}

async fn publish(
    access: ActionAccess,
    request: HttpRequest,
    shared: web::Data<Shared>,
    pages: web::Data<Pages>,
    name: web::Path<String>,
    body: web::Payload,
) -> Result<HttpResponse, Rejection> {
    let failed = |error: PublishError| reject(&request, error.into());
    let functions = functions(&shared).map_err(failed)?;
    require_owner(&pages, access.user).map_err(failed)?;
    check_name(&name).map_err(|error| failed(PublishError::Refused(error.to_string())))?;
    let Publishing { manifest, percent } = query_of(&request)?;
    let percent = share(percent).map_err(|failure| reject(&request, failure))?;
    functions.check_available().map_err(failed)?;
    let revision = functions.revision(&name);
    let _kept = functions.begin_publishing(&name);
    let uploaded = receive(functions, &name, manifest, body).await.map_err(|error| {
        // The daemon after an upgrade removes what is half-done.
        failed(functions.check_available().err().unwrap_or(error))
    })?;
    let (version, at) = (uploaded.version, WallTime::now().to_string());
    let published = PublishedVersion { version, bytes: uploaded.bytes, at };
    let what = ChangeKind::Publish { version: published, percent };
    let changed = functions.change(&name, what, revision).await.map_err(failed)?;
    info!(shared.log, "function was published"; "function" => &*name, "version" => %version, "percent" => percent,
        "user" => access.user);
    answer(Some(version), changed)
}

/// Reads a version, on threads that may block.
async fn receive(
    functions: &Functions,
    name: &str,
    manifest: usize,
    mut body: web::Payload,
) -> Result<crate::cluster::Uploaded, PublishError> {
    let broken = |error: &dyn std::fmt::Display| PublishError::Refused(format!("the upload broke off: {error}"));
    let mut upload = Upload::begin(&functions.store, name, manifest)?;
    while let Some(piece) = body.next().await {
        let piece = piece.map_err(|error| broken(&error))?;
        let written = web::block(move || upload.write(&piece).map(|()| upload)).await;
        upload = written.map_err(|error| broken(&error))??;
    }
    let store = functions.store.clone();
    web::block(move || upload.finish(&store)).await.map_err(|error| broken(&error))?
}

async fn roll_out(
    access: ActionAccess,
    request: HttpRequest,
    shared: web::Data<Shared>,
    name: web::Path<String>,
) -> Result<HttpResponse, Rejection> {
    let RollingOut { version, percent } = query_of(&request)?;
    let percent = share(percent).map_err(|failure| reject(&request, failure))?;
    info!(shared.log, "rollout was requested"; "function" => &*name, "version" => &version, "percent" => percent,
        "user" => access.user);
    change(&request, &shared, &name, ChangeKind::RollOut { version, percent }).await
}

async fn roll_back(
    access: ActionAccess,
    request: HttpRequest,
    shared: web::Data<Shared>,
    name: web::Path<String>,
) -> Result<HttpResponse, Rejection> {
    info!(shared.log, "rollback was requested"; "function" => &*name, "user" => access.user);
    change(&request, &shared, &name, ChangeKind::RollBack).await
}

async fn unpublish(
    access: ActionAccess,
    request: HttpRequest,
    shared: web::Data<Shared>,
    pages: web::Data<Pages>,
    name: web::Path<String>,
) -> Result<HttpResponse, Rejection> {
    require_owner(&pages, access.user).map_err(|error| reject(&request, error.into()))?;
    info!(shared.log, "removal of a published function was requested"; "function" => &*name, "user" => access.user);
    change(&request, &shared, &name, ChangeKind::Remove).await
}

/// Changes the catalogue.
async fn change(
    request: &HttpRequest,
    shared: &Shared,
    name: &str,
    what: ChangeKind,
) -> Result<HttpResponse, Rejection> {
    let failed = |error: PublishError| reject(request, error.into());
    let functions = functions(shared).map_err(failed)?;
    let changed = functions.change(name, what, functions.revision(name)).await.map_err(failed)?;
    answer(None, changed)
}

fn answer(version: Option<BlobId>, Changed { revision, version: wanted }: Changed) -> Result<HttpResponse, Rejection> {
    Ok(HttpResponse::Ok().json(Published { revision, version, wanted }))
}

fn functions(shared: &Shared) -> Result<&Functions, PublishError> {
    Ok(&shared.cluster.as_ref().ok_or(PublishError::NoCluster)?.functions)
}

/// Requires root or the user of the daemon.
fn require_owner(pages: &Pages, user: u32) -> Result<(), PublishError> {
    let is_owner = pages.access.operators.include_without_group(user);
    is_owner.then_some(()).ok_or(PublishError::NotAllowed)
}

fn share(percent: Option<u8>) -> Result<u8, Failure> {
    let why = || Failure::BadQuery { why: "percent has to be between 0 and 100".to_owned() };
    let percent = percent.unwrap_or(100);
    (percent <= 100).then_some(percent).ok_or_else(why)
}
