//! What is served on which listener: invocations and the pages, put together.

use std::{net::SocketAddr, sync::Arc};

use actix_http::Request;
use actix_web::web::{self, ServiceConfig};
use futures::{FutureExt as _, future::ready};

use crate::{
    admin::Pages,
    cluster::{Cluster, PeerTls},
    http::{Application, Expected, ListenerKind, ServerState},
    invocation::{self, log_overdue_failures},
    shared::Shared,
};

/// What the daemon serves.
pub struct Served {
    pub shared: Arc<Shared>,
    pub pages: Arc<Pages>,
}

impl Served {
    /// Whether functions are invoked on a listener.
    fn invokes(&self, kind: ListenerKind) -> bool {
        match kind {
            ListenerKind::Front => true,
            ListenerKind::Peer => self.shared.cluster.is_some(),
            ListenerKind::Admin | ListenerKind::Callback | ListenerKind::Metrics => false,
        }
    }
}

impl Application for Served {
    fn server(&self) -> &ServerState {
        &self.shared.server
    }

    fn configure(&self, config: &mut ServiceConfig, kind: ListenerKind, admin: Option<SocketAddr>) {
        config.app_data(web::Data::from(self.shared.clone())).app_data(web::Data::from(self.pages.clone()));
        Pages::add_routes(config, kind, admin);
        if self.invokes(kind) {
            // Not a scope, which costs each request a second routing.
            config.default_service(web::to(invocation::invoke));
        }
    }

    fn expect(&self, kind: ListenerKind, request: Request) -> Expected {
        if self.invokes(kind) {
            invocation::expect(request, self.shared.clone()).boxed_local()
        } else {
            ready(Ok(request)).boxed_local()
        }
    }

    fn peer_tls(&self) -> Option<&PeerTls> {
        self.shared.cluster.as_ref().and_then(Cluster::tls)
    }

    fn keep_house(&self) {
        if let Some(cluster) = &self.shared.cluster {
            cluster.forget_gone();
        }
        self.shared.upstream.sweep();
        log_overdue_failures(&self.shared);
    }
}
