//! What clients get to see of asynchronous invocations.

use actix_web::{HttpResponse, http::header};
use serde::Serialize;
use unifaas_actors::inbox::{CallbackState, InvocationId, Record, State, Stored, UnixMillis};

use crate::{
    inbox::{INVOCATION, Place},
    invocation::target::INVOCATIONS_SCOPE,
};

/// Tells that the same request was stored before.
const DUPLICATE: &str = "x-unifaas-duplicate";

/// Where it is stored: on the `node`, or at the server of the `site`.
const STORED: &str = "x-unifaas-stored";

/// Returns where an invocation is stored, as clients see it.
fn stored_of(is_on_site: bool) -> &'static str {
    if is_on_site { "site" } else { "node" }
}

/// The answer to a request that has been stored.
pub fn accepted(function: &str, stored: Stored, place: Place) -> HttpResponse {
    #[derive(Serialize)]
    struct Accepted<'a> {
        id: InvocationId,
        function: &'a str,
        state: &'static str,
        stored: &'static str,
    }
    let Stored { id, is_duplicate } = match place {
        Place::Site(offered) => Stored { id: offered.id, is_duplicate: stored.is_duplicate || offered.is_duplicate },
        Place::Node | Place::KeyReused => stored,
    };
    let stored = stored_of(matches!(place, Place::Site(_)));
    let mut response = HttpResponse::Accepted();
    response.insert_header((STORED, stored));
    response.insert_header((header::LOCATION, format!("{INVOCATIONS_SCOPE}/{id}")));
    response.insert_header((INVOCATION, id.to_string()));
    if is_duplicate {
        response.insert_header((DUPLICATE, "1"));
    }
    response.json(Accepted { id, function, state: "accepted", stored })
}

/// What a client sees of an invocation.
#[derive(Serialize)]
pub struct Shown<'a> {
    id: InvocationId,
    function: &'a str,
    state: &'static str,
    /// Attempts that have begun and that count.
    attempts: u32,
    accepted: UnixMillis,
    /// When the next attempt may begin.
    #[serde(skip_serializing_if = "Option::is_none")]
    due: Option<UnixMillis>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended: Option<UnixMillis>,
    /// The function's last status.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    /// Why it was given up.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    stored: &'static str,
    /// Whether the result has been delivered.
    #[serde(skip_serializing_if = "Option::is_none")]
    delivery: Option<CallbackState>,
    /// Attempts to deliver it.
    #[serde(skip_serializing_if = "Option::is_none")]
    delivery_attempts: Option<u32>,
}

impl<'a> Shown<'a> {
    /// Shows a record of this node, or of the site.
    pub fn of(record: &'a Record, is_on_site: bool) -> Self {
        let (due, ended, status, reason) = match record.state {
            State::Queued { due } => (Some(due), None, None, None),
            State::Running => (None, None, None, None),
            State::Done { ended, status } => (None, Some(ended), Some(status), None),
            State::Dead { ended, reason, status } => (None, Some(ended), status, Some(reason.code())),
        };
        let Record { id, ref function, attempts, accepted, .. } = *record;
        let (state, stored) = (record.state.name(), stored_of(is_on_site));
        let callback = record.callback.as_ref();
        let (delivery, delivery_attempts) = callback.map(|callback| (callback.state, callback.attempts)).unzip();
        Self {
            id,
            function,
            state,
            attempts,
            accepted,
            due,
            ended,
            status,
            reason,
            stored,
            delivery,
            delivery_attempts,
        }
    }
}
