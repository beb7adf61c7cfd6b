//! The catalogue on the NATS server: a bucket with a key for each function.
//!
//! A watch is made anew when the connection was lost. What the server has lost, nodes go on
//! serving: only what was removed on purpose is removed.

use std::{sync::Arc, time::Duration};

use async_nats::jetstream::kv::{Config, Entry, Operation, Store, UpdateErrorKind};
use futures::StreamExt as _;
use tokio::{
    sync::mpsc,
    time::{interval, sleep},
};
use unifaas_actors::{
    cluster::{Listed, Publication},
    spec::check_name,
};

use super::{ChangeKind, Changed, PublishError};
use crate::cluster::NatsClient;

const BUCKET: &str = "uf_functions";
/// Between two attempts to follow the catalogue.
const RETRY: Duration = Duration::from_millis(500);

/// What comes of the catalogue.
#[derive(Debug)]
pub enum News {
    /// It is followed.
    Following,
    /// It is not, for this reason.
    Lost(String),
    /// A function is, or has become, like that. The server `begun_anew`: what was read before does not count.
    Read { function: Arc<str>, listed: Listed, begun_anew: bool },
}

/// Follows the catalogue until the receiver is dropped.
pub async fn follow(nats: NatsClient, news: mpsc::Sender<News>) {
    let mut connected = nats.connected();
    loop {
        let why = tokio::select! {
            why = follow_once(&nats, &news) => why,
            // Made anew at once, for all that has changed meanwhile.
            Ok(()) = connected.changed() => continue,
        };
        if news.send(News::Lost(why)).await.is_err() {
            return;
        }
        tokio::select! {
            () = sleep(RETRY) => {}
            Ok(()) = connected.changed() => {}
        }
    }
}

/// Follows the catalogue for as long as that works. Returns why it does not.
async fn follow_once(nats: &NatsClient, news: &mpsc::Sender<News>) -> String {
    let begun = async {
        let bucket = open(nats).await?;
        bucket.watch_with_history(">").await.map_err(|error| error.to_string())
    };
    let mut watch = match nats.denials.unless_denied(|subject| is_needed(subject, None), begun).await {
        Ok(Ok(watch)) => watch,
        Ok(Err(why)) => return why,
        Err(denial) => return denial.to_string(),
    };
    if news.send(News::Following).await.is_err() {
        return String::new();
    }
    let (mut begun_anew, mut look) = (true, interval(RETRY));
    loop {
        let entry = tokio::select! {
            entry = watch.next() => entry,
            // The watch itself may not notice for long that the connection is lost.
            _ = look.tick() => match nats.jetstream() {
                Ok(_) => continue,
                Err(error) => return error.to_string(),
            },
        };
        let entry = match entry {
            Some(Ok(entry)) => entry,
            Some(Err(error)) => return error.to_string(),
            None => return "the watch has ended".to_owned(),
        };
        let is_current = entry.seen_current;
        if let Some((function, listed)) = read(&entry)
            && news.send(News::Read { function, listed, begun_anew }).await.is_err()
        {
            return String::new();
        }
        begun_anew &= !is_current;
    }
}

/// Whether a subject is needed to read the catalogue, or to change what it lists under `key`: that of the bucket, of its stream,
/// or of replies.
fn is_needed(subject: &str, key: Option<&str>) -> bool {
    match subject.strip_prefix("$KV.").and_then(|rest| rest.strip_prefix(BUCKET)?.strip_prefix('.')) {
        // What may not be written of one function says nothing about another one.
        Some(written) => key == Some(written),
        None => subject.starts_with("_INBOX.") || subject.contains(BUCKET),
    }
}

/// Returns the key of a function.
fn key_of(function: &str) -> String {
    function.replace('.', "=2E")
}

/// Returns the bucket, which the first node makes.
async fn open(nats: &NatsClient) -> Result<Store, String> {
    let jetstream = nats.jetstream().map_err(|error| error.to_string())?;
    if let Ok(bucket) = jetstream.get_key_value(BUCKET).await {
        return Ok(bucket);
    }
    let config = Config { bucket: BUCKET.to_owned(), history: 1, ..Config::default() };
    let made = jetstream.create_key_value(config).await;
    made.map_err(|error| format!("there is no bucket {BUCKET}, and this node cannot make it: {error}"))
}

/// Returns what an entry says, unless it is of another program.
fn read(entry: &Entry) -> Option<(Arc<str>, Listed)> {
    let function = entry.key.replace("=2E", ".");
    check_name(&function).ok()?;
    let publication = match entry.operation {
        Operation::Put => Some(serde_json::from_slice(&entry.value).ok()?),
        Operation::Delete | Operation::Purge => None,
    };
    Some((function.into(), Listed { revision: entry.revision, publication }))
}

/// Changes what is listed of a function, if the server has the same revision, and allows it.
pub async fn change(
    nats: &NatsClient,
    function: &str,
    what: ChangeKind,
    known: Option<Listed>,
) -> Result<(Changed, Listed), PublishError> {
    let key = key_of(function);
    let is_needed = |subject: &str| is_needed(subject, Some(&key));
    let changed = nats.denials.unless_denied(is_needed, write(nats, function, what, known)).await;
    changed.unwrap_or_else(|denial| Err(PublishError::Unavailable(denial.to_string())))
}

async fn write(
    nats: &NatsClient,
    function: &str,
    what: ChangeKind,
    known: Option<Listed>,
) -> Result<(Changed, Listed), PublishError> {
    let key = key_of(function);
    let bucket = open(nats).await.map_err(PublishError::Unavailable)?;
    let mut revision = known.as_ref().map_or(0, |listed| listed.revision);
    let publication = apply(function, known.and_then(|listed| listed.publication), what)?;
    let Some(publication) = publication else {
        let deleted = bucket.delete_expect_revision(&key, Some(revision)).await;
        deleted.map_err(|error| PublishError::Unavailable(error.to_string()))?;
        let listed = Listed { revision: revision + 1, publication: None };
        return Ok((Changed { revision: listed.revision, version: None }, listed));
    };
    let value = serde_json::to_vec(&publication).unwrap_or_default();
    let mut written = bucket.update(&key, value.clone().into(), revision).await;
    let is_conflict = |kind| kind == UpdateErrorKind::WrongLastRevision;
    if written.as_ref().is_err_and(|error| is_conflict(error.kind())) && revision > 0 {
        // The server has lost what was there, and knows no revision.
        if let Ok(None) = bucket.entry(&key).await {
            revision = 0;
            written = bucket.update(&key, value.into(), revision).await;
        }
    }
    match written {
        Ok(revision) => {
            let version = Some(publication.wanted);
            Ok((Changed { revision, version }, Listed { revision, publication: Some(publication) }))
        }
        Err(error) if is_conflict(error.kind()) => Err(PublishError::Conflict(function.to_owned())),
        Err(error) => Err(PublishError::Unavailable(format!(
            "the NATS server has not confirmed the change, which it may have stored all the same: {error}"
        ))),
    }
}

/// Returns what is listed after a change. `None`: nothing.
fn apply(function: &str, known: Option<Publication>, what: ChangeKind) -> Result<Option<Publication>, PublishError> {
    let Some(mut publication) = known else {
        return match what {
            ChangeKind::Publish { version, .. } => Ok(Some(Publication::first(version))),
            _ => Err(PublishError::NotPublished(function.to_owned())),
        };
    };
    match what {
        ChangeKind::Publish { version, percent } => publication.add(version, percent),
        ChangeKind::RollOut { version, percent } => drop(publication.roll_out(&version, percent)?),
        ChangeKind::RollBack => drop(publication.roll_back()?),
        ChangeKind::Remove => return Ok(None),
    }
    Ok(Some(publication))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn denied_change_of_one_function_fails_no_other_one() {
        let written = |function: &str| format!("$KV.{BUCKET}.{}", key_of(function));
        for (subject, key, needed) in [
            (written("f"), Some("f"), true),
            (written("f.v2"), Some("f=2Ev2"), true),
            (written("g"), Some("f"), false),
            (written("f.v2"), Some("f"), false),
            (written("f"), None, false),
            (format!("$JS.API.STREAM.INFO.KV_{BUCKET}"), Some("f"), true),
            (format!("$JS.API.CONSUMER.CREATE.KV_{BUCKET}.>"), None, true),
            ("_INBOX.>".to_owned(), Some("f"), true),
            ("$KV.uf_calls.>".to_owned(), Some("f"), false),
        ] {
            assert_eq!(is_needed(&subject, key), needed, "{subject} for {key:?}");
        }
    }
}
