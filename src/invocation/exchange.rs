//! One invocation: what is held of a request from its head to the last byte of its response.
//!
//! Gets a slot, has `dispatch.rs` send the request to the instance, and makes the response. The body of the response is
//! `response_body.rs`, what follows a `101` `tunnel.rs`; both own the exchange, and with it the slot.

use std::{pin::pin, rc::Rc, sync::Arc, time::Duration};

use actix_http::{ConnectionType, body::BoxBody, header::HeaderValue};
use actix_web::{
    HttpResponse,
    dev::Payload,
    http::{StatusCode, Version},
};
use tokio::{sync::Notify, time::Instant};
use unifaas_actors::{Lease, Outcome, Phase, cluster::PeerView};

use super::{
    access_log::AccessRecord,
    client_body::{BodyProgress, Pump, pump, skip, take_body},
    dispatch::{Deadline, release, unless_left},
    forward::Acquired,
    function::TargetFunction,
    headers::copy_response_headers,
    invoke::{HeadSource, reject},
    request_trace::RequestTrace,
    response_body::ResponseBody,
    timing::{peer_timing, server_timing},
    tunnel::Tunnel,
};
use crate::{
    cluster::Cluster,
    failure::{Failure, Marks, Rejection},
    header_names::HOP,
    http::{ActiveRequest, ClientWatch, Framing, RequestFacts},
    shared::Shared,
    upstream::{Answer, Upload, upload},
};

/// What answers a request.
pub enum Server {
    Instance(Lease),
    /// Another node.
    Node(Arc<PeerView>),
}

/// One invocation. Dropped without an end, it counts as given up by its client.
pub struct Exchange {
    pub shared: Arc<Shared>,
    pub client: ActiveRequest,
    pub function: TargetFunction,
    /// Whether another node may serve it.
    pub may_forward: bool,
    pub head: HeadSource,
    /// Its framing is that towards the instance.
    pub facts: RequestFacts,
    pub arrived: Instant,
    /// When the first slot was taken.
    leased: Instant,
    pub deadline: Option<Deadline>,
    /// Notified when the instance wants the body that the client withholds.
    pub body_wanted: Option<Rc<Notify>>,
    pub watch: ClientWatch,
    /// Of the request's body. `None`: nothing of it is to come.
    pub progress: Option<Rc<BodyProgress>>,
    /// Both ends of the request's body, until the response's head is there.
    pub pump: Option<Pump>,
    pub upload: Option<Upload>,
    /// What comes from the client behind a request for WebSocket.
    pub tunnel: Option<Payload>,
    /// While a response is being forwarded.
    pub server: Option<Server>,
    /// Its trace, if requests have one.
    pub trace: Option<Box<RequestTrace>>,
    /// What the log says of the instance's part.
    pub access: AccessRecord,
    /// It has been logged and counted.
    pub is_ended: bool,
    is_answered: bool,
}

impl Exchange {
    /// Makes the exchange of a request that has just arrived.
    pub fn new(
        head: HeadSource,
        facts: RequestFacts,
        client: ActiveRequest,
        function: TargetFunction,
        shared: Arc<Shared>,
        body_wanted: Option<Rc<Notify>>,
    ) -> Box<Self> {
        let arrived = Instant::now();
        let trace = shared.tracer.as_ref().map(|tracer| RequestTrace::begin(tracer, &head.get().headers));
        Box::new(Self {
            trace,
            shared,
            watch: ClientWatch::new(&client, None),
            client,
            function,
            may_forward: false,
            head,
            facts,
            arrived,
            leased: arrived,
            deadline: None,
            body_wanted,
            progress: None,
            pump: None,
            upload: None,
            tunnel: None,
            server: None,
            access: AccessRecord::default(),
            is_ended: false,
            is_answered: false,
        })
    }

    /// Has the request answered by an instance, and makes the response.
    ///
    /// # Errors
    /// The platform answers instead.
    pub async fn serve(mut self: Box<Self>, payload: Payload) -> Result<HttpResponse, Rejection> {
        match self.run(payload).await {
            Ok((server, answer)) => Ok(self.respond(server, answer)),
            Err(failure) => Err(self.reject(failure)),
        }
    }

    async fn run(&mut self, payload: Payload) -> Result<(Server, Answer), Failure> {
        let mut body = if self.facts.is_websocket {
            self.tunnel = Some(payload);
            None
        } else {
            let (body, ended) = take_body(payload, self.facts.framing, self.client.is_http2);
            self.watch.keep_ended_body(ended);
            body
        };
        if body.is_none() && self.facts.framing == Framing::Unknown {
            self.facts.framing = Framing::None;
        }
        self.progress = body.is_some().then(Rc::default);
        if let Framing::Length(length) = self.facts.framing
            && let Some(limit) = self.function.max_body().filter(|limit| length > *limit)
        {
            return Err(Failure::BodyTooLarge { limit });
        }
        let lease = match self.acquire(&mut body).await {
            Ok(Acquired::Slot(lease)) => lease,
            Ok(Acquired::Answer(peer, answer)) => {
                self.leased = self.arrived;
                return Ok((Server::Node(peer), *answer));
            }
            Err(Failure::ClientGone) => return Err(Failure::ClientGone),
            Err(failure) => {
                // A withheld body does not come.
                if let Some(body) = body.filter(|_| self.body_wanted.is_none())
                    && Box::pin(skip(body, self.facts.framing)).await
                {
                    self.progress = None;
                }
                return Err(failure);
            }
        };
        self.leased = lease.since();
        self.count_served(&lease);
        if self.client.peer.is_node()
            && let Some(wanted) = self.body_wanted.take()
        {
            // The other node holds the body back until there is a slot, whatever the instance says.
            wanted.notify_one();
        }
        self.access.set_leased(&lease, self.arrived);
        if let Some(trace) = &mut self.trace {
            trace.set_leased(&lease, self.access.wait());
        }
        let spec = &lease.endpoint().spec;
        self.deadline = spec.timeout.map(|after| Deadline { at: self.leased + after, after });
        if let Some((body, progress)) = body.zip(self.progress.clone()) {
            let (sender, upload) = upload();
            let (wanted, client) = (self.body_wanted.clone(), Rc::clone(&self.client));
            self.pump = Some(pump(body, self.facts.framing, sender, spec.max_body, client, progress, wanted));
            self.upload = Some(upload);
        }
        let (lease, answer) = self.dispatch(lease).await?;
        Ok((Server::Instance(lease), answer))
    }

    /// Gets a slot, or the answer of another node.
    async fn acquire(&mut self, body: &mut Option<Payload>) -> Result<Acquired, Failure> {
        let Some(handle) = self.function.here().filter(|_| self.is_served_alone()) else {
            return Box::pin(self.acquire_or_forward(body)).await;
        };
        Ok(Acquired::Slot(unless_left(&mut self.watch, pin!(handle.acquire_at(self.arrived))).await??))
    }

    /// Whether no other node takes part.
    fn is_served_alone(&self) -> bool {
        self.shared.cluster.is_none() || (!self.may_forward && !self.client.peer.is_node())
    }

    /// Whether the request is served in a free slot or not at all: the other node knows a place where it can wait.
    pub fn must_begin_now(&self) -> bool {
        self.client.peer.is_node() && self.head.get().headers.get(HOP).is_some_and(|hop| hop.as_bytes() == b"now")
    }

    /// Makes the response from that of the instance.
    fn respond(mut self: Box<Self>, server: Server, answer: Answer) -> HttpResponse {
        let Answer { head: from, body } = answer;
        self.is_answered = true;
        self.upload = None;
        if let Some(progress) = &self.progress {
            progress.set_answered();
        }
        self.client.settle_interim();
        let request = self.head.get();
        let is_upgrade = from.status == hyper::StatusCode::SWITCHING_PROTOCOLS;
        let is_head = request.method == actix_web::http::Method::HEAD;
        // Clients of HTTP/1.0 know no chunks: the end of the connection ends the body.
        let ends_with_connection =
            !is_upgrade && !is_head && body.size().is_none() && request.version < Version::HTTP_11;
        // actix-http closes the connection after an upgrade that it was asked for, whatever the answer.
        let is_last = ends_with_connection
            || request.connection_type() != ConnectionType::KeepAlive
            || self.shared.server.ends_connections();
        if is_last {
            self.client.end_after_response();
        }

        // Both libraries know the same statuses.
        let mut response = HttpResponse::new(StatusCode::from_u16(from.status.as_u16()).unwrap_or_default());
        let upstream = self.leased.elapsed();
        let (timing, is_node) = match &server {
            Server::Instance(lease) => (self.note_answer_of(lease, upstream), false),
            Server::Node(_) => (peer_timing(upstream), true),
        };
        let names = (&self.facts.request_id, self.shared.cluster.as_ref().map(Cluster::header));
        copy_response_headers(&from.headers, from.status, names, timing, is_node, response.headers_mut());
        let head = response.head_mut();
        head.no_chunking(ends_with_connection);
        if is_upgrade {
            head.set_connection_type(ConnectionType::Upgrade);
        } else if is_last {
            head.set_connection_type(ConnectionType::Close);
        }
        self.access.set_answered(from.status.as_u16(), &server, upstream);
        self.server = Some(server);
        response.set_body(match is_upgrade {
            true => BoxBody::new(Tunnel::new(body, self)),
            false => {
                let announcement = is_head.then_some(&from);
                BoxBody::new(ResponseBody::new(body, announcement, ends_with_connection, self))
            }
        })
    }

    /// Notes the first answer of an instance. Returns where its time went.
    fn note_answer_of(&self, lease: &Lease, upstream: Duration) -> HeaderValue {
        let endpoint = lease.endpoint();
        if lease.is_fresh() {
            endpoint.clock.mark(Phase::FirstByte);
            if self.access.wait().is_cold() {
                let kind = endpoint.spec.sandbox.kind();
                self.shared.history.boots.observe_first_byte(kind, upstream);
            }
        }
        server_timing(self.access.wait(), upstream, &endpoint.clock)
    }

    /// Makes the answer to a failed request.
    fn reject(mut self: Box<Self>, failure: Failure) -> Rejection {
        self.is_answered = true;
        self.log_failure(&failure);
        self.note_unread_body();
        let request_id = self.facts.request_id.clone();
        let rejection = reject(failure, self.head.get(), request_id, &self.client, &self.shared);
        match &self.trace {
            Some(trace) => {
                let node = rejection.marks.and_then(|marks| marks.node);
                Rejection { marks: Some(Box::new(Marks { node, trace_id: Some(trace.id()) })), ..rejection }
            }
            None => rejection,
        }
    }

    /// Returns when the first slot was taken.
    pub fn leased(&self) -> Instant {
        self.leased
    }

    /// The response is complete. Slot and connection are free before the client knows that it can send another request.
    pub fn complete(&mut self) {
        if let Some(server) = self.server.take() {
            let now = Instant::now();
            if let Server::Instance(lease) = server {
                lease.release_at(now);
                self.note_free_slot();
            }
            self.log_end(Outcome::Ok, now);
            self.note_unread_body();
        }
    }

    /// The response broke off.
    pub fn break_off(&mut self, failure: &Failure) {
        if let Some(server) = self.server.take() {
            if let Server::Instance(lease) = server {
                release(&self.shared, lease, failure);
            }
            self.log_failure(failure);
            self.note_unread_body();
        }
    }

    fn note_unread_body(&self) {
        self.client.set_body_unread(self.progress.as_ref().is_some_and(|progress| !progress.is_complete()));
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.client.set_unanswered(!self.is_answered);
        self.log_drop();
    }
}
