//! The callback listener: `GET` or `POST /ready/<token>`, and nothing else.
//!
//! It is reachable from guests, so it says as little as possible. Whom a token is for is known to the actors'
//! `Callbacks`; whether the call is believed is decided by the instance's life.

use actix_web::{HttpRequest, HttpResponse, web};
use slog::warn;
use unifaas_actors::ReadyToken;

use super::{Shared, status};

/// The routes of the callback listener.
pub fn routes(config: &mut web::ServiceConfig) {
    config.service(web::resource("/ready/{token}").route(web::get().to(ready)).route(web::post().to(ready)));
}

async fn ready(request: HttpRequest, token: web::Path<String>, shared: web::Data<Shared>) -> HttpResponse {
    // Without a peer the connection is gone already.
    let Some(peer) = request.peer_addr() else { return HttpResponse::build(status::of_callback(None).0).finish() };
    let from = peer.ip().to_canonical();
    let verdict = shared.callbacks.deliver(ReadyToken::parse(&token), from).await;
    // Anybody here can forge as many as they like; all of them are counted.
    if verdict.is_none()
        && let Some(times) = shared.forgers.say()
    {
        warn!(shared.log, "ready callback for no instance"; "from" => %from, "times" => times);
    }
    let (status, text) = status::of_callback(verdict);
    HttpResponse::build(status).content_type("text/plain").body(text)
}
