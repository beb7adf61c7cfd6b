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
