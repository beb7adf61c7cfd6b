//! Tables of good and bad bodies, each cut in every way, and random ones against what they were made of.

use super::*;

/// Feeds `wire` in pieces of `step` bytes and returns the body, whether it ended, and what was left behind it.
fn read(framing: Framing, wire: &[u8], step: usize) -> Result<(Vec<u8>, bool, Vec<u8>), Malformed> {
    let (mut reader, mut input, mut body) = (BodyReader::new(framing), BytesMut::new(), Vec::new());
    let mut pieces = wire.chunks(step);
    loop {
        match reader.next(&mut input)? {
            Piece::Data(length) => {
                assert!(length > 0);
                body.extend_from_slice(&input.split_to(length));
            }
            Piece::End => {
                assert_eq!(reader.next(&mut input), Ok(Piece::End), "an end is for good");
                let rest = input.iter().chain(pieces.flatten()).copied().collect();
                return Ok((body, true, rest));
            }
            Piece::Hungry => match pieces.next() {
                Some(piece) => input.extend_from_slice(piece),
                None => return Ok((body, false, input.to_vec())),
            },
        }
    }
}

#[test]
fn bodies_are_read_however_they_are_cut() {
    let chunked = b"3\r\nabc\r\n2;ext=1\r\nde\r\n0\r\nTrailer: x\r\n\r\nGET";
    for step in 1..=chunked.len() {
        let whole = (b"abcde".to_vec(), true, b"GET".to_vec());
        assert_eq!(read(Framing::Chunked, chunked, step).unwrap(), whole);
        assert_eq!(read(Framing::Length(5), b"abcdeGET", step).unwrap(), whole);
        assert_eq!(read(Framing::UntilClose, b"abcde", step).unwrap(), (b"abcde".to_vec(), false, vec![]));
        assert_eq!(read(Framing::None, b"GET", step).unwrap(), (vec![], true, b"GET".to_vec()));
    }
}

#[test]
fn what_has_not_come_whole_has_not_ended() {
    assert!(!read(Framing::Length(6), b"abcde", 2).unwrap().1);
    let chunked = b"A ; x=\"y\"\r\n0123456789\r\n0 \r\nTrailer: x\r\n\r\n";
    assert!(read(Framing::Chunked, chunked, 100).unwrap().1);
    for length in 0..chunked.len() {
        let (body, ended, _) = read(Framing::Chunked, &chunked[..length], 3).unwrap();
        assert!(!ended && b"0123456789".starts_with(&body), "{length}");
    }
}

#[test]
fn malformed_chunks_are_found_however_they_are_cut() {
    for wire in [
        &b"x\r\nabc"[..],
        b"\r\nabc",
        b";ext\r\nabc",
        b" 3\r\nabc",
        b"-1\r\n",
        b"0x3\r\nabc",
        b"3 3\r\nabc",
        b"3\nabc\r\n",
        b"3\r\r\nabc",
        b"3;a\rb\r\nabc",
        b"3;a\nabc",
        b"3\r\nabcde",
        b"3\r\nabc\n0\r\n",
        b"3\r\nabc0\r\n\r\n",
        b"10000000000000000\r\n",
        b"ffffffffffffffffff\r\n",
    ] {
        for step in 1..=wire.len() {
            assert_eq!(read(Framing::Chunked, wire, step).unwrap_err(), Malformed, "{wire:?} by {step}");
        }
    }
}

#[test]
fn what_frames_a_body_is_bounded() {
    let endless = [&b"1;"[..], &[b'x'; 2 * MAX_CHUNK_LINE]].concat();
    assert_eq!(read(Framing::Chunked, &endless, 100).unwrap_err(), Malformed);
    let long = [&b"5;"[..], &[b'x'; MAX_CHUNK_LINE - 4], b"\r\nabcde"].concat();
    let too_long = [&b"5;"[..], &[b'x'; MAX_CHUNK_LINE - 3], b"\r\nabcde"].concat();
    for step in [1, 100, too_long.len()] {
        assert_eq!(read(Framing::Chunked, &long, step), Ok((b"abcde".to_vec(), false, vec![])), "by {step}");
        assert_eq!(read(Framing::Chunked, &too_long, step), Err(Malformed), "by {step}");
    }
    let trailers = [&b"0\r\n"[..], &b"a: b\r\n".repeat(MAX_TRAILERS / 4)].concat();
    assert_eq!(read(Framing::Chunked, &trailers, 1000).unwrap_err(), Malformed);
    let trailer = [&b"0\r\n"[..], &[b'x'; 2 * MAX_TRAILERS]].concat();
    assert_eq!(read(Framing::Chunked, &trailer, 1000).unwrap_err(), Malformed);
}

#[test]
fn random_bodies_come_out_as_they_went_in() {
    let mut wire = Vec::new();
    for _ in 0..500 {
        wire.clear();
        let mut body = Vec::new();
        for _ in 0..rand::random_range(0..6) {
            let chunk: Vec<u8> = (0..rand::random_range(1..40)).map(|_| rand::random()).collect();
            let (zeros, blanks) = (rand::random_range(0..3), rand::random_range(0..3));
            let extension = if rand::random() { ";a=b" } else { "" };
            let line = format!("{}{:X}{}{extension}\r\n", "0".repeat(zeros), chunk.len(), " ".repeat(blanks));
            wire.extend_from_slice(line.as_bytes());
            wire.extend_from_slice(&chunk);
            wire.extend_from_slice(b"\r\n");
            body.extend_from_slice(&chunk);
        }
        wire.extend_from_slice(b"0\r\n\r\nrest");
        let step = rand::random_range(1..50);
        let expected = (body, true, b"rest".to_vec());
        assert_eq!(read(Framing::Chunked, &wire, step).unwrap(), expected, "{wire:?} by {step}");
    }
}
