//! Why the daemon could not start, or ended by itself.

use std::{io, path::PathBuf};

use super::settings::OTLP_VARIABLE;
use crate::{
    broker::BrokerError,
    cluster::ClusterError,
    host::{open_files, operators::GroupError},
    http::{BindError, TlsError},
    net::NetError,
    state::StateError,
};

/// Why the daemon could not start, or ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    #[error("cannot read the registry {}: {source}", path.display())]
    Registry { path: PathBuf, source: io::Error },
    #[error("cannot use the secret {} (`deliver-key`): {source}", path.display())]
    DeliverKey { path: PathBuf, source: io::Error },
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Network(#[from] NetError),
    #[error("only {0} files may be open at once, and it takes {least} to serve: raise the hard limit (ulimit -Hn, or \
        LimitNOFILE= of the service)", least = open_files::minimum())]
    OpenFiles(u64),
    #[error("{OTLP_VARIABLE}: {0}")]
    OtlpVariable(String),
    #[error("the memory of this host is not known, as /proc/meminfo cannot be read: give --memory-budget in MiB")]
    UnknownMemory,
    #[error("an upgrade cannot change the state directory to {}: restart the daemon", .0.display())]
    StateDirectoryChanged(PathBuf),
    #[error(transparent)]
    Source(#[from] BrokerError),
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error(transparent)]
    AdminGroup(#[from] GroupError),
    #[error("the {0} has ended, which is a bug: without it no instance can start")]
    ActorEnded(&'static str),
    #[error("{0}")]
    System(#[from] io::Error),
}
