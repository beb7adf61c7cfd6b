//! The keys of `unifaas top`: what the terminal sends for them.

use std::{io::Read, thread};

use tokio::sync::mpsc;

/// A key that means something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    Up,
    Down,
    Enter,
    Escape,
    Backspace,
    /// Ctrl-C.
    Interrupt,
    Char(char),
}

/// Returns the keys of standard input, which must be in raw mode. Its thread ends with the process.
pub fn read() -> mpsc::UnboundedReceiver<Key> {
    let (sender, keys) = mpsc::unbounded_channel();
    thread::spawn(move || {
        let (mut input, mut bytes) = (std::io::stdin().lock(), [0; 64]);
        while let Ok(count @ 1..) = input.read(&mut bytes) {
            if parse(&bytes[..count]).into_iter().try_for_each(|key| sender.send(key)).is_err() {
                return;
            }
        }
    });
    keys
}

/// Returns the keys of what was read at once. An escape sequence that is not known is no key.
fn parse(bytes: &[u8]) -> Vec<Key> {
    let mut keys = Vec::new();
    let text = String::from_utf8_lossy(bytes);
    let mut rest = text.as_ref();
    while let Some(first) = rest.chars().next() {
        let (key, length) = match rest {
            _ if rest.starts_with("\x1b[A") || rest.starts_with("\x1bOA") => (Some(Key::Up), 3),
            _ if rest.starts_with("\x1b[B") || rest.starts_with("\x1bOB") => (Some(Key::Down), 3),
            _ if rest.starts_with("\x1b[") || rest.starts_with("\x1bO") => (None, rest.len()),
            _ => (Key::of(first), first.len_utf8()),
        };
        keys.extend(key);
        rest = &rest[length..];
    }
    keys
}

impl Key {
    fn of(char: char) -> Option<Self> {
        match char {
            '\x1b' => Some(Self::Escape),
            '\r' | '\n' => Some(Self::Enter),
            '\x7f' | '\x08' => Some(Self::Backspace),
            '\x03' => Some(Self::Interrupt),
            char if !char.is_control() => Some(Self::Char(char)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_parsed() {
        assert_eq!(parse(b"\x1b[A\x1bOBq"), [Key::Up, Key::Down, Key::Char('q')]);
        assert_eq!(parse(b"a\x7f\r\x1b"), [Key::Char('a'), Key::Backspace, Key::Enter, Key::Escape]);
        assert_eq!(parse(b"\x1b[5~"), []);
        assert_eq!(parse("ö\x03".as_bytes()), [Key::Char('ö'), Key::Interrupt]);
    }
}
