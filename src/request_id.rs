//! What a request is called, in headers, errors and the log.

/// Longest id that is taken over from a client.
const MAX_LENGTH: usize = 128;
/// Digits of a generated id.
const DIGITS: usize = 16;

/// The client's id for the request if it is a reasonable one, else a new one.
#[derive(Debug, Clone)]
pub enum RequestId {
    Made([u8; DIGITS]),
    Taken(Box<[u8]>),
}

impl RequestId {
    /// For a request that came with that id, or with none.
    pub fn of(sent: Option<&[u8]>) -> Self {
        match sent {
            Some(id) if (1..=MAX_LENGTH).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic) => {
                Self::Taken(id.into())
            }
            _ => {
                let random: u64 = rand::random();
                Self::Made(std::array::from_fn(|at| b"0123456789abcdef"[(random >> (60 - 4 * at)) as usize & 0xf]))
            }
        }
    }

    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Made(id) => id,
            Self::Taken(id) => id,
        }
    }

    pub fn as_str(&self) -> &str {
        // It is ASCII.
        str::from_utf8(self.as_bytes()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_taken_over_if_it_is_reasonable() {
        assert_eq!(RequestId::of(Some(b"abc-1")).as_str(), "abc-1");
        assert_eq!(RequestId::of(Some(&[b'x'; 128])).as_str(), "x".repeat(128));
        for unreasonable in [None, Some(&b""[..]), Some(b"two words"), Some(b"\xff"), Some(&[b'x'; 129])] {
            let made = RequestId::of(unreasonable);
            assert!(made.as_str().len() == 16 && made.as_str().bytes().all(|digit| digit.is_ascii_hexdigit()));
            assert_ne!(made.as_str(), RequestId::of(unreasonable).as_str());
        }
    }
}
