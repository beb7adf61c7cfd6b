//! The pages for people, which an actix-web `App` serves, on a connection of ours.

use std::{net::SocketAddr, sync::Arc};

use actix_http::{
    Method, Request, Uri,
    body::{BoxBody, to_bytes},
    header::{HeaderName, HeaderValue},
};
use actix_service::{
    Service, ServiceFactory,
    boxed::{self, BoxService},
    map_config,
};
use actix_web::{
    App,
    dev::{AppConfig, ServiceResponse},
    web,
};

use super::{Shared, client::Client, debug, headers::REQUEST_ID, request_id::RequestId, status::Failure};

/// Shown to everybody.
const HEALTH: &str = "/healthz";

/// Serves pages on one HTTP worker.
pub struct Pages {
    app: BoxService<Request, ServiceResponse<BoxBody>, actix_web::Error>,
    /// The admin part has no listener of its own and is served here, to callers of this host alone.
    admin_here: bool,
}

impl Pages {
    pub async fn new(shared: Arc<Shared>, admin_here: bool) -> Result<Self, ()> {
        let app = App::new().app_data(web::Data::from(shared)).configure(debug::routes);
        let app = map_config(app, |()| AppConfig::default()).new_service(()).await?;
        Ok(Self { app: boxed::service(app), admin_here })
    }

    /// Answers the client's request.
    pub async fn show(&self, client: &mut Client) {
        let request_id = RequestId::of(client.request.fields.get(REQUEST_ID.as_bytes()));
        let request = as_actix(client).filter(|request| self.are_shown(request.path(), client.address()));
        let page = match request {
            Some(request) => self.app.call(request).await.ok(),
            None => None,
        };
        let Some((head, body)) = page.map(|page| page.into_parts().1.into_parts()) else {
            return client.refuse(&Failure::NoSuchPage, None, &request_id);
        };
        let body = to_bytes(body).await.unwrap_or_default();
        let named = head.headers().contains_key(REQUEST_ID);
        let fields = head.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        let id = (!named).then(|| (REQUEST_ID, request_id.as_bytes()));
        client.answer(head.status(), fields.chain(id), &body);
    }

    /// Health is everybody's business, the rest only that of this host.
    fn are_shown(&self, path: &str, peer: Option<SocketAddr>) -> bool {
        let local = peer.is_some_and(|peer| peer.ip().to_canonical().is_loopback());
        path == HEALTH || (self.admin_here && local)
    }
}

/// The request but for its body, which no page reads. `None`: it is for no page, whatever it is.
fn as_actix(client: &Client) -> Option<Request> {
    let sent = &client.request;
    let mut request = Request::new();
    let head = request.head_mut();
    head.method = Method::from_bytes(sent.method()).ok()?;
    head.uri = Uri::try_from(sent.path_and_query()).ok()?;
    head.peer_addr = client.address();
    for (name, value) in sent.fields.iter() {
        head.headers.append(HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?);
    }
    Some(request)
}
