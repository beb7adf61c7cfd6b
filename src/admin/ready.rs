//! The callback listener: `GET` or `POST /ready/<token>`, and nothing else.
//!
//! Guests reach it, so it says as little as possible. `Callbacks` of the actors finds the instance of a token, and
//! decides whether the call comes from it.

use actix_web::{HttpRequest, HttpResponse, http::Method, web};
use slog::warn;
use unifaas_actors::ReadyToken;

use super::Pages;
use crate::{
    failure::callback_status,
    http::{ConnAddrs, RequestFacts, client_of},
    shared::Shared,
};

const PREFIX: &str = "/ready/";

/// Adds the only route.
pub fn routes(config: &mut web::ServiceConfig) {
    config.default_service(web::to(ready));
}

async fn ready(request: HttpRequest, shared: web::Data<Shared>, pages: web::Data<Pages>) -> HttpResponse {
    let client = client_of(&request);
    let _active = client.map(|client| client.begin_request(&RequestFacts::of(request.head(), false)));
    let Some(token) = request.uri().path().strip_prefix(PREFIX) else { return HttpResponse::NotFound().finish() };
    if !matches!(*request.method(), Method::GET | Method::POST) {
        return HttpResponse::MethodNotAllowed().insert_header(("allow", "GET, POST")).finish();
    }
    let Some(ConnAddrs { peer, .. }) = client.map(|client| client.addrs) else {
        return HttpResponse::InternalServerError().finish();
    };
    let from = peer.ip().to_canonical();
    let parsed = ReadyToken::parse(token);
    let outcome = match &pages.control.forwarder {
        Some(forwarder) if !shared.callbacks.expect(parsed) => {
            let outcome = forwarder.deliver(token, from).await;
            if outcome.is_none() {
                shared.callbacks.refuse();
            }
            outcome
        }
        _ => shared.callbacks.deliver(parsed, from).await,
    };
    // Any function can forge as many as it likes; all of them are counted.
    if outcome.is_none()
        && let Some(times) = shared.log_throttles.unknown_token.due()
    {
        warn!(shared.log, "ready callback for no instance"; "from" => %from, "times" => times);
    }
    let (status, text) = callback_status(outcome);
    HttpResponse::build(status).content_type("text/plain").body(text)
}
