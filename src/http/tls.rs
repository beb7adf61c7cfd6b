//! TLS of the front and the admin listener: rustls with the files of `--tls-cert` and `--tls-key`.
//!
//! The files are looked at every few seconds. New ones are used for new connections; files that do not fit are logged,
//! and the ones before stay in use.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use slog::{Logger, info, warn};
use tokio::{net::TcpStream, time::interval};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        self, ServerConfig,
        crypto::ring,
        pki_types::{
            CertificateDer, PrivateKeyDer,
            pem::{self, PemObject as _},
        },
    },
    server::TlsStream,
};

/// Between two looks at the files.
const RELOAD_INTERVAL: Duration = Duration::from_secs(2);

/// Accepts TLS connections.
#[derive(Clone)]
pub struct Tls {
    files: Arc<TlsFiles>,
    config: Arc<ArcSwap<ServerConfig>>,
}

#[derive(Debug)]
struct TlsFiles {
    cert: PathBuf,
    key: PathBuf,
}

/// The contents of both files.
type Contents = (Vec<u8>, Vec<u8>);

/// Why TLS cannot be offered.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {} ({option}): {source}", path.display())]
    Read { option: &'static str, path: PathBuf, source: io::Error },
    #[error("there is no certificate in {} (--tls-cert)", .0.display())]
    NoCertificate(PathBuf),
    #[error("{} ({option}) is not valid PEM: {source}", path.display())]
    Pem { option: &'static str, path: PathBuf, source: pem::Error },
    #[error("there is no private key in {} (--tls-key)", .0.display())]
    NoKey(PathBuf),
    #[error("{} (--tls-cert) and {} (--tls-key) cannot be used together: {source}", cert.display(), key.display())]
    Mismatch { cert: PathBuf, key: PathBuf, source: rustls::Error },
}

impl Tls {
    /// Reads both files.
    ///
    /// # Errors
    /// When a file cannot be read, or they do not fit each other.
    pub fn load(cert: PathBuf, key: PathBuf) -> Result<Self, TlsError> {
        let files = TlsFiles { cert, key };
        let config = files.config(&files.read()?)?;
        Ok(Self { files: Arc::new(files), config: Arc::new(ArcSwap::from_pointee(config)) })
    }

    /// Shakes hands with a client.
    pub async fn accept(&self, tcp: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        TlsAcceptor::from(self.config.load_full()).accept(tcp).await
    }

    /// Follows changes of the files, until the runtime ends.
    pub fn watch(&self, log: &Logger) {
        let (tls, log) = (self.clone(), log.clone());
        actix_rt::spawn(async move {
            let mut turn = interval(RELOAD_INTERVAL);
            let mut seen: Option<Result<Contents, String>> = None;
            loop {
                turn.tick().await;
                let files = tls.files.clone();
                let Ok(read) = tokio::task::spawn_blocking(move || files.read()).await else { return };
                let read = read.map_err(|error| error.to_string());
                if seen.as_ref() == Some(&read) {
                    continue;
                }
                let config = match &read {
                    Ok(contents) => tls.files.config(contents).map_err(|error| error.to_string()),
                    Err(error) => Err(error.clone()),
                };
                let is_change = seen.replace(read).is_some();
                match config {
                    Ok(config) => {
                        tls.config.store(Arc::new(config));
                        if is_change {
                            info!(log, "TLS certificate reloaded"; "file" => %tls.files.cert.display());
                        }
                    }
                    Err(error) => {
                        warn!(log, "TLS certificate not reloaded: the one before stays in use"; "error" => error);
                    }
                }
            }
        });
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("files", &self.files).finish_non_exhaustive()
    }
}

impl TlsFiles {
    fn read(&self) -> Result<Contents, TlsError> {
        let read = |option, path: &Path| {
            std::fs::read(path).map_err(|source| TlsError::Read { option, path: path.to_owned(), source })
        };
        Ok((read("--tls-cert", &self.cert)?, read("--tls-key", &self.key)?))
    }

    fn config(&self, (cert, key): &Contents) -> Result<ServerConfig, TlsError> {
        let pem = |option, path: &Path, source| TlsError::Pem { option, path: path.to_owned(), source };
        let chain = CertificateDer::pem_slice_iter(cert)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|source| pem("--tls-cert", &self.cert, source))?;
        if chain.is_empty() {
            return Err(TlsError::NoCertificate(self.cert.clone()));
        }
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|source| match source {
            pem::Error::NoItemsFound => TlsError::NoKey(self.key.clone()),
            source => pem("--tls-key", &self.key, source),
        })?;
        let build = || {
            ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
                .with_safe_default_protocol_versions()?
                .with_no_client_auth()
                .with_single_cert(chain, key)
        };
        let mut config =
            build().map_err(|source| TlsError::Mismatch { cert: self.cert.clone(), key: self.key.clone(), source })?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}
