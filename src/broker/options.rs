//! The options of brokers, as clap parses them.

use std::path::PathBuf;

use clap::Args;

use super::{MqttUrl, NatsUrl};

#[derive(Debug, Clone, Args)]
pub struct BrokerArgs {
    /// The NATS server whose messages invoke functions with `[[nats]]`; tls:// for TLS, USER:PASSWORD@ before the host [default:
    /// that of --cluster].
    ///
    /// It may be away at any time. The least version is 2.11.
    #[arg(long, env = "UNIFAAS_NATS", value_name = "URL", group = "nats_server")]
    pub nats: Option<NatsUrl>,
    /// Credentials for the NATS server: a file with a JWT and an nkey seed.
    #[arg(long, env = "UNIFAAS_NATS_CREDS", value_name = "FILE", requires = "nats_server")]
    pub nats_creds: Option<PathBuf>,
    /// Certificates in PEM that verify the NATS server [default: those of this host].
    #[arg(long, env = "UNIFAAS_NATS_CA", value_name = "FILE", requires = "nats_server")]
    pub nats_ca: Option<PathBuf>,
    /// The MQTT broker whose messages invoke functions with `[[mqtt]]`; mqtts:// for TLS, USER:PASSWORD@ before the host.
    ///
    /// It may be away at any time.
    #[arg(long, env = "UNIFAAS_MQTT", value_name = "URL")]
    pub mqtt: Option<MqttUrl>,
    /// Certificates in PEM that verify the MQTT broker [default: those of this host].
    #[arg(long, env = "UNIFAAS_MQTT_CA", value_name = "FILE", requires = "mqtt")]
    pub mqtt_ca: Option<PathBuf>,
}
