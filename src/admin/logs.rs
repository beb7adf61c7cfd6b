//! `/debug/logs`: the output of a function, of one instance, or of all, so far or live.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use unifaas_actors::{InstanceId, LineFilter};

use super::{
    Pages,
    access::{AdminAccess, reject},
    format::Format,
    kept::{KeptLines, Start},
    live::{self, Wanted},
    query::{Flag, query_of},
};
use crate::{
    failure::{Failure, Rejection},
    shared::Shared,
};

/// Kept lines that are shown without a wish.
const DEFAULT_TAIL: usize = 100;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Query {
    function: Option<String>,
    instance: Option<String>,
    tail: Option<usize>,
    #[serde(default)]
    follow: Flag,
}

/// Serves the page.
pub async fn logs(
    access: AdminAccess,
    request: HttpRequest,
    payload: web::Payload,
    shared: web::Data<Shared>,
    pages: web::Data<Pages>,
) -> Result<HttpResponse, Rejection> {
    let Query { function, instance, tail, follow } = query_of(&request)?;
    let lines = filter(&request, &shared, function, instance)?;
    let (format, tail) = (Format::of(request.headers()), tail.unwrap_or(DEFAULT_TAIL));
    if follow.is_set() {
        let wanted = Wanted { format, lines, tail, behind: None, updates: None };
        return live::respond(access, &request, payload, shared.into_inner(), pages.into_inner(), wanted).await;
    }
    let start = live::last_event(&request).map_or(Start::Tail(tail), Start::Behind);
    let kept = KeptLines::read(&shared.history, &lines, start).await;
    Ok(HttpResponse::Ok().content_type(format.content_type()).body(kept.written(format, Vec::new())))
}

/// Returns which lines are asked for, if there is such a function or instance.
pub fn filter(
    request: &HttpRequest,
    shared: &Shared,
    function: Option<String>,
    instance: Option<String>,
) -> Result<LineFilter, Rejection> {
    let instances = &shared.history.instances;
    match (function, instance) {
        (_, Some(id)) => match InstanceId::parse(&id).filter(|id| instances.find(*id).is_some()) {
            Some(id) => Ok(LineFilter::Instance(id)),
            None => Err(reject(request, Failure::NoSuchPage)),
        },
        (Some(name), None) => {
            let exists = shared.directory.find(&name).is_some() || !instances.all_of(Some(&name)).is_empty();
            if exists { Ok(LineFilter::Function(name)) } else { Err(reject(request, Failure::NoSuchFunction)) }
        }
        (None, None) => Ok(LineFilter::All),
    }
}
