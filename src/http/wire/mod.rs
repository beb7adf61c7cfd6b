//! HTTP/1.1 as bytes: heads and bodies, taken apart and written. Pure: no socket, no clock.
//!
//! Both sides use it, the one towards clients and the one towards instances. Fields stay the bytes that they came as, with
//! a table of where each name and value is: what a proxy does with nearly all of them is to pass them on, and a map of
//! typed names and values costs more per request than everything else that is done to it.
//!
//! | file | what it knows |
//! | --- | --- |
//! | `fields.rs` | the lines of a head |
//! | `request.rs` | the head of a client's request: strict, since others before and behind us read the same bytes |
//! | `response.rs` | the head of an instance's response |
//! | `body.rs` | where a body ends |
//! | `put.rs` | lines and chunks to be sent |

mod body;
mod fields;
mod put;
mod request;
mod response;

pub use body::{BodyReader, Framing, Malformed, Piece};
pub use fields::Fields;
pub use put::{put_chunk_line, put_header, put_number};
pub use request::{HeadError, RequestHead};
pub use response::{Nonsense, ResponseHead};

/// Largest head, in bytes.
pub const MAX_HEAD: usize = 128 * 1024;
/// Most lines of a head.
pub const MAX_LINES: usize = 128;

/// How much has been seen of a head that has not come whole: parsing it again for each byte that comes would let whoever
/// sends it so keep a processor busy.
#[derive(Debug, Default)]
pub struct Seen(usize);

impl Seen {
    /// Whether anything of a head has come.
    pub fn anything(&self) -> bool {
        self.0 > 0
    }

    /// Whether `input`, of which a head may be no more than `most` bytes, has something that may make a difference. It is
    /// taken for seen from here on.
    pub fn is_worth_parsing(&mut self, input: &[u8], most: usize) -> bool {
        let (first, new) = (self.0 == 0, input.get(self.0..).unwrap_or_default());
        self.0 = input.len();
        !new.is_empty() && (first || input.len() >= most || new.contains(&b'\n'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_looked_at_when_there_is_something_to_see() {
        let mut seen = Seen::default();
        let looks: Vec<bool> = ["", "G", "G", "GE", "GET\r", "GET\r\n", "GET\r\nX"]
            .iter()
            .map(|input| seen.is_worth_parsing(input.as_bytes(), 9))
            .collect();
        assert_eq!(looks, [false, true, false, false, false, true, false]);
        assert!(seen.anything() && seen.is_worth_parsing(b"GET\r\nXYZZ", 9));
    }
}
