//! What the daemon answers itself: the admin pages, and the callbacks of instances.
//!
//! `http/` serves the listeners; `daemon/application.rs` adds the routes to each.
//!
//! | file | content |
//! | --- | --- |
//! | `access.rs` | which requests see a page, and which may act |
//! | `actions.rs` | restarts and stops, snapshots, reading the registry |
//! | `cluster.rs` | the other nodes |
//! | `publish.rs`, `blobs.rs` | publishing functions, and their files for other nodes |
//! | `inbox.rs` | dead letters and stored requests |
//! | `pages.rs` | `/debug`, its functions and instances, `/healthz` |
//! | `summary.rs` | `/debug/summary`, and what has changed of it |
//! | `logs.rs`, `kept.rs` | `/debug/logs`; kept lines of several instances |
//! | `events.rs` | `/debug/events` |
//! | `dashboard.rs` | `/ui/`: the pages of `ui/`, and what has changed of them |
//! | `records.rs`, `memory.rs` | `/debug/boots`, `/debug/errors`, `/debug/snapshots`; `/debug/memory` |
//! | `metrics/` | `/metrics` |
//! | `query.rs` | the parameters of a page |
//! | `live.rs`, `stream_limit.rs`, `format.rs` | responses that go on; how many there may be; their forms |
//! | `ready.rs` | callbacks |

mod access;
mod actions;
mod blobs;
mod cluster;
mod dashboard;
mod events;
mod format;
mod inbox;
mod kept;
mod live;
mod logs;
mod memory;
mod metrics;
mod pages;
mod publish;
mod query;
mod ready;
mod records;
mod stream_limit;
mod summary;

use std::{net::SocketAddr, sync::Arc};

use crate::{
    http::ListenerKind,
    shared::Shared,
    turn::Turns,
    ui::Dashboard,
    upgrade::{CallbackForwarder, UpgradeTrigger},
};
pub use access::AccessRules;
use access::AdminAudience;
use actix::Addr;
use actix_web::web::ServiceConfig;
use metrics::Scrapes;
use stream_limit::StreamLimiter;
use summary::Sampler;
use unifaas_actors::{RegistryActor, trigger::TriggerActor};

/// What pages act on.
pub struct Control {
    pub registry: Addr<RegistryActor>,
    pub triggers: Addr<TriggerActor>,
    pub upgrades: UpgradeTrigger,
    /// Where callbacks go whose token is unknown: to the daemon that this one has replaced.
    pub forwarder: Option<CallbackForwarder>,
}

/// What the admin pages of all workers share.
pub struct Pages {
    access: AccessRules,
    control: Control,
    streams: StreamLimiter,
    sampler: Sampler,
    turns: Turns,
    dashboard: Dashboard,
    scrapes: Scrapes,
}

impl Pages {
    /// Makes the pages, and begins to record how the daemon is used. To be called on the actors' thread.
    pub fn start(shared: &Arc<Shared>, access: AccessRules, control: Control) -> Arc<Self> {
        let (streams, sampler, turns, scrapes) = Default::default();
        let dashboard = Dashboard::new(control.triggers.clone());
        let pages = Arc::new(Self { access, control, streams, sampler, turns, dashboard, scrapes });
        actix_rt::spawn(pages.dashboard.history.clone().record(Arc::downgrade(shared)));
        pages
    }

    /// Adds the routes of a listener. `admin`: the address of the admin listener, if there is one.
    pub fn add_routes(config: &mut ServiceConfig, kind: ListenerKind, admin: Option<SocketAddr>) {
        let audience = match (kind, admin) {
            // Other nodes see no pages.
            (ListenerKind::Peer, _) => return pages::peer_routes(config),
            (ListenerKind::Callback, _) => return ready::routes(config),
            (ListenerKind::Metrics, _) => return pages::metrics_routes(config),
            (ListenerKind::Front, None) => AdminAudience::ThisHost,
            (ListenerKind::Front, Some(_)) => AdminAudience::Hidden,
            (ListenerKind::Admin, admin) => admin.map_or(AdminAudience::Hidden, AdminAudience::at),
        };
        pages::routes(config, audience);
    }
}
