//! What instances answer: where each response ends, and what of its head a client gets.

use actix_http::StatusCode;
use bytes::{Buf, BytesMut};

use super::reader::{Plain, elements};
use crate::http::{
    client::put_status,
    headers::{ERROR_CODE, REQUEST_ID, put_response_headers},
    wire::{BodyReader, Framing, Piece, ResponseHead, put_header},
};

/// The answer is the same however it arrives, and what is sent on of it is that answer.
///
/// The first byte says whether the request was a `HEAD`, and in pieces of which length the rest arrives.
pub fn response(data: &[u8]) {
    let Some((way, wire)) = data.split_first() else { return };
    let to_head = way & 1 == 1;
    let whole = Answer::read([wire], to_head);
    let cut = Answer::read(wire.chunks(1 + usize::from(way >> 1)), to_head);
    assert_eq!(whole, cut);
}

/// What came of an instance.
#[derive(Debug, Default, PartialEq)]
struct Answer {
    heads: Vec<(StatusCode, Vec<u8>, Framing)>,
    body: Vec<u8>,
    state: State,
    /// Bytes that have been understood.
    taken: usize,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Head,
    Body,
    Complete,
    Nonsense,
}

impl Answer {
    fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>, to_head: bool) -> Self {
        let (mut this, mut head, mut input) = (Self::default(), ResponseHead::default(), BytesMut::new());
        let mut reader = BodyReader::default();
        for piece in pieces {
            input.extend_from_slice(piece);
            let before = input.len();
            while this.step(&mut head, &mut reader, &mut input, to_head) {}
            this.taken += before - input.len();
        }
        this
    }

    /// Whether there is more to be done before more bytes come.
    fn step(&mut self, head: &mut ResponseHead, reader: &mut BodyReader, input: &mut BytesMut, to_head: bool) -> bool {
        match self.state {
            State::Head => match head.take(input, to_head) {
                Ok(false) => false,
                Ok(true) => {
                    check_passed_on(head, to_head);
                    self.heads.push((head.status, head.reason().to_vec(), head.framing));
                    if !is_interim(head.status) {
                        *reader = BodyReader::new(head.framing);
                        self.state = State::Body;
                    }
                    true
                }
                Err(_) => {
                    self.state = State::Nonsense;
                    false
                }
            },
            State::Body => match reader.next(input) {
                Ok(Piece::Data(length)) => {
                    self.body.extend_from_slice(&input[..length]);
                    input.advance(length);
                    true
                }
                Ok(Piece::Hungry) => false,
                Ok(Piece::End) => {
                    self.state = State::Complete;
                    false
                }
                Err(_) => {
                    self.state = State::Nonsense;
                    false
                }
            },
            State::Complete | State::Nonsense => false,
        }
    }
}

fn is_interim(status: StatusCode) -> bool {
    status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS
}

/// The head that a client gets says what the instance's was understood to say, to any reader.
fn check_passed_on(head: &ResponseHead, to_head: bool) {
    let upgraded = head.status == StatusCode::SWITCHING_PROTOCOLS;
    let mut wire = Vec::new();
    put_status(&mut wire, head.status, head.reason());
    let dated = put_response_headers(&mut wire, head);
    // As `invoke.rs` does for a client that knows chunks.
    let chunked = !upgraded && matches!(head.framing, Framing::Chunked | Framing::UntilClose);
    if chunked {
        put_header(&mut wire, b"transfer-encoding", [&b"chunked"[..]]);
    }
    wire.extend_from_slice(b"\r\n");

    let plain = Plain::read(&wire);
    assert_eq!(plain.first[..2], [&b"HTTP/1.1"[..], head.status.as_str().as_bytes()]);
    assert_eq!(plain.first[2..].join(&b' '), head.reason());
    assert_eq!(dated, !plain.all("date").is_empty());
    for name in [REQUEST_ID, ERROR_CODE, "connection", "keep-alive", "te", "trailer", "proxy-authenticate"] {
        assert!(plain.all(name).is_empty(), "{}", wire.escape_ascii());
    }
    let connection: Vec<&[u8]> = head.fields.all(b"connection").collect();
    let options = elements(&connection);
    let length = head.length.map(|length| length.to_string());
    for (name, value) in &plain.fields {
        let name = name.to_ascii_lowercase();
        match &name[..] {
            b"content-length" => assert_eq!(Some(*value), length.as_deref().map(str::as_bytes)),
            b"transfer-encoding" => assert!(chunked),
            b"upgrade" => assert!(upgraded),
            _ => assert!(!options.contains(&name), "{}", wire.escape_ascii()),
        }
    }

    let (mut again, mut input) = (ResponseHead::default(), BytesMut::from(&wire[..]));
    assert_eq!(again.take(&mut input, to_head), Ok(true), "{}", wire.escape_ascii());
    assert!(input.is_empty());
    assert_eq!((again.status, again.reason()), (head.status, head.reason()));
    let expected = if chunked { Framing::Chunked } else { head.framing };
    assert_eq!(again.framing, expected, "{}", wire.escape_ascii());
}
