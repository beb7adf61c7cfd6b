//! `/debug/inbox`: dead letters, and a stored request with what became known of it. Redrives and removals.

use actix_web::{
    HttpRequest, HttpResponse,
    web::{self, ServiceConfig},
};
use serde::{Deserialize, Serialize};
use slog::{info, warn};
use unifaas_actors::inbox::{Command, InvocationId, Removal, Reply, Seq};

use super::{
    access::{ActionAccess, AdminAccess, reject},
    actions::other_method,
    query::query_of,
};
use crate::{
    failure::{InboxFailure, Rejection},
    inbox::ResetError,
    invocation::ShownInvocation,
    shared::Shared,
};

/// Dead letters on a page without a wish, and at most.
const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DeadQuery {
    function: Option<String>,
    /// The number of the last one on the page before.
    after: Option<Seq>,
    limit: Option<usize>,
}

#[derive(Serialize)]
struct Dead<'a> {
    /// The oldest first.
    dead: Vec<ShownInvocation<'a>>,
    /// Where the next page begins, if there may be one.
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<Seq>,
}

#[derive(Serialize)]
struct Letter<'a> {
    #[serde(flatten)]
    invocation: ShownInvocation<'a>,
    /// `None`: it is done, so its request is not kept.
    request: Option<Message>,
    response: Option<Message>,
}

/// A request or a response.
#[derive(Serialize)]
struct Message {
    /// Method and target, or the status.
    line: String,
    headers: Vec<(String, String)>,
    bytes: Option<usize>,
    /// Unless it is no text, or is not kept.
    body: Option<String>,
}

#[derive(Serialize)]
struct Redriven {
    redriven: bool,
}

#[derive(Serialize)]
struct Removed {
    removed: bool,
}

#[derive(Serialize)]
struct Reset {
    /// The file that was set aside, in the state directory.
    damaged: String,
}

/// Adds the routes.
pub fn routes(config: &mut ServiceConfig) {
    let action = |path| web::resource(path).default_service(web::to(other_method));
    config
        .route("/debug/inbox/dead", web::get().to(dead))
        .service(action("/debug/inbox/reset").route(web::post().to(reset)))
        .route("/debug/inbox/{id}", web::get().to(letter))
        .service(action("/debug/inbox/{id}/redrive").route(web::post().to(redrive)))
        .service(action("/debug/inbox/{id}/remove").route(web::post().to(remove)));
}

async fn ask<T>(
    request: &HttpRequest,
    shared: &Shared,
    command: impl FnOnce(Reply<T>) -> Command,
) -> Result<T, Rejection> {
    let answer = shared.inbox.handle.ask(command).await;
    answer.map_err(|why| reject(request, InboxFailure::Unavailable { why }.into()))
}

async fn dead(_: AdminAccess, request: HttpRequest, shared: web::Data<Shared>) -> Result<HttpResponse, Rejection> {
    let DeadQuery { function, after, limit } = query_of(&request)?;
    let (function, after) = (function.map(Into::into), after.unwrap_or_default());
    let limit = limit.unwrap_or(DEFAULT_LIMIT).min(MAX_LIMIT);
    let records = ask(&request, &shared, |reply| Command::Dead { function, after, limit, reply }).await?;
    let after = records.last().filter(|_| records.len() == limit).map(|last| last.seq);
    Ok(HttpResponse::Ok()
        .json(Dead { dead: records.iter().map(|record| ShownInvocation::of(record, false)).collect(), after }))
}

fn id_of(request: &HttpRequest, id: &str) -> Result<InvocationId, Rejection> {
    known(request, InvocationId::parse(id))
}

/// Returns what was found; nothing means that there is no such invocation.
fn known<T>(request: &HttpRequest, found: Option<T>) -> Result<T, Rejection> {
    found.ok_or_else(|| reject(request, InboxFailure::NoSuchInvocation.into()))
}

async fn letter(
    _: AdminAccess,
    request: HttpRequest,
    shared: web::Data<Shared>,
    id: web::Path<String>,
) -> Result<HttpResponse, Rejection> {
    let id = id_of(&request, &id)?;
    let found = known(&request, ask(&request, &shared, |reply| Command::Response(id, reply)).await?)?;
    let stored = ask(&request, &shared, |reply| Command::Request(id, reply)).await?;
    let stored = stored
        .map(|stored| Message::of(format!("{} {}", stored.method, stored.target), stored.headers, Some(&stored.body)));
    let response = found
        .response
        .map(|response| Message::of(response.status.to_string(), response.headers, response.body.as_deref()));
    let invocation = ShownInvocation::of(&found.record, false);
    Ok(HttpResponse::Ok().json(Letter { invocation, request: stored, response }))
}

impl Message {
    fn of(line: String, headers: Vec<(String, Vec<u8>)>, body: Option<&[u8]>) -> Self {
        let headers = headers.into_iter().map(|(name, value)| (name, String::from_utf8_lossy(&value).into_owned()));
        let text = body.and_then(|body| str::from_utf8(body).ok()).map(str::to_owned);
        Self { line, headers: headers.collect(), bytes: body.map(<[u8]>::len), body: text }
    }
}

async fn redrive(
    access: ActionAccess,
    request: HttpRequest,
    shared: web::Data<Shared>,
    id: web::Path<String>,
) -> Result<HttpResponse, Rejection> {
    let id = id_of(&request, &id)?;
    let record = known(&request, ask(&request, &shared, |reply| Command::Redrive(id, reply)).await?)?;
    info!(shared.log, "dead letter was redriven"; "function" => &*record.function, "invocation" => %id,
        "user" => access.user);
    Ok(HttpResponse::Ok().json(Redriven { redriven: true }))
}

async fn remove(
    access: ActionAccess,
    request: HttpRequest,
    shared: web::Data<Shared>,
    id: web::Path<String>,
) -> Result<HttpResponse, Rejection> {
    let id = id_of(&request, &id)?;
    match ask(&request, &shared, |reply| Command::Remove(id, reply)).await? {
        Removal::Cancelled(_) | Removal::Forgotten { .. } => {
            info!(shared.log, "invocation was removed"; "invocation" => %id, "user" => access.user);
            Ok(HttpResponse::Ok().json(Removed { removed: true }))
        }
        Removal::Running => Err(reject(&request, InboxFailure::NotFinished.into())),
        Removal::Unknown => Err(reject(&request, InboxFailure::NoSuchInvocation.into())),
    }
}

async fn reset(
    access: ActionAccess,
    request: HttpRequest,
    shared: web::Data<Shared>,
) -> Result<HttpResponse, Rejection> {
    let inbox = shared.clone();
    let reset = web::block(move || inbox.inbox.reset()).await.unwrap_or(Err(ResetError::Ending));
    let damaged = reset.map_err(|error| {
        let failure = match error {
            ResetError::NotDamaged => InboxFailure::NotDamaged,
            error => InboxFailure::Unavailable { why: error.to_string() },
        };
        reject(&request, failure.into())
    })?;
    warn!(shared.log, "a damaged inbox was set aside, and a new one begun"; "file" => &damaged, "user" => access.user);
    Ok(HttpResponse::Ok().json(Reset { damaged }))
}
