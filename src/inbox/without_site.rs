//! In a program without NATS: there is no site.

use std::{collections::BTreeSet, convert::Infallible, sync::Arc, time::Duration};

use slog::Logger;
use unifaas_actors::{
    inbox::{InvocationId, Removal, SiteLink},
    site::{Call, Offered},
};

use super::OfNode;
use crate::cluster::Cluster;

/// Where an invocation is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(dead_code, reason = "everything is on this node")]
pub enum Place {
    Node,
    Site(Offered),
    KeyReused,
}

/// Never made.
pub struct Site(Infallible);

impl Site {
    pub fn of(_: Option<&Cluster>, _: &Logger) -> Option<Arc<Self>> {
        None
    }

    pub fn start(&self, _: OfNode) {}

    pub async fn hand_over(&self, _: InvocationId) -> Place {
        Place::Node
    }

    pub async fn find(&self, _: InvocationId, _: Duration) -> Result<Option<Call>, String> {
        Ok(None)
    }

    pub async fn remove(&self, _: InvocationId) -> Result<Removal, String> {
        Ok(Removal::Unknown)
    }

    pub fn follow(&self, _: BTreeSet<Arc<str>>) {}

    pub async fn stop(&self, _: Duration) {}

    pub async fn undelivered(&self) -> Option<u64> {
        None
    }

    pub fn problem(&self) -> Option<String> {
        None
    }
}

impl SiteLink for Site {
    fn is_connected(&self) -> bool {
        false
    }

    fn wake(&self) {}
}
