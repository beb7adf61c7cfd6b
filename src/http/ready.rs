//! The callback listener: `GET` or `POST /ready/<token>`, and nothing else.
//!
//! It is reachable from guests, so it says as little as possible. Whom a token is for is known to the actors'
//! `Callbacks`; whether the call is believed is decided by the instance's life.

use actix_http::StatusCode;
use slog::warn;
use unifaas_actors::ReadyToken;

use super::{Shared, client::Client, status};

const PREFIX: &[u8] = b"/ready/";

/// Answers an instance, or whoever else is there.
pub async fn hear(client: &mut Client, shared: &Shared) {
    let request = &client.request;
    let path = request.path_and_query().split(|byte| *byte == b'?').next().unwrap_or_default();
    let Some(token) = path.strip_prefix(PREFIX) else { return client.answer(StatusCode::NOT_FOUND, [], b"") };
    if !matches!(request.method(), b"GET" | b"POST") {
        return client.answer(StatusCode::METHOD_NOT_ALLOWED, [("allow", &b"GET, POST"[..])], b"");
    }
    let token = str::from_utf8(token).ok().and_then(ReadyToken::parse);
    let from = client.ends.peer.ip().to_canonical();
    let verdict = shared.callbacks.deliver(token, from).await;
    // Anybody here can forge as many as they like; all of them are counted.
    if verdict.is_none()
        && let Some(times) = shared.forgers.due()
    {
        warn!(shared.log, "ready callback for no instance"; "from" => %from, "times" => times);
    }
    let (status, text) = status::of_callback(verdict);
    client.answer(status, [("content-type", &b"text/plain"[..])], text.as_bytes());
}
