//! The server of a site, by JetStream: `UF_INBOX` has the requests, `uf_calls` has the records and the keys.

use std::{cell::RefCell, collections::HashMap, fmt::Display, sync::Arc, time::Duration};

use async_nats::jetstream::{
    AckKind,
    consumer::PullConsumer,
    context::PublishErrorKind,
    kv::{CreateErrorKind, Operation, Store},
    message::{Acker, PublishMessage},
    stream::{LastRawMessageErrorKind, Stream},
};
use bytes::Bytes;
use futures::StreamExt as _;
use ring::digest::{SHA256, digest};
use tokio::time::{sleep, timeout};
use unifaas_actors::{
    inbox::{InvocationId, StoredRequest},
    site::{Call, Delivered, KeyReservation, Revision, SiteError, SiteStore},
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

    async fn consumer(&self, function: &str) -> Result<PullConsumer, SiteError> {
        let opened = self.open().await?;
        if let Some(consumer) = self.consumers.borrow().get(function) {
            return Ok(consumer.clone());
        }
        let consumer = open_consumer(&opened.stream, &self.site, function).await.map_err(|error| self.failed(error))?;
        self.consumers.borrow_mut().insert(function.to_owned(), consumer.clone());
        Ok(consumer)
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

    async fn publish(&self, call: &Call, request: &StoredRequest) -> Result<(), SiteError> {
        let Opened { stream, max_payload, .. } = self.open().await?;
        let payload = encode_request(request);
        if payload.len() + HEADERS > max_payload {
            return Err(SiteError::TooLarge);
        }
        let context = self.nats.jetstream().map_err(unavailable)?;
        let message = PublishMessage::build().payload(payload).message_id(call.record.id.to_string());
        let message = message.expected_stream(&stream.cached_info().config.name);
        let sent = context.send_publish(subject(&self.site, &call.record.function), message).await;
        let confirmed = match sent {
            Ok(sent) => sent.await,
            Err(error) => Err(error),
        };
        confirmed.map(drop).map_err(|error| match error.kind() {
            PublishErrorKind::MaxPayloadExceeded => SiteError::TooLarge,
            _ => self.failed(error),
        })
    }

    async fn pull(&self, function: &str) -> Result<Option<Delivered<Acker>>, SiteError> {
        let consumer = self.consumer(function).await?;
        let pulled = async {
            let mut batch = consumer.batch().max_messages(1).expires(PULL).messages().await.ok()?;
            batch.next().await.map_or(Some(None), |message| Some(Some(message.ok()?)))
        };
        let Ok(Some(message)) = timeout(PULL + PULL_GRACE, pulled).await else {
            self.consumers.borrow_mut().remove(function);
            return Err(self.failed("no answer to a pull"));
        };
        let Some(message) = message else { return Ok(None) };
        let count = message.info().map_or(1, |info| info.delivered.max(1).unsigned_abs());
        let (message, receipt) = message.split();
        let id = message.headers.as_ref().and_then(|headers| headers.get(async_nats::header::NATS_MESSAGE_ID));
        let id = id.and_then(|id| InvocationId::parse(id.as_str()));
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
