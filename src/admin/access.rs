//! Which requests see the admin pages, and which may act.
//!
//! By default only those of this host see them that reach the daemon directly. Those do not: another host, a proxy of this
//! host that speaks for others, a page in a browser of this host whose name was made to point here (DNS rebinding), a
//! function. For them the pages do not exist.
//!
//! To act, such a request must also be of an operator, and a web page of another site must not have caused it.
//! `--admin-read group` requires an operator for reading as well. Others learn that they may not.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use actix_http::header::{self, HeaderMap, HeaderName};
use actix_web::{FromRequest, HttpRequest, dev::Payload, web};
use futures::future::LocalBoxFuture;
use slog::warn;

use super::{Pages, stream_limit::Reader};
use crate::{
    failure::{ErrorDetail, Failure, Rejection},
    header_names::REQUEST_ID,
    host::{operators::Operators, peer_uid},
    http::{ConnAddrs, client_of, host_of},
    request_id::RequestId,
    shared::{AdminRead, Shared},
};

/// The header of requests to act. A page of another site cannot send it without asking first, which is refused.
const ACTION: HeaderName = HeaderName::from_static("x-unifaas");
/// How browsers say which site has caused a request.
const SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The clients to which a listener shows the admin pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdminAudience {
    Hidden,
    ThisHost,
    /// Every client that can connect: the listener has a public address.
    Public,
}

/// Who may see the pages and act.
#[derive(Debug)]
pub struct AccessRules {
    pub read: AdminRead,
    pub operators: Operators,
}

/// The right to see a page. Handlers of admin pages extract it; without it they are not called.
#[derive(Debug)]
pub struct AdminAccess {
    /// Who has it.
    pub reader: Reader,
}

/// The right to act. Handlers of actions extract it; without it they are not called.
#[derive(Debug)]
pub struct ActionAccess {
    /// The user who has it.
    pub user: u32,
}

impl FromRequest for AdminAccess {
    type Error = Rejection;
    type Future = LocalBoxFuture<'static, Result<Self, Rejection>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move { may_read(&request).await.map_err(|failure| reject(&request, failure)) })
    }
}

impl FromRequest for ActionAccess {
    type Error = Rejection;
    type Future = LocalBoxFuture<'static, Result<Self, Rejection>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move { may_act(&request).await.map_err(|failure| reject(&request, failure)) })
    }
}

async fn may_read(request: &HttpRequest) -> Result<AdminAccess, Failure> {
    let reader = reader(request).ok_or(Failure::NoSuchPage)?;
    let pages = request.app_data::<web::Data<Pages>>().ok_or(Failure::NoSuchPage)?;
    // Other hosts have no user. Who opens the pages to them has said so.
    if let (AdminRead::Group, Reader::User(user)) = (pages.access.read, reader) {
        require_operator(pages, user).await?;
    }
    Ok(AdminAccess { reader })
}

async fn may_act(request: &HttpRequest) -> Result<ActionAccess, Failure> {
    let reader = reader(request).ok_or(Failure::NoSuchPage)?;
    let pages = request.app_data::<web::Data<Pages>>().ok_or(Failure::NoSuchPage)?;
    let user = match reader {
        Reader::User(user) => user,
        // The listener is public. A user of this host who reaches it directly is known there as well.
        Reader::Host(_) => local_user(request).ok_or_else(|| forbidden("actions are for users of this host"))?,
    };
    let headers = request.headers();
    if headers.get(ACTION).is_none_or(|value| value != "1") {
        return Err(forbidden("the header `X-UniFaaS: 1` is missing"));
    }
    if headers.get(SITE).is_some_and(|site| site != "same-origin") {
        return Err(forbidden("a page of another site has caused the request"));
    }
    require_operator(pages, user).await?;
    Ok(ActionAccess { user })
}

async fn require_operator(pages: &Pages, user: u32) -> Result<(), Failure> {
    let operators = &pages.access.operators;
    if operators.include_without_group(user) {
        return Ok(());
    }
    let looked_up = operators.clone();
    if operators.group().is_some() && web::block(move || looked_up.are_joined_by(user)).await.unwrap_or(false) {
        return Ok(());
    }
    let group = operators.group().map_or_else(String::new, |group| format!(", and members of the group `{group}`"));
    Err(forbidden(format!("user {user} may not: root and the user of the daemon may{group}")))
}

fn forbidden(why: impl Into<String>) -> Failure {
    Failure::Forbidden { why: why.into() }
}

/// Returns who has sent a request. `None`: the pages do not exist for them.
fn reader(request: &HttpRequest) -> Option<Reader> {
    let addrs = client_of(request)?.addrs;
    match request.app_data::<AdminAudience>()? {
        AdminAudience::Hidden => None,
        AdminAudience::Public => Some(Reader::Host(addrs.peer.ip().to_canonical())),
        AdminAudience::ThisHost => local_user(request).map(Reader::User),
    }
}

/// Returns the user of this host who has sent a request directly, unless functions run as that user.
fn local_user(request: &HttpRequest) -> Option<u32> {
    let shared = request.app_data::<web::Data<Shared>>()?;
    let is_direct = is_direct(request.headers()) && names_this_host(host_of(request.head()));
    is_direct.then(|| client_of(request).and_then(|client| user_of(client.addrs, shared))).flatten()
}

/// Returns the answer to a request for a page that fails.
pub fn reject(request: &HttpRequest, failure: Failure) -> Rejection {
    let request_id = RequestId::of(request.headers().get(REQUEST_ID).map(|id| id.as_bytes()));
    Rejection { closes: failure.closes(), failure, function: None, request_id, marks: None, detail: ErrorDetail::Full }
}

/// What a proxy adds to the requests that it passes on.
const OF_PROXIES: [HeaderName; 6] = [
    header::FORWARDED,
    header::VIA,
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-real-ip"),
];

impl AdminAudience {
    /// Returns the audience of an admin listener at that address.
    pub fn at(listener: SocketAddr) -> Self {
        if listener.ip().to_canonical().is_loopback() { Self::ThisHost } else { Self::Public }
    }
}

fn is_direct(headers: &HeaderMap) -> bool {
    OF_PROXIES.iter().all(|name| !headers.contains_key(name))
}

/// Whether the host that was asked for is an address or this host's own name for itself. Any other name can be made to
/// point here by its owner. Clients that are no browsers need not name one.
fn names_this_host(host: Option<&[u8]>) -> bool {
    let Some(host) = host else { return true };
    let Ok(host) = str::from_utf8(host) else { return false };
    // `[::1]:80`, `127.0.0.1:80`, `localhost`
    let name = match host.strip_prefix('[') {
        Some(v6) => return v6.split_once(']').is_some_and(|(v6, _)| v6.parse::<Ipv6Addr>().is_ok()),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.parse::<IpAddr>().is_ok() || name.eq_ignore_ascii_case("localhost")
}

/// Returns the user of this host who is at the other end, unless functions run as that user.
fn user_of(addrs: ConnAddrs, shared: &Shared) -> Option<u32> {
    if !addrs.peer.ip().to_canonical().is_loopback() {
        return None;
    }
    match peer_uid::of(addrs.peer, addrs.local) {
        Ok(user) => Some(user).filter(|user| !shared.server.function_peers.include_user(*user)),
        Err(error) => {
            if let Some(times) = shared.log_throttles.unknown_user.due() {
                warn!(shared.log, "admin pages not shown: the kernel does not tell which user asks";
                    "error" => %error, "times" => times);
            }
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use actix_http::header::HeaderValue;

    use super::*;

    fn with(name: HeaderName, value: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_static(value));
        headers
    }

    #[test]
    fn this_host_is_named_by_address_or_as_localhost() {
        for host in ["127.0.0.1", "127.0.0.1:8123", "localhost", "LocalHost:8123", "[::1]", "[::1]:8123", "10.1.2.3:80"]
        {
            assert!(names_this_host(Some(host.as_bytes())), "{host}");
        }
        for host in
            ["", "evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.evil", "[evil]:1", "[::1"]
        {
            assert!(!names_this_host(Some(host.as_bytes())), "{host}");
        }
        assert!(names_this_host(None));
    }

    #[test]
    fn requests_through_a_proxy_are_not_of_this_host() {
        for name in OF_PROXIES {
            assert!(!is_direct(&with(name, "127.0.0.1")));
        }
        assert!(is_direct(&with(header::HOST, "127.0.0.1")));
    }

    #[test]
    fn a_listener_that_others_reach_is_for_them() {
        for (listener, audience) in [
            ("127.0.0.1:9000", AdminAudience::ThisHost),
            ("[::1]:9000", AdminAudience::ThisHost),
            ("0.0.0.0:9000", AdminAudience::Public),
            ("192.0.2.7:9000", AdminAudience::Public),
        ] {
            assert_eq!(AdminAudience::at(listener.parse().unwrap()), audience);
        }
    }
}
