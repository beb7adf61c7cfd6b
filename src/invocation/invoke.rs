//! `/invoke/<function>/<path>`: the handler, and the answer to `Expect: 100-continue`.
//!
//! [`Exchange`] serves the request. Which function it is for, and whether it is served at all, is decided here.

use std::{pin::Pin, rc::Rc, sync::Arc};

use actix_http::{HttpMessage as _, Request, RequestHead, body::BoxBody};
use actix_web::{HttpRequest, HttpResponse, ResponseError as _, dev::Payload, web};
use futures::FutureExt as _;
use tokio::sync::Notify;

use super::{
    asynchronous::serve_asynchronous,
    client_body::{skip, take_body},
    exchange::Exchange,
    function::TargetFunction,
    target::{SCOPE, is_asynchronous, split_target},
};
use crate::{
    failure::{Failure, Marks, Rejection},
    http::{ClientConnection, RequestFacts, client_of},
    request_id::RequestId,
    shared::Shared,
};

/// Requests at once on one connection of HTTP/2.
const MAX_STREAMS: usize = 256;

/// The response to come. Boxed, since actix-web moves it.
type Serving = Pin<Box<dyn Future<Output = Result<HttpResponse, Rejection>>>>;

/// A request that was begun before its client was asked for the body.
struct Begun(Serving);

/// Where the head of a request is.
pub enum HeadSource {
    Request(HttpRequest),
    /// Its own copy: the request itself is with actix-http until the body is wanted.
    Copy(Box<RequestHead>),
}

impl HeadSource {
    /// Returns the head.
    pub fn get(&self) -> &RequestHead {
        match self {
            Self::Request(request) => request.head(),
            Self::Copy(head) => head,
        }
    }
}

/// Serves a request that is not for a page: the front's default service.
pub fn invoke(request: HttpRequest, payload: web::Payload, shared: web::Data<Shared>) -> Serving {
    if request.head().expect()
        && let Some(Begun(serving)) = request.extensions_mut().remove::<Begun>()
    {
        return serving;
    }
    let Some(client) = client_of(&request).cloned() else { return Box::pin(no_connection()) };
    serve(HeadSource::Request(request), payload.into_inner(), client, shared.into_inner(), None)
}

/// Answers a request that came on no connection of `http/`.
async fn no_connection() -> Result<HttpResponse, Rejection> {
    Ok(HttpResponse::InternalServerError().finish())
}

/// Begins to serve a request. What happens at once is no part of the future, which stays small.
fn serve(
    head: HeadSource,
    payload: Payload,
    client: Rc<ClientConnection>,
    shared: Arc<Shared>,
    body_wanted: Option<Rc<Notify>>,
) -> Serving {
    let facts = RequestFacts::of(head.get(), client.is_http2);
    let client = client.begin_request(&facts);
    let function = match find_function(head.get(), &facts, &client, &shared) {
        Ok(function) => function,
        Err(Failure::NoSuchPage) if !client.peer.is_node() && is_asynchronous(head.get()) => {
            return serve_asynchronous(shared, head, facts, client, payload, body_wanted);
        }
        Err(failure) => {
            let framing = facts.framing;
            let rejection = reject(failure, head.get(), facts.request_id, &client, &shared);
            return Box::pin(async move {
                if !rejection.closes
                    && body_wanted.is_none()
                    && let (Some(body), _) = take_body(payload, framing, false)
                {
                    skip(body, framing).await;
                }
                // The connection is busy until here.
                drop(client);
                Err(rejection)
            });
        }
    };
    let may_forward = !client.peer.is_node() && shared.cluster.is_some();
    let mut exchange = Exchange::new(head, facts, client, function, shared, body_wanted);
    exchange.may_forward = may_forward;
    Box::pin(exchange.serve(payload))
}

/// Returns the function that a request is for, if it may be served.
fn find_function(
    head: &RequestHead,
    facts: &RequestFacts,
    client: &ClientConnection,
    shared: &Shared,
) -> Result<TargetFunction, Failure> {
    match () {
        () if !client.guard.is_within_limit() => Err(Failure::TooManyConnections),
        () if client.active() > MAX_STREAMS => Err(Failure::TooManyStreams),
        () if !knows(client, shared) => Err(Failure::UnknownNode),
        () if shared.is_draining() => Err(Failure::Draining),
        () if facts.is_too_large => Err(Failure::HeadTooLarge),
        () if facts.is_ambiguous => Err(Failure::BadRequest),
        () => match split_target(head) {
            Some((name, _)) => match shared.directory.find(name) {
                Some(handle) => Ok(TargetFunction::Here(handle)),
                None if client.peer.is_node() => Err(Failure::NoSuchFunction),
                None => elsewhere(name, shared).ok_or(Failure::NoSuchFunction),
            },
            None => Err(Failure::NoSuchPage),
        },
    }
}

/// Whether the client is no other node, or one whose key counts: it may have lost that since the connection was opened.
fn knows(client: &ClientConnection, shared: &Shared) -> bool {
    client.peer.key.is_none_or(|key| shared.cluster.as_ref().is_some_and(|cluster| cluster.handle.trusts(&key)))
}

/// Returns a function that only other nodes have.
fn elsewhere(name: &str, shared: &Shared) -> Option<TargetFunction> {
    let cluster = shared.cluster.as_ref().filter(|cluster| cluster.handle.is_offered(name))?;
    let stats = cluster.handle.forwards.requests_of(name, &shared.history.usage);
    Some(TargetFunction::Elsewhere { name: name.into(), stats })
}

/// Makes the answer to a request that fails.
pub fn reject(
    failure: Failure,
    head: &RequestHead,
    request_id: RequestId,
    client: &ClientConnection,
    shared: &Shared,
) -> Rejection {
    // actix-http would announce the upgrade.
    let closes = failure.closes() || head.upgrade();
    if closes {
        client.end_after_response();
    }
    let function = split_target(head).map(|(name, _)| name).filter(|name| !name.is_empty()).map(Box::from);
    let node = shared.cluster.as_ref().map(|cluster| cluster.name.clone());
    let marks = node.map(|node| Box::new(Marks { node: Some(node), trace_id: None }));
    Rejection { failure, function, request_id, marks, closes, detail: shared.error_detail }
}

/// Decides about `Expect: 100-continue`. The request gets a slot and goes to the instance; the client is asked for the body
/// when the instance wants it, or gets the response without having sent it.
pub async fn expect(mut request: Request, shared: Arc<Shared>) -> Result<Request, actix_http::Response<BoxBody>> {
    if !request.path().starts_with(SCOPE) && matches!(request.method().as_str(), "GET" | "HEAD") {
        // Pages read no body.
        return Ok(request);
    }
    let Some(client) = request.conn_data::<Rc<ClientConnection>>().cloned() else { return Ok(request) };
    let (head, payload) = (HeadSource::Copy(Box::new(request.head().clone())), request.take_payload());
    let body_wanted = Rc::new(Notify::new());
    let mut serving = serve(head, payload, client, shared, Some(body_wanted.clone()));
    tokio::select! {
        biased;
        response = &mut serving => {
            if body_wanted.notified().now_or_never().is_none() {
                let response = response.unwrap_or_else(|rejection| rejection.error_response());
                return Err(response.into());
            }
            // The instance has asked for the body and begun its response at once.
            serving = Box::pin(std::future::ready(response));
        }
        () = body_wanted.notified() => {}
    }
    request.extensions_mut().insert(Begun(serving));
    Ok(request)
}
