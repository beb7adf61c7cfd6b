//! Answers to messages with a reply subject: the body of the function's answer, once the invocation has ended.

use async_nats::{Client, HeaderMap, Subject};
use bytes::Bytes;
use unifaas_actors::inbox::{Command, InboxHandle, InvocationId};

use super::{intake::NotStored, nats::Link};
use crate::inbox::INVOCATION;

/// The status of the function's answer.
const STATUS: &str = "x-unifaas-status";
/// Why there is no answer.
const ERROR: &str = "x-unifaas-error";

/// Has the answer to a message sent. Does not wait for it.
pub fn send(link: &Link<'_>, subject: Subject, stored: Result<InvocationId, NotStored>) {
    let permit = link.replies.clone().try_acquire_owned();
    let (client, inbox) = (link.client.clone(), link.source.intake.inbox().clone());
    tokio::spawn(async move {
        let id = stored.as_ref().ok().copied();
        let answer = match (stored, &permit) {
            (Ok(id), Ok(_)) => answer(&inbox, id).await,
            (Ok(_), Err(_)) => Err("too many answers are waited for: the invocation goes on without".to_owned()),
            (Err(why), _) => Err(why.to_string()),
        };
        publish(&client, subject, id, answer).await;
        drop(permit);
    });
}

async fn publish(client: &Client, subject: Subject, id: Option<InvocationId>, answer: Result<Answer, String>) {
    let mut headers = HeaderMap::new();
    if let Some(id) = id {
        headers.insert(INVOCATION, id.to_string().as_str());
    }
    let why = match answer {
        Ok(Answer { status, content_type, body }) => {
            let mut headers = headers.clone();
            headers.insert(STATUS, status.to_string().as_str());
            if let Some(content_type) = content_type {
                headers.insert("Content-Type", content_type.as_str());
            }
            match client.publish_with_headers(subject.clone(), headers, body).await {
                Ok(()) => return,
                // It may be larger than the server allows.
                Err(error) => error.to_string(),
            }
        }
        Err(why) => why,
    };
    headers.insert(ERROR, why.replace(['\r', '\n'], " ").as_str());
    // The requester waits in vain if that fails as well.
    let _ = client.publish_with_headers(subject, headers, Bytes::new()).await;
}

struct Answer {
    status: u16,
    content_type: Option<String>,
    body: Bytes,
}

/// Waits for the end of an invocation, and returns the function's answer.
async fn answer(inbox: &InboxHandle, id: InvocationId) -> Result<Answer, String> {
    let ended = inbox.ask(|reply| Command::Find { id, awaits_end: true, reply }).await?;
    ended.ok_or("the invocation was cancelled")?;
    let found = inbox.ask(|reply| Command::Response(id, reply)).await?;
    let response = found.and_then(|found| found.response).ok_or("the function has not answered")?;
    let content_type = response.headers.iter().find(|(name, _)| name == "content-type");
    let content_type = content_type.and_then(|(_, value)| String::from_utf8(value.clone()).ok());
    let body = response.body.ok_or("the function's answer was too large to be kept")?;
    Ok(Answer { status: response.status, content_type, body })
}
