//! Has another node serve a request, where this one has no free slot or does not have the function.
//!
//! One hop: the node that gets it serves or refuses. At most two nodes are tried, then the request waits here. What was not
//! touched by a node, or may be repeated, goes to the next one; anything else is a failure.

use std::{
    future::poll_fn,
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::Poll,
    time::Duration,
};

use actix_web::dev::Payload;
use hyper::Request;
use tokio::time::{Instant, sleep_until};
use unifaas_actors::{
    FunctionHandle, Lease, Refusal,
    cluster::{Choice, FunctionLoad, LocalOffer, NodeId, PeerView, Request as Placing, StartKind},
};

use super::{
    client_body::pump,
    dispatch::{poll_pump, unless_left},
    exchange::Exchange,
    headers::{interim_response, method_of, peer_headers, peer_target},
};
use crate::{
    cluster::Cluster,
    failure::Failure,
    http::Framing,
    upstream::{self, Answer, AttemptError, Outgoing, Remote, upload},
};

/// Nodes that are tried.
const MAX_NODES: usize = 2;
/// A body up to this size goes along with its head. Others are withheld until the node wants them.
const MAX_UNASKED: u64 = 64 * 1024;
/// What the way to another node may add to the time that a function has.
const TRAVEL_TIME: Duration = Duration::from_secs(5);
/// When other nodes may have room.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Why a node has not served a request.
enum Missed {
    /// The node has refused. Another one can be tried.
    Refused(Failure),
    /// The node was not reached, or has done nothing with the request. Another one can be tried.
    Unserved(Failure),
    Final(Failure),
}

impl Exchange {
    /// Gets a slot, or has another node answer.
    ///
    /// # Errors
    /// No node serves the request.
    pub async fn acquire_or_forward(&mut self, body: &mut Option<Payload>) -> Result<Acquired, Failure> {
        let shared = self.shared.clone();
        let handle = self.function.here().cloned();
        let Some(cluster) = shared.cluster.as_ref().filter(|_| self.may_forward) else {
            return self.acquire_here(handle).await;
        };
        if let Some(handle) = &handle {
            if let Some(lease) = handle.acquire_free(self.arrived) {
                return Ok(Acquired::Slot(lease));
            }
            if handle.announced.note_none_free() {
                cluster.handle.want_beat();
            }
        }
        match self.forward(cluster, handle.as_ref(), body).await? {
            Some((peer, answer)) => Ok(Acquired::Answer(peer, Box::new(answer))),
            None => self.acquire_here(handle).await,
        }
    }

    async fn acquire_here(&mut self, handle: Option<Arc<FunctionHandle>>) -> Result<Acquired, Failure> {
        let Some(handle) = handle else { return Err(Failure::NoSuchFunction) };
        if self.must_begin_now() {
            let free = handle.acquire_free(self.arrived);
            return free.map(Acquired::Slot).ok_or_else(|| handle.refuse_busy().into());
        }
        let acquired = unless_left(&mut self.watch, std::pin::pin!(handle.acquire_at(self.arrived))).await?;
        Ok(Acquired::Slot(acquired?))
    }

    /// Has another node answer, if any is better than this one. `None`: the request is served here.
    async fn forward(
        &mut self,
        cluster: &Cluster,
        handle: Option<&Arc<FunctionHandle>>,
        body: &mut Option<Payload>,
    ) -> Result<Option<(Arc<PeerView>, Answer)>, Failure> {
        let name: Arc<str> = self.function.name().into();
        let spec = handle.and_then(|handle| handle.serving_spec().ok());
        if spec.as_ref().is_some_and(|spec| !spec.cluster.forward) {
            return Ok(None);
        }
        let labels = spec.as_ref().map_or(&[][..], |spec| &spec.cluster.nodes);
        let offer = handle.zip(spec.as_ref()).and_then(|(handle, spec)| {
            let load: FunctionLoad = handle.load();
            let has_room = (load.waiting as usize) < spec.queue.get();
            has_room.then(|| cluster.handle.local_offer(load, spec.memory()))
        });
        let offer: Option<&LocalOffer> = offer.as_ref();
        let version = spec.as_ref().and_then(|spec| cluster.functions.version_of(spec));
        let (stats, mut tried) = (cluster.handle.forwards.of(&name), Vec::<NodeId>::new());
        let (mut last, mut busy) = (None, None);
        while tried.len() < MAX_NODES {
            let placing = Placing { function: &name, local: offer, version: version.as_deref(), labels, tried: &tried };
            let (peer, kind, may_wait) = match (cluster.handle.place(placing), busy.take()) {
                // The last node may let it wait, if there is no other place for it.
                (Choice::Peer(peer, kind), _) => {
                    (peer, Some(kind), kind != StartKind::Warm || (offer.is_none() && tried.len() + 1 == MAX_NODES))
                }
                // So may the node that was busy, as there is no other one.
                (Choice::Nowhere, Some(peer)) => (peer, None, true),
                (Choice::Local | Choice::Nowhere, _) => break,
            };
            tried.push(peer.node());
            self.hold_body(body, spec.as_ref().and_then(|spec| spec.max_body));
            stats.forwarded.fetch_add(1, Relaxed);
            match self.forward_to(cluster, &peer, may_wait).await {
                Ok(answer) => {
                    stats.ok.fetch_add(1, Relaxed);
                    if kind == Some(StartKind::Cold) {
                        peer.note_started(peer.offers(&name).map_or(0, |offered| offered.memory));
                    }
                    return Ok(Some((peer, answer)));
                }
                Err(Missed::Refused(failure)) => {
                    stats.refused.fetch_add(1, Relaxed);
                    peer.note_refusal(&name);
                    let is_busy = matches!(failure, Failure::Refused(Refusal::Saturated { .. }));
                    busy = is_busy.then_some(peer);
                    last = Some(failure);
                }
                Err(Missed::Unserved(failure)) => {
                    stats.failed.fetch_add(1, Relaxed);
                    last = Some(failure);
                }
                Err(Missed::Final(failure)) => {
                    stats.failed.fetch_add(1, Relaxed);
                    return Err(failure);
                }
            }
        }
        if let Some(upload) = self.upload.as_ref().filter(|_| self.body_wanted.is_none()) {
            upload.release();
        }
        match (handle, last) {
            (Some(_), _) => Ok(None),
            (None, Some(failure)) => Err(failure),
            (None, None) => {
                let why = "no other node can serve it now".to_owned();
                Err(Refusal::HostSaturated { why, retry_after: Some(RETRY_AFTER) }.into())
            }
        }
    }

    /// Begins to move the request's body, which is held back if it is large.
    fn hold_body(&mut self, body: &mut Option<Payload>, limit: Option<u64>) {
        let Some((payload, progress)) = body.take().zip(self.progress.clone()) else { return };
        let (sender, upload) = upload();
        let is_withheld = self.withholds_body();
        let wanted = is_withheld.then(|| self.body_wanted.clone().unwrap_or_default());
        let client = Rc::clone(&self.client);
        self.pump = Some(pump(payload, self.facts.framing, sender, limit, client, progress, wanted));
        self.upload = Some(upload);
    }

    /// Whether the request's body stays here until the node wants it.
    fn withholds_body(&self) -> bool {
        let is_small = matches!(self.facts.framing, Framing::Length(length) if length <= MAX_UNASKED);
        self.body_wanted.is_some() || !is_small
    }

    /// Has a node answer.
    async fn forward_to(&mut self, cluster: &Cluster, peer: &Arc<PeerView>, may_wait: bool) -> Result<Answer, Missed> {
        let withheld = self.upload.is_some() && self.withholds_body();
        let limit = peer.offers(self.function.name()).and_then(|offered| offered.answer_ms);
        let limit = limit.map(|limit| Duration::from_millis(limit) + TRAVEL_TIME);
        let (name, node) = (peer.beat.name.clone(), cluster.endpoint(peer));
        let Self { shared, client, head, facts, watch, pump, upload, trace, .. } = self;
        let head = head.get();
        let method = method_of(head);
        let queue_interim = |status, fields: &_| client.queue_interim(&interim_response(status, fields));
        let outgoing = Outgoing {
            method: method.clone(),
            request: &|body| {
                let mut request = Request::new(body);
                *request.method_mut() = method.clone();
                *request.uri_mut() = peer_target(head);
                *request.headers_mut() = peer_headers(head, facts, &client.peer, withheld, may_wait);
                if let Some(trace) = trace.as_ref() {
                    trace.set_headers(request.headers_mut());
                }
                request
            },
            since: Instant::now(),
            body: upload.as_ref(),
            wants_continue: withheld,
            is_continue_timed: false,
            wants_upgrade: facts.is_websocket,
            interim: client.takes_interim(head.version).then_some(&queue_interim),
        };
        let remote = Remote::Node(node);
        let mut attempt = Box::pin(upstream::send(&shared.upstream, &remote, &outgoing));
        let mut deadline = limit.map(|limit| Box::pin(sleep_until(Instant::now() + limit)));
        let outcome = poll_fn(|cx| {
            if let Err(failure) = poll_pump(pump, cx) {
                return Poll::Ready(Err(failure));
            }
            if let Poll::Ready(outcome) = attempt.as_mut().poll(cx) {
                return Poll::Ready(Ok(outcome));
            }
            if watch.poll_left(cx).is_ready() {
                return Poll::Ready(Err(Failure::ClientGone));
            }
            let Some(deadline) = &mut deadline else { return Poll::Pending };
            let after = limit.unwrap_or_default();
            deadline.as_mut().poll(cx).map(|()| Err(Failure::PeerTimedOut { peer: name.clone(), after }))
        });
        let error = match outcome.await {
            Ok(Ok(answer)) => {
                cluster.handle.note_tried(peer.node(), true);
                return Ok(answer);
            }
            Ok(Err(error)) => error,
            Err(failure) => return Err(Missed::Final(failure)),
        };
        if matches!(error, AttemptError::Connect(_) | AttemptError::Broken { .. }) {
            cluster.handle.note_tried(peer.node(), false);
        }
        let is_retryable = error.is_retryable();
        Err(match error {
            AttemptError::Refused { code, retry_after } => Missed::Refused(refusal(&code, retry_after)),
            AttemptError::Connect(error) => {
                let why = format!("node {name} cannot be reached: {error}");
                Missed::Unserved(Refusal::HostSaturated { why, retry_after: Some(RETRY_AFTER) }.into())
            }
            AttemptError::UploadAborted => Missed::Final(Failure::ClientGone),
            error => {
                let failure = Failure::PeerFailed { peer: name, why: error.to_string() };
                if is_retryable { Missed::Unserved(failure) } else { Missed::Final(failure) }
            }
        })
    }

    /// Notes that the request is over, so that a slot of the function may be free again.
    pub fn note_free_slot(&self) {
        if let (Some(cluster), Some(handle)) = (&self.shared.cluster, self.function.here())
            && handle.announced.note_free()
        {
            cluster.handle.want_beat();
        }
    }

    /// Counts a slot that was taken for another node.
    pub fn count_served(&self, lease: &Lease) {
        let Some(cluster) = self.shared.cluster.as_ref().filter(|_| self.client.peer.is_node()) else { return };
        let function = &lease.endpoint().spec.name;
        cluster.handle.forwards.of(function).served.fetch_add(1, Relaxed);
        if self.function.here().is_some_and(|handle| handle.announced.note_served()) {
            cluster.handle.want_beat();
        }
    }
}

/// What a request has got.
pub enum Acquired {
    /// A slot of this node.
    Slot(Lease),
    /// The answer of another node.
    Answer(Arc<PeerView>, Box<Answer>),
}

/// Returns the failure of a request that another node has refused, if no other place is left.
fn refusal(code: &str, retry_after: Option<Duration>) -> Failure {
    let retry_after = retry_after.unwrap_or(RETRY_AFTER);
    match code {
        "no_such_function" => Failure::NoSuchFunction,
        "function_saturated" => Refusal::Saturated { waiting: 0, retry_after }.into(),
        _ => Refusal::HostSaturated { why: format!("another node answers {code}"), retry_after: Some(retry_after) }
            .into(),
    }
}
