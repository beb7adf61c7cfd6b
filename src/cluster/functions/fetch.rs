//! Fetches the blobs of a version from other nodes: any that has one, again where a connection broke off, and each is checked.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::{
    Request, StatusCode,
    body::Incoming,
    client::conn::http1::{SendRequest, handshake},
    header,
};
use hyper_util::rt::TokioIo;
use tokio::{sync::Mutex, time::timeout};
use unifaas_actors::cluster::{BlobId, ClusterView, MAX_MANIFEST, Manifest};

use super::{
    Counters,
    error::{FetchError, StoreError},
    staging::{BlobFile, Staging},
    store::FunctionStore,
};
use crate::{
    cluster::{PeerTls, endpoint_of},
    upstream::NodeEndpoint,
};

/// Blobs of a version that are fetched at once.
const LANES: usize = 4;
/// Rounds of all nodes in a row that may bring nothing of a blob.
const IDLE_ROUNDS: u32 = 2;
/// How long a node may take to answer, and to go on.
const SILENCE: Duration = Duration::from_secs(10);

/// A node that may have what is fetched.
pub struct Source {
    name: Arc<str>,
    endpoint: NodeEndpoint,
}

/// Returns the nodes that may have a version: those that say so first, and suspect ones last.
pub fn sources(view: &ClusterView, tls: Option<&PeerTls>, function: &str, version: BlobId) -> Vec<Source> {
    let digits = version.short();
    let mut peers: Vec<_> = view.peers.iter().filter(|peer| peer.is_compatible(tls.is_some())).collect();
    peers.sort_by_key(|peer| {
        let has_it = peer.beat.versions.get(function).is_some_and(|versions| versions.holds.contains(&digits));
        (!has_it, peer.is_suspect())
    });
    let source = |peer: &Arc<_>| {
        let peer: &unifaas_actors::cluster::PeerView = peer;
        Source { name: peer.beat.name.clone(), endpoint: endpoint_of(peer, tls) }
    };
    peers.into_iter().map(source).collect()
}

/// Gets all files of a version.
///
/// # Errors
/// No node has given one of them, or they cannot be written.
pub async fn fetch(
    store: &Arc<FunctionStore>,
    sources: &[Source],
    counters: &Counters,
    function: &str,
    version: BlobId,
) -> Result<(), FetchError> {
    let staging = Staging::begin(store, function)?;
    let mut lane = Lane { sources, counters, connection: None };
    let mut file = staging.create(version, MAX_MANIFEST as u64)?;
    lane.download(version, &mut file, None).await?;
    let manifest = Manifest::decode(&staging.read(version)?).map_err(StoreError::from)?;
    let queue: Mutex<VecDeque<_>> = Mutex::new(staging.missing(&manifest)?.into_iter().collect());
    let (queue, staged) = (&queue, &staging);
    let lanes = (0..LANES).map(|_| async move {
        let mut lane = Lane { sources, counters, connection: None };
        loop {
            let next = queue.lock().await.pop_front();
            let Some((blob, size)) = next else { return Ok(()) };
            let mut file = staged.create(blob, size)?;
            lane.download(blob, &mut file, Some(size)).await?;
        }
    });
    futures::future::try_join_all(lanes).await.map_err(|error: FetchError| error)?;
    staging.finish(manifest)?;
    Ok(())
}

/// One download after the other, over a connection that is kept.
struct Lane<'a> {
    sources: &'a [Source],
    counters: &'a Counters,
    /// With the position of its source.
    connection: Option<(usize, SendRequest<Empty<Bytes>>)>,
}

impl Lane<'_> {
    /// Downloads a blob. `size`: `None` if it is not known.
    async fn download(&mut self, blob: BlobId, file: &mut BlobFile, size: Option<u64>) -> Result<(), FetchError> {
        let mut last = "no other node is known".to_owned();
        let (mut most, mut idle_rounds) = (0, 0);
        // As long as there is more of it, however often connections break off. A second round without more: what came of two
        // nodes may be damaged by the first.
        while idle_rounds < IDLE_ROUNDS {
            let before = most;
            for at in 0..self.sources.len() {
                if size.is_none() || size == Some(file.written()) {
                    file.restart()?;
                }
                let attempt = self.attempt(at, blob, file).await;
                most = most.max(file.written());
                match attempt {
                    Err(why) => {
                        last = format!("{}: {}", self.sources[at].name, why?);
                        self.connection = None;
                    }
                    Ok(()) => match file.finish() {
                        Ok(()) => return Ok(()),
                        Err(damaged) => {
                            self.counters.count_damaged();
                            last = format!("{}: {damaged}", self.sources[at].name);
                            file.restart()?;
                        }
                    },
                }
            }
            idle_rounds = if most > before { 0 } else { idle_rounds + 1 };
        }
        Err(FetchError::NoSource { blob: blob.short(), last })
    }

    /// Asks one node for what is missing of a blob. The error is why it did not give that, unless it cannot be written.
    async fn attempt(
        &mut self,
        at: usize,
        blob: BlobId,
        file: &mut BlobFile,
    ) -> Result<(), Result<String, StoreError>> {
        let fail = |why: &str| Err(Ok(why.to_owned()));
        let mut connection = match self.connection.take().filter(|(of, sender)| *of == at && !sender.is_closed()) {
            Some((_, kept)) => kept,
            None => connect(&self.sources[at].endpoint).await.map_err(Ok)?,
        };
        let mut request =
            Request::get(format!("/blobs/{blob}")).header(header::HOST, &*self.sources[at].endpoint.address);
        if file.written() > 0 {
            request = request.header(header::RANGE, format!("bytes={}-", file.written()));
        }
        let request = request.body(Empty::new()).map_err(|error| Ok(error.to_string()))?;
        let Ok(answer) = timeout(SILENCE, connection.send_request(request)).await else { return fail("no answer") };
        let answer = answer.map_err(|error| Ok(error.to_string()))?;
        match answer.status() {
            StatusCode::PARTIAL_CONTENT => {}
            StatusCode::OK => file.restart().map_err(Err)?,
            StatusCode::NOT_FOUND => return fail("it does not have it"),
            status => return Err(Ok(format!("status {status}"))),
        }
        self.read(answer.into_body(), file).await?;
        self.connection = Some((at, connection));
        Ok(())
    }

    async fn read(&self, mut body: Incoming, file: &mut BlobFile) -> Result<(), Result<String, StoreError>> {
        loop {
            let Ok(frame) = timeout(SILENCE, body.frame()).await else { return Err(Ok("it went silent".to_owned())) };
            let Some(frame) = frame else { return Ok(()) };
            let frame = frame.map_err(|error| Ok(error.to_string()))?;
            if let Some(piece) = frame.data_ref() {
                self.counters.count_fetched(piece.len());
                file.write(piece).map_err(|error| match error {
                    StoreError::Disk { .. } => Err(error),
                    wrong => Ok(wrong.to_string()),
                })?;
            }
        }
    }
}

async fn connect(endpoint: &NodeEndpoint) -> Result<SendRequest<Empty<Bytes>>, String> {
    let stream = endpoint.connect().await.map_err(|error| error.to_string())?;
    let stream = endpoint.secure(stream).await.map_err(|error| error.to_string())?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    // Its errors are those of the request.
    tokio::spawn(connection);
    Ok(sender)
}
