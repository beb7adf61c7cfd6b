//! `GOAWAY` frames of HTTP/2: those of clients are corrected on their way to actix-http, and actix-http sends none before
//! the daemon ends, so one is put between its frames.
//!
//! A client's frame names the last stream of the server that the client has seen, most often 0. The h2 0.3 of actix-http takes
//! it for a stream of the client, and ends all later ones: requests in service (h2 0.4 does not). So the frame is made to
//! name the last possible stream.

/// Length of the connection preface and of a frame's header.
const PREFACE: usize = 24;
const HEADER: usize = 9;
const GOAWAY: u8 = 7;
const LAST_STREAM: [u8; 4] = [0x7f, 0xff, 0xff, 0xff];

/// Has a client begin no more streams. Those that it has begun are served, as the last possible one is named.
pub const NO_MORE_STREAMS: [u8; HEADER + 8] = {
    let ([a, b, c, d], no_error) = (LAST_STREAM, 0);
    [0, 0, 8, GOAWAY, 0, 0, 0, 0, 0, a, b, c, d, 0, 0, 0, no_error]
};

/// The place in the bytes of a connection.
#[derive(Debug)]
pub struct GoawayFilter {
    /// The header of a frame, as far as it has come.
    header: [u8; HEADER],
    filled: usize,
    /// Bytes of `LAST_STREAM` that are to be written.
    stream_left: usize,
    /// Bytes behind those until the next header.
    skipped: usize,
}

impl Default for GoawayFilter {
    fn default() -> Self {
        Self { header: [0; HEADER], filled: 0, stream_left: 0, skipped: PREFACE }
    }
}

impl GoawayFilter {
    /// Corrects the next bytes of the connection.
    pub fn correct(&mut self, mut bytes: &mut [u8]) {
        while let Some(first) = bytes.first_mut() {
            let mut passed = 1;
            if self.stream_left > 0 {
                *first = LAST_STREAM[LAST_STREAM.len() - self.stream_left];
                self.stream_left -= 1;
            } else if self.skipped > 0 {
                passed = self.skipped.min(bytes.len());
                self.skipped -= passed;
            } else {
                self.header[self.filled] = *first;
                self.filled += 1;
                if self.filled == HEADER {
                    let [high, middle, low, kind, ..] = self.header;
                    let length = u32::from_be_bytes([0, high, middle, low]) as usize;
                    self.stream_left = if kind == GOAWAY { LAST_STREAM.len().min(length) } else { 0 };
                    (self.skipped, self.filled) = (length - self.stream_left, 0);
                }
            }
            bytes = &mut bytes[passed..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_stream_of_goaway_changes() {
        let frame = |kind: u8, payload: &[u8]| [&[0, 0, payload.len() as u8, kind, 0, 0, 0, 0, 0], payload].concat();
        let with = |stream: [u8; 4]| {
            let goaway = frame(GOAWAY, &[&stream[..], &[0, 0, 0, 2], b"why"].concat());
            [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(4, &[]), goaway.clone(), frame(0, &[7; 9]), goaway]
                .concat()
        };
        let (sent, expected) = (with([0, 0, 0, 5]), with(LAST_STREAM));
        for size in [1, 2, 5, 10, 100] {
            let (mut bytes, mut filter) = (sent.clone(), GoawayFilter::default());
            bytes.chunks_mut(size).for_each(|part| filter.correct(part));
            assert_eq!(bytes, expected, "in parts of {size}");
        }
    }
}
