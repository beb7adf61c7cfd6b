//! The options of the connections, with the contents of their files.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use tokio_rustls::rustls::pki_types::{CertificateDer, pem::PemObject as _};

#[cfg(feature = "cluster")]
use super::credentials::Credentials;
use super::{MqttUrl, NatsUrl};
use crate::cli::Serve;

/// Which brokers there are.
#[derive(Debug, Clone, Default)]
pub struct SourceSettings {
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
pub enum SourceError {
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

impl SourceSettings {
    /// Reads the files of the options. `identity`: that of the state directory.
    ///
    /// # Errors
    /// When a file is of no use.
    pub fn load(options: &Serve, identity: &str) -> Result<Self, SourceError> {
        #[cfg(not(feature = "cluster"))]
        for (option, is_given) in [
            ("--nats", options.nats.is_some()),
            ("--mqtt", options.mqtt.is_some()),
            ("--cluster", options.cluster.cluster.is_some()),
        ] {
            if is_given {
                return Err(SourceError::NotBuilt(option));
            }
        }
        if let Some(path) = &options.nats_ca {
            certificates("--nats-ca", path)?;
        }
        if options.mqtt_ca.is_some() && !options.mqtt.as_ref().is_some_and(MqttUrl::is_tls) {
            return Err(SourceError::NoTls);
        }
        let mqtt_ca = options.mqtt_ca.as_deref().map(|path| certificates("--mqtt-ca", path)).transpose()?;
        Ok(Self {
            mqtt: options.mqtt.clone(),
            mqtt_ca: mqtt_ca.unwrap_or_default(),
            // 23 letters and digits are what each broker takes.
            client_id: format!("unifaas{identity}"),
            nats: options.nats.clone().or_else(|| Some(options.cluster.cluster.as_ref()?.first().clone())),
            #[cfg(feature = "cluster")]
            nats_creds: options.nats_creds.as_deref().map(credentials).transpose()?,
            nats_ca: options.nats_ca.clone(),
        })
    }
}

#[cfg(feature = "cluster")]
fn credentials(path: &Path) -> Result<Credentials, SourceError> {
    let text = fs::read_to_string(path).map_err(|source| SourceError::Read {
        option: "--nats-creds",
        path: path.to_owned(),
        source,
    })?;
    Credentials::parse(&text).map_err(|why| SourceError::Credentials { path: path.to_owned(), why })
}

fn certificates(option: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, SourceError> {
    let text = fs::read(path).map_err(|source| SourceError::Read { option, path: path.to_owned(), source })?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let certificates = certificates.ok().filter(|certificates| !certificates.is_empty());
    certificates.ok_or_else(|| SourceError::NoCertificate { option, path: path.to_owned() })
}
