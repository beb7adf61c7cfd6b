//! What `src/http` relies on in actix-http, which its documentation does not promise.

#![cfg(test)]

use std::{
    cell::RefCell,
    convert::Infallible,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use actix_http::{
    HttpService, KeepAlive, Protocol, Request, Response,
    body::{BodySize, BoxBody, MessageBody},
};
use actix_service::{Service as _, ServiceFactory as _, fn_service};
use bytes::Bytes;
use futures::StreamExt as _;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadBuf, duplex},
    time::{sleep, timeout},
};

/// Longest answer of the parser, as in `src/http/client_stream.rs`.
const PARSER_ANSWER: usize = 256;

/// What the dispatcher has asked of the stream below it.
type Calls = Rc<RefCell<Vec<&'static str>>>;

/// Notes calls.
struct Noted {
    io: DuplexStream,
    calls: Calls,
}

impl AsyncRead for Noted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.calls.borrow_mut().push("read");
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Noted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.calls.borrow_mut().push("write");
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.calls.borrow_mut().push("flush");
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Yields its parts, then an error.
struct BreakingBody(Vec<Bytes>);

impl MessageBody for BreakingBody {
    type Error = io::Error;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        Poll::Ready(Some(self.0.pop().ok_or_else(|| io::ErrorKind::Other.into())))
    }
}

/// Answers `/wait` after a second, `/break` with a body that breaks off, bodies with how they ended, all else at once.
async fn handle(mut request: Request) -> Result<Response<BoxBody>, Infallible> {
    match request.path() {
        "/wait" => sleep(Duration::from_secs(1)).await,
        "/break" => return Ok(Response::ok().set_body(BoxBody::new(BreakingBody(vec!["part".into()])))),
        "/body" => {
            let mut payload = request.take_payload();
            while let Some(chunk) = payload.next().await {
                if chunk.is_err() {
                    return Ok(Response::bad_request().set_body(BoxBody::new("malformed")));
                }
            }
        }
        _ => {}
    }
    Ok(Response::ok().set_body(BoxBody::new("fine")))
}

/// Sends `sent` to a dispatcher; returns what it answered within half a second, and its calls.
async fn exchange(sent: &[u8]) -> (String, Vec<&'static str>) {
    let service = HttpService::build()
        .keep_alive(KeepAlive::Os)
        .client_request_timeout(Duration::ZERO)
        .client_disconnect_timeout(Duration::ZERO)
        .finish(fn_service(handle))
        .new_service(())
        .await
        .unwrap();
    let (mut client, io) = duplex(64 * 1024);
    let calls = Calls::default();
    let served = actix_rt::spawn(service.call((Noted { io, calls: calls.clone() }, Protocol::Http1, None)));
    // A refused head is not read to its end.
    let _ = client.write_all(sent).await;
    let mut answer = Vec::new();
    let _ = timeout(Duration::from_millis(500), client.read_to_end(&mut answer)).await;
    served.abort();
    let calls = calls.borrow().clone();
    (String::from_utf8(answer).unwrap(), calls)
}

#[actix_rt::test]
async fn what_the_parser_refuses_is_answered_by_a_short_bare_status() {
    for (sent, status) in [
        (&b"GARBAGE\r\n\r\n"[..], "400"),
        (b"GET / HTTP/1.1\r\n\r\n", "400"),
        (b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n", "400"),
        (&[b"GET / HTTP/1.1\r\nhost: h\r\nx: ", &[b'x'; 140 * 1024][..]].concat(), "431"),
    ] {
        let (answer, _) = exchange(sent).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.len() < PARSER_ANSWER, "{answer}");
        assert!(answer.contains("content-length: 0"), "{answer}");
    }
}

#[actix_rt::test]
async fn the_stream_is_flushed_when_all_has_been_written() {
    let (answer, calls) = exchange(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n").await;
    assert!(answer.ends_with("fine"), "{answer}");
    let written = calls.iter().rposition(|call| *call == "write").unwrap();
    assert!(calls[written..].contains(&"flush"), "{calls:?}");
}

#[actix_rt::test]
async fn the_stream_is_flushed_while_a_handler_waits() {
    let (answer, calls) = exchange(b"GET /wait HTTP/1.1\r\nhost: h\r\n\r\n").await;
    assert!(answer.is_empty() && calls.contains(&"flush"), "{answer} {calls:?}");
}

#[actix_rt::test]
async fn a_handler_can_answer_a_malformed_chunk_in_the_turn_in_which_it_is_found() {
    let sent = b"POST /body HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\nnonsense\r\n";
    let (answer, _) = exchange(sent).await;
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.ends_with("malformed"), "{answer}");
}

#[actix_rt::test]
async fn an_error_in_the_same_turn_takes_the_data_before_it_along() {
    let (answer, _) = exchange(b"GET /break HTTP/1.1\r\nhost: h\r\n\r\n").await;
    assert_eq!(answer, "", "if this fails, response_body.rs need not wait before an error");
}

#[actix_rt::test]
async fn later_heads_of_a_connection_have_no_deadline() {
    let sent = b"GET / HTTP/1.1\r\nhost: h\r\n\r\nGET / HT";
    let (answer, _) = exchange(sent).await;
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
}
