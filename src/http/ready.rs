//! The callback listener: `GET` or `POST /ready/<token>`, and nothing else.
//!
//! Guests reach it, so it says as little as possible. `Callbacks` of the actors finds the instance of a token, and
//! decides whether the call comes from it.

use actix_web::{HttpRequest, HttpResponse, http::Method, web};
use slog::warn;
use unifaas_actors::ReadyToken;

use super::{accept_policy::ConnAddrs, client_connection::client_of, shared::Shared, status};

const PREFIX: &str = "/ready/";

/// Adds the only route.
pub fn routes(config: &mut web::ServiceConfig) {
    config.default_service(web::to(ready));
}

async fn ready(request: HttpRequest, shared: web::Data<Shared>) -> HttpResponse {
    let client = client_of(&request);
    let _active = client.map(|client| client.begin_request(request.head()));
    let Some(token) = request.uri().path().strip_prefix(PREFIX) else { return HttpResponse::NotFound().finish() };
    if !matches!(*request.method(), Method::GET | Method::POST) {
        return HttpResponse::MethodNotAllowed().insert_header(("allow", "GET, POST")).finish();
    }
    let Some(ConnAddrs { peer, .. }) = client.map(|client| client.addrs) else {
        return HttpResponse::InternalServerError().finish();
    };
    let from = peer.ip().to_canonical();
    let outcome = shared.callbacks.deliver(ReadyToken::parse(token), from).await;
    // Any function can forge as many as it likes; all of them are counted.
    if outcome.is_none()
        && let Some(times) = shared.log_throttles.unknown_token.due()
    {
        warn!(shared.log, "ready callback for no instance"; "from" => %from, "times" => times);
    }
    let (status, text) = status::of_callback(outcome);
    HttpResponse::build(status).content_type("text/plain").body(text)
}
