//! `/debug/cluster`: this node, the others, and the last placements of requests.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use tokio::time::timeout;
use unifaas_actors::cluster::{ClusterQuestion, ClusterReport, ForwardCounts};

use super::access::{AdminAccess, reject};
use crate::{
    cluster::{CountedDenial, FunctionsReport, PeerTls, RefusedPeers},
    failure::{Failure, Rejection},
    shared::Shared,
};

/// How long the ClusterActor may take to answer.
const ACTOR_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Serialize)]
struct Page {
    /// `None`: the actor did not answer in time.
    #[serde(flatten)]
    report: Option<ClusterReport>,
    /// Connections that the peer listener has refused. `None`: it refuses none.
    #[serde(skip_serializing_if = "Option::is_none")]
    refused_peers: Option<RefusedPeers>,
    /// What the NATS server has not let this node do.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    denied: Vec<CountedDenial>,
    /// Published functions, and what this node has of them.
    published: FunctionsReport,
    /// Counters of forwarded requests, by function.
    functions: BTreeMap<Arc<str>, ForwardCounts>,
}

/// Serves the page.
pub async fn cluster(
    _: AdminAccess,
    request: HttpRequest,
    shared: web::Data<Shared>,
) -> Result<HttpResponse, Rejection> {
    let Some(cluster) = &shared.cluster else { return Err(reject(&request, Failure::NoSuchPage)) };
    let report = timeout(ACTOR_TIMEOUT, cluster.handle.actor().send(ClusterQuestion)).await.ok().and_then(Result::ok);
    let functions = cluster.handle.forwards.counts().into_iter().collect();
    let refused_peers = cluster.tls().map(PeerTls::refused);
    let (denied, published) = (cluster.denied(), cluster.functions.report());
    Ok(HttpResponse::Ok().json(Page { report, refused_peers, denied, published, functions }))
}
