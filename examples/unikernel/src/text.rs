//! Text of bounded length, without an allocator.

use core::fmt;

/// At most `N` bytes of text; `write!` fails if there is no room.
pub struct Text<const N: usize> {
    bytes: [u8; N],
    length: usize,
}

impl<const N: usize> Text<N> {
    /// Creates an empty text.
    pub const fn new() -> Self {
        Self { bytes: [0; N], length: 0 }
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        // Only whole strings are ever appended.
        core::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }

    /// Returns the text as bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl<const N: usize> Default for Text<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> fmt::Write for Text<N> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.bytes.get_mut(self.length..self.length + text.len()).ok_or(fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.length += text.len();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fmt::Write;

    #[test]
    fn write_fails_without_room() {
        let mut text = Text::<6>::new();
        assert!(write!(text, "{}-ab", 12).is_ok());
        assert!(write!(text, "cd").is_err());
        assert_eq!(text.as_bytes(), b"12-ab");
    }
}
