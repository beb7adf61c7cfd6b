//! Bodies between real sockets: whole, early, throttled, broken off.

use std::{future::poll_fn, time::Duration};

use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::timeout,
};

use super::*;

const PATIENCE: Duration = Duration::from_secs(10);

/// A connection of ours and its other end.
async fn connection() -> (Socket, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    far.set_nodelay(true).unwrap();
    let (near, _) = listener.accept().await.unwrap();
    (Socket::new(near), far)
}

/// Moves a body; how that ended, and the connections.
async fn moved(mut body: Transfer, mut from: Socket, mut to: Socket) -> (Result<(), Stopped>, Socket, Socket) {
    let result = poll_fn(|cx| body.poll(cx, &mut from, &mut to)).await;
    if result.is_ok() {
        poll_fn(|cx| to.poll_flush(cx, &mut from.input)).await.unwrap();
    }
    (result, from, to)
}

/// Sends these pieces one after the other, each on its own, and keeps the connection.
fn sends(mut far: TcpStream, pieces: Vec<Vec<u8>>) -> JoinHandle<TcpStream> {
    tokio::spawn(async move {
        for piece in pieces {
            far.write_all(&piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        far
    })
}

fn in_chunks(body: &[u8], size: usize) -> Vec<u8> {
    let chunks = body.chunks(size).map(|chunk| [format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat());
    chunks.chain([b"0\r\n\r\n".to_vec()]).collect::<Vec<_>>().concat()
}

fn from_chunks(mut wire: BytesMut) -> Vec<u8> {
    let (mut reader, mut body) = (BodyReader::new(Framing::Chunked), Vec::new());
    loop {
        match reader.next(&mut wire).unwrap() {
            Piece::Data(length) => body.extend_from_slice(&wire.split_to(length)),
            Piece::End => return body,
            Piece::Hungry => panic!("no end"),
        }
    }
}

#[tokio::test]
async fn bodies_arrive_whole_however_they_are_framed_and_cut() {
    for length in [0, 1, 100, COPIED, COPIED + 1, 100_000, 1_500_000] {
        let body: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
        for (framing, chunked) in [
            (Framing::Length(length as u64), false),
            (Framing::Length(length as u64), true),
            (Framing::Chunked, true),
            (Framing::Chunked, false),
        ] {
            let ((from, sender), (to, mut receiver)) = (connection().await, connection().await);
            let mut wire = if framing == Framing::Chunked { in_chunks(&body, 6000) } else { body.clone() };
            wire.extend_from_slice(b"next");
            let cut = rand::random_range(1..=wire.len());
            let sender = sends(sender, wire.chunks(cut).map(<[u8]>::to_vec).collect());
            let received = tokio::spawn(async move {
                let mut all = Vec::new();
                receiver.read_to_end(&mut all).await.unwrap();
                all
            });
            let (result, mut from, to) =
                timeout(PATIENCE, moved(Transfer::new(framing, chunked), from, to)).await.unwrap();
            result.unwrap();
            drop(to);
            let received = received.await.unwrap();
            let received = if chunked { from_chunks(received[..].into()) } else { received };
            assert!(received == body, "{length} bytes, {framing:?}, cut by {cut}");
            while from.input.len() < 4 {
                poll_fn(|cx| from.poll_read(cx)).await.unwrap();
            }
            assert_eq!(&from.input[..], b"next", "{length} bytes, {framing:?}, cut by {cut}");
            drop(sender.await.unwrap());
        }
    }
}

#[tokio::test]
async fn what_came_is_sent_though_more_is_to_come() {
    let ((from, mut sender), (to, mut receiver)) = (connection().await, connection().await);
    let moving = tokio::spawn(moved(Transfer::new(Framing::UntilClose, true), from, to));
    for event in ["one", "two", "three"] {
        sender.write_all(event.as_bytes()).await.unwrap();
        let mut chunk = vec![0; event.len() + 5];
        timeout(PATIENCE, receiver.read_exact(&mut chunk)).await.expect("it is not held back").unwrap();
        assert_eq!(String::from_utf8(chunk).unwrap(), format!("{:x}\r\n{event}\r\n", event.len()));
    }
    drop(sender);
    moving.await.unwrap().0.unwrap();
}

#[tokio::test]
async fn who_does_not_read_stops_who_sends() {
    let ((mut from, mut sender), (mut to, receiver)) = (connection().await, connection().await);
    let sent = tokio::spawn(async move {
        let piece = vec![7; 1 << 20];
        let mut sent = 0;
        while timeout(Duration::from_millis(500), sender.write_all(&piece)).await.is_ok() {
            sent += piece.len();
            assert!(sent < 200 << 20, "nobody is stopped");
        }
        sender
    });
    let mut body = Transfer::new(Framing::UntilClose, false);
    let sender = tokio::select! {
        sender = sent => sender.unwrap(),
        _ = poll_fn(|cx| body.poll(cx, &mut from, &mut to)) => panic!("it has no end"),
    };
    let held = from.input.capacity() + to.output.head.capacity();
    assert!(held <= 1 << 20, "{held} bytes are held");
    drop((sender, receiver));
}

#[tokio::test]
async fn a_body_that_breaks_off_is_told_from_one_that_ends() {
    for (framing, wire) in [(Framing::Length(5), "four"), (Framing::Chunked, "4\r\nfour\r\n")] {
        let ((from, sender), (to, _receiver)) = (connection().await, connection().await);
        drop(sends(sender, vec![wire.into()]).await.unwrap());
        let (result, ..) = moved(Transfer::new(framing, false), from, to).await;
        assert!(matches!(result, Err(Stopped::Source(_))), "{result:?}");
    }
    let ((from, sender), (to, _receiver)) = (connection().await, connection().await);
    let _sender = sends(sender, vec![b"x\r\n".to_vec()]).await.unwrap();
    let (result, ..) = moved(Transfer::new(Framing::Chunked, false), from, to).await;
    assert!(matches!(result, Err(Stopped::Malformed(_))), "{result:?}");
}

#[tokio::test]
async fn no_byte_past_the_limit_is_passed_on() {
    for (limit, fits) in [(Some(4), false), (Some(5), true), (None, true)] {
        let ((from, sender), (to, mut receiver)) = (connection().await, connection().await);
        let sender = sends(sender, vec![b"2\r\nab\r\n".to_vec(), b"3\r\ncde\r\n0\r\n\r\n".to_vec()]);
        let mut body = Transfer::new(Framing::Chunked, false);
        body.limit(limit);
        let (result, _, to) = moved(body, from, to).await;
        assert_eq!(result.is_ok(), fits, "{limit:?}");
        drop((to, sender.await.unwrap()));
        let mut received = Vec::new();
        let _ = receiver.read_to_end(&mut received).await;
        assert!(received.len() <= 5 && (fits || received.len() < 4), "{limit:?}: {received:?}");
    }
}

#[tokio::test]
async fn a_body_that_nobody_wants_is_skipped_within_bounds() {
    for (length, most, skipped) in [(10_000, 10_000, true), (10_001, 10_000, false)] {
        let (mut from, sender) = connection().await;
        let sender = sends(sender, vec![vec![b'x'; length], b"next".to_vec()]);
        let mut body = Transfer::new(Framing::Length(length as u64), false);
        let result = timeout(PATIENCE, poll_fn(|cx| body.poll_skip(cx, &mut from, most))).await.unwrap();
        assert_eq!(result.is_ok(), skipped);
        drop(sender.await.unwrap());
    }
}

#[tokio::test]
async fn half_a_line_end_is_sent_before_what_follows_it() {
    let (from, far) = connection().await;
    let (mut to, mut receiver) = connection().await;
    // A write had room for all but the last byte of a chunk.
    to.output.tail = b"\n";
    let body = vec![7; COPIED + 1];
    let sender = sends(far, vec![body.clone()]);
    let (result, from, to) = moved(Transfer::new(Framing::Length(body.len() as u64), true), from, to).await;
    result.unwrap();
    drop((from, to));
    let mut received = Vec::new();
    receiver.read_to_end(&mut received).await.unwrap();
    assert_eq!(received[0], b'\n');
    assert!(from_chunks(BytesMut::from(&received[1..])) == body);
    sender.await.unwrap();
}
