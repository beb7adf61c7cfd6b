//! Interim responses (RFC 9110, section 15.2): taken out of what an instance sends before hyper parses it, and queued for
//! the client's task. A callback of hyper costs each request more than a thousand instructions.

use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    sync::{Mutex, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::{Buf as _, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

/// Interim responses that may wait: an instance may send them without end.
const MAX_WAITING: usize = 8;
/// The status lines differ before this many bytes: `HTTP/1.1 103`.
const STATUS_END: usize = 12;
/// Largest head in bytes and most headers; past that hyper decides.
const MAX_HEAD: usize = 64 * 1024;
const MAX_HEADERS: usize = 100;

/// What the next bytes of a connection are.
#[derive(Debug)]
pub(super) enum Next {
    Interim(StatusCode, HeaderMap),
    /// The beginning of what may be an interim response.
    Incomplete,
    /// The final response, or nothing that hyper takes for one.
    Final,
}

/// Takes a complete interim response from the beginning of `bytes`.
pub(super) fn take_interim(bytes: &mut BytesMut) -> Next {
    if bytes.is_empty() || bytes.len() < STATUS_END && b"HTTP/1.1 1".starts_with(&bytes[..bytes.len().min(10)]) {
        return Next::Incomplete;
    }
    if !may_be_interim(bytes) || bytes.len() > MAX_HEAD {
        return Next::Final;
    }
    let mut fields = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut fields);
    let length = match response.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Next::Incomplete,
        Err(_) => return Next::Final,
    };
    let status = response.code.and_then(|code| StatusCode::from_u16(code).ok()).unwrap_or(StatusCode::PROCESSING);
    let headers = response.headers.iter().filter_map(|field| {
        Some((HeaderName::from_bytes(field.name.as_bytes()).ok()?, HeaderValue::from_bytes(field.value).ok()?))
    });
    let headers = headers.collect();
    bytes.advance(length);
    Next::Interim(status, headers)
}

/// Whether bytes may be the beginning of an interim response. A `101` is final.
pub(super) fn may_be_interim(bytes: &[u8]) -> bool {
    match bytes.get(..STATUS_END) {
        Some(line) => line.starts_with(b"HTTP/1.") && line[8..10] == *b" 1" && line[10..] != *b"01",
        None => !bytes.is_empty(),
    }
}

/// Interim responses to the request on a connection. What finds the queue full is dropped.
#[derive(Debug, Default)]
pub(super) struct InterimQueue(Mutex<Queue>);

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<(StatusCode, HeaderMap)>,
    waker: Option<Waker>,
}

impl InterimQueue {
    pub fn push(&self, status: StatusCode, headers: HeaderMap) {
        let mut queue = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if status == StatusCode::CONTINUE {
            // The request's body waits for it.
            queue.waiting.truncate(MAX_WAITING - 1);
        }
        if queue.waiting.len() < MAX_WAITING {
            queue.waiting.push_back((status, headers));
        }
        if let Some(waker) = queue.waker.take() {
            waker.wake();
        }
    }

    /// Waits for the final response. `receive` gets those before it.
    pub async fn before<F: Future>(
        &self,
        mut response: Pin<&mut F>,
        receive: impl Fn(StatusCode, &HeaderMap),
    ) -> F::Output {
        poll_fn(|cx| {
            let outcome = response.as_mut().poll(cx);
            while let Poll::Ready((status, headers)) = self.poll_next(cx) {
                receive(status, &headers);
            }
            outcome
        })
        .await
    }

    fn poll_next(&self, cx: &Context<'_>) -> Poll<(StatusCode, HeaderMap)> {
        let mut queue = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match queue.waiting.pop_front() {
            Some(response) => Poll::Ready(response),
            None => {
                if !queue.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                    queue.waker = Some(cx.waker().clone());
                }
                Poll::Pending
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_interim_responses_however_they_come() {
        let sent =
            b"HTTP/1.1 103 Early Hints\r\nlink: a\r\nlink: b\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\n";
        for size in 1..sent.len() {
            let (mut bytes, mut taken) = (BytesMut::new(), Vec::new());
            for part in sent.chunks(size) {
                bytes.extend_from_slice(part);
                while let Next::Interim(status, headers) = take_interim(&mut bytes) {
                    taken.push((status.as_u16(), headers.get_all("link").iter().count()));
                }
            }
            assert_eq!(taken, [(103, 2), (102, 0)], "in parts of {size}");
            assert_eq!(&bytes[..], b"HTTP/1.1 200 OK\r\n");
        }
    }

    #[test]
    fn hands_everything_else_on() {
        for other in ["HTTP/1.1 101 Switching", "HTTP/1.1 200 OK", "HTTP/1.1 1x3 \r\n\r\n", "SSH-2.0-", "HTTP/2"] {
            assert!(matches!(take_interim(&mut other.into()), Next::Final), "{other}");
        }
        assert!(matches!(take_interim(&mut "HTTP/1.1 10".into()), Next::Incomplete));
    }
}
