//! Triggers by messages: the connections to a NATS server and to an MQTT broker.
//!
//! They have a thread and a runtime of their own, which starts with the first function that subscribes. A message is
//! acknowledged after its invocation is durable. While the inbox takes nothing, nothing is acknowledged, and no more than
//! a bounded number of messages is taken. Where the brokers are is in `broker/`.
//!
//! | file | content |
//! | --- | --- |
//! | `connections.rs` | the thread of the connections |
//! | `followed.rs` | the subscriptions, each until it is cancelled |
//! | `intake.rs` | a message becomes an invocation |
//! | `status.rs` | the state of a connection, for the pages |
//! | `mqtt.rs`, `topic.rs` | MQTT |
//! | `nats.rs`, `stream.rs`, `reply.rs` | NATS: core messages, those of streams, and answers |

#[cfg(feature = "cluster")]
mod connections;
#[cfg(not(feature = "cluster"))]
#[path = "without_connections.rs"]
mod connections;
#[cfg(feature = "cluster")]
mod followed;
#[cfg(feature = "cluster")]
mod intake;
#[cfg(feature = "cluster")]
mod mqtt;
#[cfg(feature = "cluster")]
mod nats;
#[cfg(feature = "cluster")]
mod reply;
#[cfg_attr(not(feature = "cluster"), allow(dead_code, reason = "nothing connects"))]
mod status;
#[cfg(feature = "cluster")]
mod stream;
#[cfg(feature = "cluster")]
mod topic;

use std::sync::Arc;

use slog::{Logger, warn};
use unifaas_actors::trigger::Subscriptions;

use crate::inbox::Site;
pub use connections::Sources;

/// Has the site's work of these functions run here, or says that there is no site.
fn follow_site(site: Option<&Arc<Site>>, subscriptions: &Subscriptions, log: &Logger) {
    match site {
        Some(site) => site.follow(subscriptions.shared.clone()),
        None if subscriptions.shared.is_empty() => {}
        None => {
            let functions: Vec<_> = subscriptions.shared.iter().map(|function| &**function).collect();
            warn!(log, "functions share their invocations with a site, and there is none without --cluster: they stay on this node";
                "functions" => functions.join(" "));
        }
    }
}
