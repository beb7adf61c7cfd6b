//! What clients send: where each request ends, whom it is for, and what of it an instance gets.

use std::net::{IpAddr, Ipv4Addr};

use bytes::{Buf, BytesMut};
use unifaas_actors::spec::check_name;

use super::reader::{Plain, elements};
use crate::{
    fuzz::in_pieces,
    http::{
        client::skip_line_ends,
        dispatch::put_request,
        headers::Peer,
        invoke::{PREFIX, split},
        request_id::RequestId,
        wire::{BodyReader, Framing, MAX_HEAD, MAX_LINES, Piece, RequestHead},
    },
};

/// Headers that concern one connection, or that the daemon writes itself.
const NOT_PASSED_ON: [&str; 10] = [
    "connection",
    "content-length",
    "forwarded",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-forwarded-for",
    "x-request-id",
];
/// Headers that are there whatever a client has `Connection` say.
const ALWAYS_PASSED_ON: [&str; 3] = ["host", "x-forwarded-host", "x-forwarded-proto"];

/// A connection's bytes are the same requests however they arrive, and each is sent on as what it was understood to be.
pub fn request(data: &[u8]) {
    let Some((wire, pieces)) = in_pieces(data) else { return };
    let whole = Connection::read([wire]);
    let cut = Connection::read(pieces);
    assert_eq!(whole, cut);
}

/// A target is for the function whose name stands in it, literally, and reaches it as it was sent.
pub fn invoke_path(data: &[u8]) {
    let head = [b"GET ", data, b" HTTP/1.1\r\nHost: h\r\n\r\n"].concat();
    let (mut request, mut input) = (RequestHead::default(), BytesMut::from(&head[..]));
    if !matches!(request.take(&mut input, MAX_HEAD), Ok(true)) || !input.is_empty() {
        return;
    }
    let (name, target) = split(&request);
    assert!(!name.iter().any(|byte| matches!(byte, b'/' | b'?')));
    assert!(target.is_empty() || matches!(target[0], b'/' | b'?'));
    if !str::from_utf8(name).is_ok_and(|name| check_name(name).is_ok()) {
        return;
    }
    // Only what could be a function is sent anywhere.
    let spelled = [PREFIX, name, target].concat();
    let sent_target = request.target();
    let before = sent_target.strip_suffix(&spelled[..]).unwrap();
    if !before.is_empty() {
        let (scheme, authority) = before.split_at(before.windows(3).position(|part| part == b"://").unwrap());
        assert!(!scheme.is_empty() && !authority[3..].iter().any(|byte| matches!(byte, b'/' | b'?' | b'#')));
    }
    check_passed_on(&request);
}

/// A request that has ended.
#[derive(Debug, PartialEq)]
struct Whole {
    method: Vec<u8>,
    target: Vec<u8>,
    framing: Framing,
    body: Vec<u8>,
}

/// What came on a connection.
#[derive(Debug, Default, PartialEq)]
struct Connection {
    requests: Vec<Whole>,
    refused: bool,
    /// The body that has not ended.
    unfinished: Option<Vec<u8>>,
}

impl Connection {
    fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let (mut this, mut head, mut input) = (Self::default(), RequestHead::default(), BytesMut::new());
        let mut reader = BodyReader::default();
        for piece in pieces {
            input.extend_from_slice(piece);
            while !this.refused && this.step(&mut head, &mut reader, &mut input) {}
        }
        this
    }

    /// Whether there is more to be done before more bytes come.
    fn step(&mut self, head: &mut RequestHead, reader: &mut BodyReader, input: &mut BytesMut) -> bool {
        let Some(body) = &mut self.unfinished else {
            skip_line_ends(input);
            match head.take(input, MAX_HEAD) {
                Ok(false) => return false,
                Ok(true) => {
                    check_passed_on(head);
                    *reader = BodyReader::new(head.framing);
                    self.unfinished = Some(Vec::new());
                }
                Err(_) => self.refused = true,
            }
            return true;
        };
        match reader.next(input) {
            Ok(Piece::Data(length)) => {
                assert!(length > 0);
                body.extend_from_slice(&input[..length]);
                input.advance(length);
            }
            Ok(Piece::Hungry) => return false,
            Ok(Piece::End) => {
                let body = std::mem::take(body);
                assert!(!matches!(head.framing, Framing::Length(length) if length != body.len() as u64));
                let (method, target) = (head.method().to_vec(), head.target().to_vec());
                self.requests.push(Whole { method, target, framing: head.framing, body });
                self.unfinished = None;
            }
            Err(_) => self.refused = true,
        }
        true
    }
}

/// The head that an instance gets says what the client's was understood to say, to any reader.
fn check_passed_on(request: &RequestHead) {
    // No function is a proxy, and what follows an accepted one would be no HTTP: it names no function.
    if request.method() == b"CONNECT" {
        return assert!(split(request).0.is_empty());
    }
    let (peer, id) = (Peer::new(IpAddr::V4(Ipv4Addr::LOCALHOST)), RequestId::of(Some(b"id")));
    let mut wire = Vec::new();
    put_request(&mut wire, request, Some(&peer), &id);
    let target = match split(request).1 {
        [b'/', ..] => split(request).1.to_vec(),
        other => [b"/", other].concat(),
    };

    let plain = Plain::read(&wire);
    assert_eq!(plain.first, [request.method(), &target, b"HTTP/1.1"]);
    let expected = expected_fields(request);
    assert_eq!(plain.fields[..expected.len()], expected);
    check_added(request, &plain, expected.len());

    // Of the old requests some have no host, and a few lines more may be too many.
    let taken_again = !request.is_old && plain.fields.len() <= MAX_LINES && wire.len() <= MAX_HEAD;
    wire.extend_from_slice(b"next");
    let (mut again, mut input) = (RequestHead::default(), BytesMut::from(&wire[..]));
    if taken_again {
        assert_eq!(again.take(&mut input, MAX_HEAD), Ok(true), "{}", wire.escape_ascii());
        assert_eq!(&input[..], b"next");
        assert_eq!((again.method(), again.target(), again.is_old), (request.method(), &target[..], false));
        assert_eq!((again.framing, again.websocket), (request.framing, request.websocket));
        assert_eq!(again.expects_continue, request.expects_continue);
    }
}

/// The client's own lines that are passed on, all of them in their order.
fn expected_fields(request: &RequestHead) -> Vec<(&[u8], &[u8])> {
    let connection: Vec<&[u8]> = request.fields.all(b"connection").collect();
    let options = elements(&connection);
    let passed_on = |name: &[u8]| {
        let name = String::from_utf8(name.to_ascii_lowercase()).unwrap();
        let dropped = NOT_PASSED_ON.contains(&name.as_str()) || name.starts_with("proxy-");
        let listed = options.iter().any(|option| option == name.as_bytes());
        !dropped && (!listed || ALWAYS_PASSED_ON.contains(&name.as_str()))
    };
    request.fields.iter().filter(|(name, _)| passed_on(name)).collect()
}

/// The lines behind them are the daemon's, and each thing is said once.
fn check_added(request: &RequestHead, sent: &Plain<'_>, from: usize) {
    let mut names: Vec<&[u8]> = sent.fields[from..].iter().map(|(name, _)| *name).collect();
    names.sort_unstable();
    let allowed = ["x-forwarded-proto", "x-forwarded-host", "te", "upgrade"].into_iter().chain(NOT_PASSED_ON);
    let allowed: Vec<&[u8]> = allowed.map(str::as_bytes).collect();
    assert!(names.iter().all(|name| allowed.contains(name)) && !names.contains(&&b"keep-alive"[..]));
    assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
    assert_eq!(sent.all("x-request-id"), [b"id"]);
    assert!(sent.all("forwarded")[0].windows(13).any(|part| part == b"for=127.0.0.1"));
    let [forwarded_for] = sent.all("x-forwarded-for")[..] else { panic!("{sent:?}") };
    assert!(forwarded_for.ends_with(b"127.0.0.1") && !sent.all("x-forwarded-proto").is_empty());
    let upgraded = if request.websocket { vec![&b"websocket"[..]] } else { vec![] };
    assert_eq!(sent.all("upgrade"), upgraded);
    let said = match request.framing {
        Framing::None | Framing::UntilClose => (vec![], vec![]),
        Framing::Length(length) => (vec![length.to_string().into_bytes()], vec![]),
        Framing::Chunked => (vec![], vec![b"chunked".to_vec()]),
    };
    let owned = |values: Vec<&[u8]>| values.into_iter().map(<[u8]>::to_vec).collect::<Vec<_>>();
    assert_eq!((owned(sent.all("content-length")), owned(sent.all("transfer-encoding"))), said);
}
