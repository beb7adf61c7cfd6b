//! The options of the connections, with the contents of their files.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use tokio_rustls::rustls::pki_types::{CertificateDer, pem::PemObject as _};

#[cfg(feature = "cluster")]
use super::credentials::Credentials;
use super::{BrokerArgs, MqttUrl, NatsUrl};

/// Which brokers there are, and how to log in.
#[derive(Debug, Clone, Default)]
pub struct BrokerSettings {
    /// The MQTT broker.
    pub mqtt: Option<MqttUrl>,
    /// The certificates that verify it. Without any, those that this host trusts count.
    pub mqtt_ca: Vec<CertificateDer<'static>>,
    /// The name of this daemon at the MQTT broker, which keeps a session for it.
    pub client_id: String,
    /// The NATS server.
    pub nats: Option<NatsUrl>,
    /// The credentials for it.
    #[cfg(feature = "cluster")]
    pub nats_creds: Option<Credentials>,
    /// The file with the certificates that verify it. It has some.
    pub nats_ca: Option<PathBuf>,
}

/// Why an option of the connections cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    #[error("cannot read {} ({option}): {source}", path.display())]
    Read { option: &'static str, path: PathBuf, source: io::Error },
    #[error("there are no credentials in {} (--nats-creds), which has a JWT and an nkey seed: {why}", path.display())]
    Credentials { path: PathBuf, why: String },
    #[error("there is no certificate in {} ({option})", path.display())]
    NoCertificate { option: &'static str, path: PathBuf },
    #[error("--mqtt-ca needs --mqtt with mqtts://")]
    NoTls,
    #[cfg(not(feature = "cluster"))]
    #[error("{0}: this program was built without `cluster`")]
    NotBuilt(&'static str),
}

impl BrokerSettings {
    /// Reads the files of the options. `cluster`: the NATS server that joins nodes. `identity`: that of the state directory.
    ///
    /// # Errors
    /// When a file is of no use.
    pub fn load(options: &BrokerArgs, cluster: Option<&NatsUrl>, identity: &str) -> Result<Self, BrokerError> {
        #[cfg(not(feature = "cluster"))]
        for (option, is_given) in
            [("--nats", options.nats.is_some()), ("--mqtt", options.mqtt.is_some()), ("--cluster", cluster.is_some())]
        {
            if is_given {
                return Err(BrokerError::NotBuilt(option));
            }
        }
        if let Some(path) = &options.nats_ca {
            certificates("--nats-ca", path)?;
        }
        if options.mqtt_ca.is_some() && !options.mqtt.as_ref().is_some_and(MqttUrl::is_tls) {
            return Err(BrokerError::NoTls);
        }
        let mqtt_ca = options.mqtt_ca.as_deref().map(|path| certificates("--mqtt-ca", path)).transpose()?;
        Ok(Self {
            mqtt: options.mqtt.clone(),
            mqtt_ca: mqtt_ca.unwrap_or_default(),
            // 23 letters and digits are what each broker takes.
            client_id: format!("unifaas{identity}"),
            nats: options.nats.as_ref().or(cluster).cloned(),
            #[cfg(feature = "cluster")]
            nats_creds: options.nats_creds.as_deref().map(credentials).transpose()?,
            nats_ca: options.nats_ca.clone(),
        })
    }
}

#[cfg(feature = "cluster")]
fn credentials(path: &Path) -> Result<Credentials, BrokerError> {
    let text = fs::read_to_string(path).map_err(|source| BrokerError::Read {
        option: "--nats-creds",
        path: path.to_owned(),
        source,
    })?;
    Credentials::parse(&text).map_err(|why| BrokerError::Credentials { path: path.to_owned(), why })
}

fn certificates(option: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, BrokerError> {
    let text = fs::read(path).map_err(|source| BrokerError::Read { option, path: path.to_owned(), source })?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let certificates = certificates.ok().filter(|certificates| !certificates.is_empty());
    certificates.ok_or_else(|| BrokerError::NoCertificate { option, path: path.to_owned() })
}
