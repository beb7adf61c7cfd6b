//! The server of a site, by JetStream: `UF_INBOX` has the requests, `uf_calls` has the records and the keys.

use std::{cell::RefCell, collections::HashMap, error::Error as _, fmt::Display, sync::Arc, time::Duration};

use async_nats::{
    Subscriber,
    jetstream::{
        self, AckKind, ErrorCode,
        consumer::PullConsumer,
        context::{PublishError, PublishErrorKind},
        kv::{CreateErrorKind, Operation, Store},
        message::{Acker, PublishMessage},
        stream::{LastRawMessageErrorKind, Stream},
    },
};
use bytes::Bytes;
use futures::StreamExt as _;
use ring::digest::{SHA256, digest};
use tokio::time::{sleep, timeout};
use unifaas_actors::{
    inbox::{InvocationId, StoredRequest},
    site::{Call, Delivered, KeyReservation, RESULTS, Revision, SiteError, SiteStore},
};

use super::{
    codec::{decode_call, decode_key, decode_request, encode_call, encode_key, encode_request},
    streams::{open_bucket, open_consumer, open_stream, subject, token},
};
use crate::cluster::NatsClient;

/// How long one pull waits for a message.
const PULL: Duration = Duration::from_secs(5);
/// How long it may take beyond that.
const PULL_GRACE: Duration = Duration::from_secs(2);
/// Between two attempts of what the server did not confirm.
const PAUSE: Duration = Duration::from_secs(1);
/// The shortest time that a record is kept.
const MIN_KEEP: Duration = Duration::from_secs(1);
/// What the headers of a message may take of its size.
const HEADERS: usize = 1024;
/// How long the server remembers that a record was removed.
const REMOVED: Duration = Duration::from_secs(60);

/// The server of a site. Opened with the first request, and again after an error.
pub struct JetStream {
    nats: NatsClient,
    site: Arc<str>,
    opened: RefCell<Option<Opened>>,
    consumers: RefCell<HashMap<String, PullConsumer>>,
}

#[derive(Clone)]
struct Opened {
    stream: Stream,
    bucket: Store,
    max_payload: usize,
}

impl JetStream {
    pub fn new(nats: NatsClient, site: Arc<str>) -> Self {
        Self { nats, site, opened: RefCell::default(), consumers: RefCell::default() }
    }

    /// Waits for the first connection.
    pub async fn connected(&self) {
        let _ = self.nats.connected().wait_for(Option::is_some).await;
    }

    async fn open(&self) -> Result<Opened, SiteError> {
        // Without a connection, the client would keep what it is asked for, and ask later.
        let context = self.nats.jetstream().map_err(unavailable)?;
        let max_payload = self.nats.max_payload();
        if let Some(opened) = &*self.opened.borrow() {
            return Ok(Opened { max_payload, ..opened.clone() });
        }
        let stream = open_stream(&context, &self.site).await.map_err(SiteError::Unavailable)?;
        let bucket = open_bucket(&context).await.map_err(SiteError::Unavailable)?;
        let opened = Opened { stream, bucket, max_payload };
        *self.opened.borrow_mut() = Some(opened.clone());
        Ok(opened)
    }

    /// Has everything opened again, and returns the error.
    fn failed(&self, error: impl Display) -> SiteError {
        self.opened.borrow_mut().take();
        unavailable(error)
    }

    async fn consumer(&self, queue: &str) -> Result<PullConsumer, SiteError> {
        let opened = self.open().await?;
        if let Some(consumer) = self.consumers.borrow().get(queue) {
            return Ok(consumer.clone());
        }
        let consumer = open_consumer(&opened.stream, &self.site, queue).await.map_err(|error| self.failed(error))?;
        self.consumers.borrow_mut().insert(queue.to_owned(), consumer.clone());
        Ok(consumer)
    }

    /// Returns what hears of each change of a call: the message that makes it, which may come before that is stored.
    pub async fn changes(&self, id: InvocationId) -> Result<Subscriber, SiteError> {
        let Opened { bucket, .. } = self.open().await?;
        self.nats.subscribe(format!("{}{id}", bucket.prefix)).await.map_err(unavailable)
    }

    /// Returns how many results are to be delivered, by all nodes together.
    pub async fn undelivered(&self) -> Option<u64> {
        let consumer = self.consumers.borrow().get(RESULTS).cloned()?;
        let info = consumer.get_info().await.ok()?;
        Some(info.num_pending + info.num_ack_pending as u64)
    }

    /// Stores a value that has no other one. Returns the other one.
    async fn create_value(&self, key: String, value: Bytes, keep: Duration) -> Result<Option<Bytes>, SiteError> {
        let Opened { bucket, .. } = self.open().await?;
        match bucket.create_with_ttl(&key, value, keep.max(MIN_KEEP)).await {
            Ok(_) => Ok(None),
            Err(error) if error.kind() == CreateErrorKind::AlreadyExists => {
                let existing = self.value(&bucket, key).await?;
                existing.map(|(_, value)| Some(value)).ok_or_else(|| unavailable("a record has expired meanwhile"))
            }
            Err(error) => Err(self.failed(error)),
        }
    }

    /// Returns a value with its revision.
    async fn value(&self, bucket: &Store, key: String) -> Result<Option<(Revision, Bytes)>, SiteError> {
        let found = bucket.entry(&key).await.map_err(|error| self.failed(error))?;
        if let Some(entry) = found.filter(|entry| entry.operation == Operation::Put) {
            return Ok(Some((entry.revision, entry.value)));
        }
        // A replica may lag behind. What has been removed has no value.
        let subject = format!("{}{key}", bucket.prefix);
        match bucket.stream.get_last_raw_message_by_subject(&subject).await {
            Ok(message) if !message.payload.is_empty() => Ok(Some((message.sequence, message.payload))),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(self.failed(error)),
        }
    }
}

impl SiteStore for JetStream {
    type Receipt = Acker;

    async fn reserve(&self, wanted: &KeyReservation) -> Result<KeyReservation, SiteError> {
        let key = key_of(&wanted.function, &wanted.key);
        Ok(match self.create_value(key, encode_key(wanted), wanted.keep).await? {
            None => wanted.clone(),
            Some(stored) => decode_key(wanted, &stored).ok_or_else(|| unavailable("a reserved key cannot be read"))?,
        })
    }

    async fn create(&self, call: &Call, keep: Duration) -> Result<Option<Call>, SiteError> {
        let Opened { max_payload, .. } = self.open().await?;
        let id = call.record.id;
        match self.create_value(id.to_string(), encode_call(call, max_payload - HEADERS), keep).await? {
            None => Ok(None),
            Some(stored) => decode_call(id, &stored).map(Some).ok_or_else(unreadable),
        }
    }

    async fn publish(
        &self,
        queue: &str,
        call: &Call,
        request: &StoredRequest,
        keep: Duration,
    ) -> Result<(), SiteError> {
        let Opened { stream, max_payload, .. } = self.open().await?;
        let payload = encode_request(request);
        if payload.len() + HEADERS > max_payload {
            return Err(SiteError::TooLarge);
        }
        let context = self.nats.jetstream().map_err(unavailable)?;
        let config = &stream.cached_info().config;
        let message = PublishMessage::build().payload(payload).message_id(message_id(queue, call.record.id));
        let message = message.expected_stream(&config.name);
        // An operator's stream, or one of an earlier version, may not have it.
        let message = if config.allow_message_ttl { message.ttl(keep) } else { message };
        let sent = context.send_publish(subject(&self.site, queue), message).await;
        let confirmed = match sent {
            Ok(sent) => sent.await,
            Err(error) => Err(error),
        };
        confirmed.map(drop).map_err(|error| match error.kind() {
            PublishErrorKind::MaxPayloadExceeded => SiteError::TooLarge,
            _ if is_full(&error) => SiteError::Full(error.to_string()),
            _ => self.failed(error),
        })
    }

    async fn pull(&self, queue: &str) -> Result<Option<Delivered<Acker>>, SiteError> {
        let consumer = self.consumer(queue).await?;
        let pulled = async {
            let mut batch = consumer.batch().max_messages(1).expires(PULL).messages().await.ok()?;
            batch.next().await.map_or(Some(None), |message| Some(Some(message.ok()?)))
        };
        let Ok(Some(message)) = timeout(PULL + PULL_GRACE, pulled).await else {
            self.consumers.borrow_mut().remove(queue);
            return Err(self.failed("no answer to a pull"));
        };
        let Some(message) = message else { return Ok(None) };
        let count = message.info().map_or(1, |info| info.delivered.max(1).unsigned_abs());
        let (message, receipt) = message.split();
        let id = message.headers.as_ref().and_then(|headers| headers.get(async_nats::header::NATS_MESSAGE_ID));
        let id = id.and_then(|id| InvocationId::parse(id.as_str().strip_prefix(RESULTS).unwrap_or(id.as_str())));
        let Some((id, request)) = id.zip(decode_request(&message.payload)) else {
            // It is none of ours.
            let _ = receipt.ack_with(AckKind::Term).await;
            return Ok(None);
        };
        Ok(Some(Delivered { receipt, id, request, count }))
    }

    async fn find(&self, id: InvocationId) -> Result<Option<(Revision, Call)>, SiteError> {
        let Opened { bucket, .. } = self.open().await?;
        let Some((revision, stored)) = self.value(&bucket, id.to_string()).await? else { return Ok(None) };
        Ok(Some((revision, decode_call(id, &stored).ok_or_else(unreadable)?)))
    }

    async fn update(&self, call: &Call, revision: Revision, keep: Duration) -> Result<Option<Revision>, SiteError> {
        let Opened { bucket, max_payload, .. } = self.open().await?;
        let context = self.nats.jetstream().map_err(unavailable)?;
        let message = PublishMessage::build()
            .payload(encode_call(call, max_payload - HEADERS))
            .expected_last_subject_sequence(revision)
            .ttl(keep.max(MIN_KEEP));
        let sent = context.send_publish(format!("{}{}", bucket.prefix, call.record.id), message).await;
        let confirmed = match sent {
            Ok(sent) => sent.await,
            Err(error) => Err(error),
        };
        match confirmed {
            Ok(done) => Ok(Some(done.sequence)),
            Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => Ok(None),
            Err(error) => Err(self.failed(error)),
        }
    }

    async fn remove(&self, call: &Call, revision: Revision) -> Result<bool, SiteError> {
        let Opened { bucket, .. } = self.open().await?;
        let Call { record, .. } = call;
        if let Err(error) = bucket.purge_expect_revision_with_ttl(record.id.to_string(), revision, REMOVED).await {
            // Another revision, or no answer.
            return match self.value(&bucket, record.id.to_string()).await? {
                Some((current, _)) if current == revision => Err(self.failed(error)),
                _ => Ok(false),
            };
        }
        if let Some(key) = &record.key {
            let key = key_of(&record.function, key);
            let reserved = self.value(&bucket, key.clone()).await?;
            let is_own = |stored: &Bytes| stored.windows(32).any(|part| part == record.id.to_string().as_bytes());
            if let Some((revision, _)) = reserved.filter(|(_, stored)| is_own(stored)) {
                let purged = bucket.purge_expect_revision_with_ttl(key, revision, REMOVED).await;
                purged.map_err(|error| self.failed(error))?;
            }
        }
        Ok(true)
    }

    async fn acknowledge(&self, receipt: &Acker) -> Result<(), SiteError> {
        self.nats.jetstream().map_err(unavailable)?;
        receipt.double_ack().await.map_err(unavailable)
    }

    async fn give_back(&self, receipt: &Acker, delay: Duration) {
        // What the client keeps until there is a connection again would concern the next delivery.
        if self.nats.jetstream().is_ok() {
            let _ = receipt.ack_with(AckKind::Nak(Some(delay))).await;
        }
    }

    async fn prolong(&self, receipt: &Acker) {
        if self.nats.jetstream().is_ok() {
            let _ = receipt.ack_with(AckKind::Progress).await;
        }
    }

    async fn pause(&self) {
        sleep(PAUSE).await;
    }
}

/// Whether the server has refused a message because there is no room for it.
fn is_full(error: &PublishError) -> bool {
    let answer = error.source().and_then(|source| source.downcast_ref::<jetstream::Error>());
    let full = [
        ErrorCode::STREAM_STORE_FAILED,
        ErrorCode::ACCOUNT_RESOURCES_EXCEEDED,
        ErrorCode::INSUFFICIENT_RESOURCES,
        ErrorCode::STORAGE_RESOURCES_EXCEEDED,
    ];
    answer.is_some_and(|answer| full.contains(&answer.error_code()))
}

/// Returns what makes the second message of a call recognisable: it may have one in the queue of its function, and one in that
/// of results.
fn message_id(queue: &str, id: InvocationId) -> String {
    if queue == RESULTS { format!("{RESULTS}{id}") } else { id.to_string() }
}

/// Returns the key of the bucket for an idempotency key, which may have any characters.
fn key_of(function: &str, key: &str) -> String {
    let digest = digest(&SHA256, key.as_bytes());
    let digest: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("key.{}.{digest}", token(function))
}

fn unavailable(error: impl Display) -> SiteError {
    SiteError::Unavailable(error.to_string())
}

fn unreadable() -> SiteError {
    unavailable("a record of the site cannot be read: was it written by a newer version?")
}
