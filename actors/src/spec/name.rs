//! Valid names of functions. A name becomes part of URLs, container names and cgroups.

/// The longest name, in bytes.
const MAX_BYTES: usize = 63;

/// Why a name is not valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The name is empty.
    #[error("a function's name must not be empty")]
    Empty,
    /// The name is too long.
    #[error("a function's name has at most {MAX_BYTES} bytes, this one has {0}")]
    TooLong(usize),
    /// The first character is not allowed there.
    #[error("a function's name starts with an ASCII letter or digit, not with {0:?}")]
    Start(char),
    /// A character is not allowed.
    #[error("a function's name consists of ASCII letters, digits, '-', '_' and '.': {0:?} is none of them")]
    Character(char),
}

/// Checks a function's name: 1 to 63 ASCII letters, digits, `-`, `_` and `.`, a letter or digit first.
///
/// # Errors
/// The first rule that `name` breaks.
pub fn check_name(name: &str) -> Result<(), NameError> {
    let first = name.chars().next().ok_or(NameError::Empty)?;
    if name.len() > MAX_BYTES {
        return Err(NameError::TooLong(name.len()));
    }
    if !first.is_ascii_alphanumeric() {
        return Err(NameError::Start(first));
    }
    match name.chars().find(|&c| !(c.is_ascii_alphanumeric() || "-_.".contains(c))) {
        Some(other) => Err(NameError::Character(other)),
        None => Ok(()),
    }
}
