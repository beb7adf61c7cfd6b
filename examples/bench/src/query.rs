//! Values of a query.

use crate::Problem;

/// The part of a target behind its question mark.
pub struct Query<'a>(pub &'a str);

impl Query<'_> {
    /// Returns the number of a key, at most `most`.
    pub fn number(&self, key: &str, default: Option<u64>, most: u64) -> Result<u64, Problem> {
        let given = self.0.split('&').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
        let number = match given {
            Some(text) => text.parse().ok(),
            None => default,
        };
        let expected = || Problem::Usage(format!("expected {key}=N in the query, N from 0 to {most}"));
        number.filter(|number| *number <= most).ok_or_else(expected)
    }
}
