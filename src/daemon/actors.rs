//! Watches the actors that nothing restarts.

use actix::Addr;
use unifaas_actors::{AdmissionActor, RegistryActor, ended, trigger::TriggerActor};

use super::error::DaemonError;
use crate::shared::Shared;

/// Resolves when an actor has ended that nothing restarts. What it owns is lost, so only another daemon can go on: it
/// removes the resources of this one.
pub async fn lost_actor(
    registry: &Addr<RegistryActor>,
    admission: &Addr<AdmissionActor>,
    triggers: &Addr<TriggerActor>,
    shared: &Shared,
) -> DaemonError {
    let cluster = async {
        match &shared.cluster {
            Some(cluster) => ended(cluster.handle.actor()).await,
            None => std::future::pending().await,
        }
    };
    let name = tokio::select! {
        () = ended(registry) => "RegistryActor",
        () = ended(admission) => "AdmissionActor",
        () = ended(triggers) => "TriggerActor",
        () = cluster => "ClusterActor",
    };
    DaemonError::ActorEnded(name)
}
