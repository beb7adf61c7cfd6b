//! What stands for the link in a program without NATS. `--cluster` is refused there.

use std::{convert::Infallible, future::Ready, io, sync::Arc};

use actix::Addr;
use slog::Logger;
use unifaas_actors::cluster::{Beat, ClusterActor, ClusterLink, FunctionList, PeerView, TrustedKeys};

use super::LinkSettings;

/// Never made.
pub struct Link(Infallible);

/// Never made.
pub struct LinkHandle(Infallible);

impl Link {
    /// Fails.
    ///
    /// # Errors
    /// Always.
    pub fn start(_: LinkSettings, _: Addr<ClusterActor>, _: Logger) -> io::Result<(Self, LinkHandle)> {
        Err(io::Error::other("this program was built without the feature `cluster`"))
    }

    /// There is nothing to leave.
    pub fn leave(&mut self) -> Ready<()> {
        match self.0 {}
    }
}

impl ClusterLink for LinkHandle {
    fn send(&self, _: Arc<Beat>) {}

    fn set_functions(&self, _: Arc<FunctionList>) {}

    fn ask(&self, _: &Arc<PeerView>, _: u64) {}

    fn probe(&self, _: Arc<PeerView>) {}

    fn keep_keys(&self, _: Arc<TrustedKeys>) {}

    fn rejoin(&self) {}
}
