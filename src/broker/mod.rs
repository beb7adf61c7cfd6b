//! The options that say where the brokers of messages are, and how to log in there.
//!
//! | file | content |
//! | --- | --- |
//! | `options.rs`, `url.rs` | the options; addresses |
//! | `settings.rs`, `credentials.rs` | the files of the options; the credentials file of NATS |
//! | `nats.rs` | the options of each connection to a NATS server |

#[cfg(feature = "cluster")]
mod credentials;
#[cfg(feature = "cluster")]
mod nats;
mod options;
#[cfg_attr(not(feature = "cluster"), allow(dead_code, reason = "nothing connects"))]
mod settings;
mod url;

#[cfg(feature = "cluster")]
pub use nats::{nats_options, too_old};
pub use options::BrokerArgs;
pub use settings::{BrokerError, BrokerSettings};
pub use url::{MqttUrl, NatsUrl, without_login};
