//! The stream and the bucket of a site, which the first node makes that needs them. An operator may have made others.

use std::{fmt::Display, time::Duration};

use async_nats::jetstream::{
    Context, ErrorCode,
    consumer::{AckPolicy, PullConsumer, pull},
    context::CreateStreamErrorKind,
    kv,
    stream::{Config, DiscardPolicy, RetentionPolicy, StorageType, Stream},
};
use unifaas_actors::site::RESULTS;

/// The queue of requests.
const STREAM: &str = "UF_INBOX";
/// The records and the keys.
const BUCKET: &str = "uf_calls";
/// What the queue may take of the server's disk at most, and at least.
const MAX_BYTES: i64 = 256 << 20;
const MIN_BYTES: i64 = 1 << 20;
/// The second message of a call is none for so long.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(3600);
/// How long the server remembers that a record has expired.
const MARKER: Duration = Duration::from_secs(60);
/// A message that is not prolonged is delivered again after that.
pub const ACK_WAIT: Duration = Duration::from_secs(30);
const MAX_ACK_PENDING: i64 = 10_000;
/// The same for results, which may have to wait for long.
const MAX_RESULTS: i64 = 1_000_000;
/// The server removes a consumer that no node has used for so long.
const INACTIVE_THRESHOLD: Duration = Duration::from_secs(600);
const MAX_CONSUMERS: i32 = 10_000;

/// The subject of a queue: the requests of a function, or the results.
pub fn subject(site: &str, queue: &str) -> String {
    format!("uf.{site}.inbox.{}", token(queue))
}

/// Returns a function's name as a token of subjects and keys.
pub fn token(function: &str) -> String {
    function.replace('.', "=2E")
}

/// Opens the queue of a site.
///
/// # Errors
/// Why it cannot be used.
pub async fn open_stream(context: &Context, site: &str) -> Result<Stream, String> {
    let subjects = subject(site, "*");
    if let Ok(stream) = context.get_stream(STREAM).await {
        let has_subjects = stream.cached_info().config.subjects.contains(&subjects);
        return has_subjects.then_some(stream).ok_or_else(|| {
            format!("the stream {STREAM} of the NATS server does not have the subjects {subjects}: does it belong to another site?")
        });
    }
    let mut max_bytes = MAX_BYTES;
    loop {
        let config = Config {
            name: STREAM.to_owned(),
            description: Some("Asynchronous invocations of UniFaaS".to_owned()),
            subjects: vec![subjects.clone()],
            retention: RetentionPolicy::WorkQueue,
            discard: DiscardPolicy::New,
            storage: StorageType::File,
            duplicate_window: DUPLICATE_WINDOW,
            max_bytes,
            max_consumers: MAX_CONSUMERS,
            allow_message_ttl: true,
            ..Config::default()
        };
        match context.create_stream(config).await {
            Ok(stream) => return Ok(stream),
            Err(error) => {
                let is_space = matches!(error.kind(), CreateStreamErrorKind::JetStream(error)
                    if [ErrorCode::INSUFFICIENT_RESOURCES, ErrorCode::STORAGE_RESOURCES_EXCEEDED].contains(&error.error_code()));
                // A smaller one may fit.
                max_bytes /= 4;
                if !is_space || max_bytes < MIN_BYTES {
                    return Err(format!("the stream {STREAM} cannot be created: {error}"));
                }
            }
        }
    }
}

/// Opens the records of a site.
///
/// # Errors
/// Why they cannot be used.
pub async fn open_bucket(context: &Context) -> Result<kv::Store, String> {
    if let Ok(bucket) = context.get_key_value(BUCKET).await {
        return Ok(bucket);
    }
    let config = kv::Config {
        bucket: BUCKET.to_owned(),
        description: "Asynchronous invocations of UniFaaS".to_owned(),
        history: 1,
        storage: StorageType::File,
        limit_markers: Some(MARKER),
        ..kv::Config::default()
    };
    context.create_key_value(config).await.map_err(|error| format!("the bucket {BUCKET} cannot be created: {error}"))
}

/// Returns the name of the consumer of a queue. It names the site: in sites that are joined, what has the same stream and
/// consumer takes an acknowledgement of one site for its own.
fn consumer(site: &str, queue: &str) -> String {
    format!("{site}={}", token(queue))
}

/// Opens the consumer of a queue, which its nodes share. That of an earlier version had the name of the function alone, and the
/// server allows one of both: it is removed while nothing uses it.
///
/// # Errors
/// Why it cannot be used.
pub async fn open_consumer(stream: &Stream, site: &str, queue: &str) -> Result<PullConsumer, String> {
    let config = pull::Config {
        durable_name: Some(consumer(site, queue)),
        filter_subject: subject(site, queue),
        ack_policy: AckPolicy::Explicit,
        ack_wait: ACK_WAIT,
        max_ack_pending: if queue == RESULTS { MAX_RESULTS } else { MAX_ACK_PENDING },
        inactive_threshold: INACTIVE_THRESHOLD,
        ..pull::Config::default()
    };
    let failed = |why: &dyn Display| format!("no consumer of {STREAM} for {queue}: {why}");
    let error = match stream.create_consumer(config.clone()).await {
        Ok(consumer) => return Ok(consumer),
        Err(error) => error,
    };
    let earlier = token(queue);
    match stream.consumer_info(&earlier).await {
        Ok(info) if info.num_waiting == 0 && info.num_ack_pending == 0 => {
            // Another node may have removed it meanwhile.
            let _ = stream.delete_consumer(&earlier).await;
            stream.create_consumer(config).await.map_err(|error| failed(&error))
        }
        Ok(_) => Err(failed(&format!("nodes of an earlier version have used {earlier} lately, and have to end"))),
        Err(_) => Err(failed(&error)),
    }
}
