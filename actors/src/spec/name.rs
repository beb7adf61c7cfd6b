//! What a function may be called. The name becomes part of URLs, container names and cgroups.

/// Longest name in bytes.
const LONGEST: usize = 63;

/// Why a name cannot be a function's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing there.
    #[error("a function's name must not be empty")]
    Empty,
    /// More bytes than a name may have.
    #[error("a function's name has at most {LONGEST} bytes, this one has {0}")]
    TooLong(usize),
    /// The first character is allowed only further on, or not at all.
    #[error("a function's name starts with an ASCII letter or digit, not with {0:?}")]
    Start(char),
    /// A character that is not allowed anywhere.
    #[error("a function's name consists of ASCII letters, digits, '-', '_' and '.': {0:?} is none of them")]
    Character(char),
}

/// Whether `name` can be a function's: 1 to 63 ASCII letters, digits, `-`, `_` and `.`, a letter or digit first.
///
/// # Errors
/// The first rule that `name` breaks.
pub fn check_name(name: &str) -> Result<(), NameError> {
    let first = name.chars().next().ok_or(NameError::Empty)?;
    if name.len() > LONGEST {
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
