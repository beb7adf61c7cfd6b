//! The pages for people, which an actix-web `App` serves, on a connection of ours.

use std::sync::Arc;

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

use super::{
    Shared, admin::Audience, client::Client, debug, headers::REQUEST_ID, request_id::RequestId, status::Failure,
};

/// Shown to everybody.
const HEALTH: &str = "/healthz";

/// Serves pages on one HTTP worker.
pub struct Pages {
    app: BoxService<Request, ServiceResponse<BoxBody>, actix_web::Error>,
    audience: Audience,
    shared: Arc<Shared>,
}

impl Pages {
    /// The pages for that audience.
    pub async fn new(shared: Arc<Shared>, audience: Audience) -> Result<Self, ()> {
        let app = App::new().app_data(web::Data::from(shared.clone())).configure(debug::routes);
        let app = map_config(app, |()| AppConfig::default()).new_service(()).await?;
        Ok(Self { app: boxed::service(app), audience, shared })
    }

    /// Answers the client's request.
    pub async fn show(&self, client: &mut Client) {
        let request_id = RequestId::of(client.request.fields.get(REQUEST_ID.as_bytes()));
        let page = match as_actix(client).filter(|request| self.are_shown(request, client)) {
            Some(request) => self.app.call(request).await.ok(),
            None => None,
        };
        let Some((head, body)) = page.map(|page| page.into_parts().1.into_parts()) else {
            return client.refuse(&Failure::NoSuchPage, None, &request_id);
        };
        let body = to_bytes(body).await.unwrap_or_default();
        let fields = head.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        let id = (!head.headers().contains_key(REQUEST_ID)).then(|| (REQUEST_ID, request_id.as_bytes()));
        client.answer(head.status(), fields.chain(id), &body);
    }

    fn are_shown(&self, request: &Request, client: &Client) -> bool {
        request.path() == HEALTH || self.audience.includes(&request.head().headers, client.ends, &self.shared)
    }
}

/// The request but for its body, which no page reads. `None`: it is for no page, whatever it is.
fn as_actix(client: &Client) -> Option<Request> {
    let sent = &client.request;
    let mut request = Request::new();
    let head = request.head_mut();
    head.method = match Method::from_bytes(sent.method()).ok()? {
        // Says the same, and the client's side leaves the body out.
        Method::HEAD => Method::GET,
        method => method,
    };
    head.uri = Uri::try_from(sent.path_and_query()).ok()?;
    head.peer_addr = Some(client.ends.peer);
    for (name, value) in sent.fields.iter() {
        head.headers.append(HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?);
    }
    Some(request)
}
