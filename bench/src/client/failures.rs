//! Requests of a loop that have failed, by status and reason.

use std::collections::BTreeMap;

use super::{ClientError, Response};

/// Reasons with a count of their own. All others count together.
const MAX_REASONS: usize = 50;
const OTHERS: &str = "other reasons";
/// What is kept of a reason.
const MAX_CHARS: usize = 300;

/// Failed requests. A status of 0: there was no response.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Failures(BTreeMap<(u16, String), u64>);

impl Failures {
    /// Counts a request, unless it was answered with 200.
    pub fn note(&mut self, answered: &Result<Response, ClientError>) {
        let key = match answered {
            Ok(response) if response.status == 200 => return,
            Ok(response) => (response.status, reason(&response.body)),
            Err(error) => (0, error.to_string()),
        };
        self.add(key, 1);
    }

    /// Takes over those of another part of the loop.
    pub fn extend(&mut self, other: Self) {
        other.0.into_iter().for_each(|(key, count)| self.add(key, count));
    }

    fn add(&mut self, (status, reason): (u16, String), count: u64) {
        let is_kept = self.0.len() < MAX_REASONS || self.0.contains_key(&(status, reason.clone()));
        let reason = if is_kept { reason } else { OTHERS.to_owned() };
        *self.0.entry((status, reason)).or_default() += count;
    }

    /// Returns the number of all.
    pub fn count(&self) -> u64 {
        self.0.values().sum()
    }

    /// Returns each status and reason with its number.
    pub fn iter(&self) -> impl Iterator<Item = (u16, &str, u64)> {
        self.0.iter().map(|((status, reason), count)| (*status, reason.as_str(), *count))
    }
}

/// Returns the first line of what an error says: of a problem document its code and detail.
pub fn reason(body: &[u8]) -> String {
    let document = serde_json::from_slice::<serde_json::Value>(body).ok();
    let said = document.as_ref().and_then(|document| {
        let text = |key: &str| document.get(key).and_then(serde_json::Value::as_str);
        Some(format!("{}: {}", text("code")?, text("detail").unwrap_or_default()))
    });
    let text = said.unwrap_or_else(|| String::from_utf8_lossy(body).into_owned());
    text.lines().next().unwrap_or_default().chars().take(MAX_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status: u16, body: &str) -> Result<Response, ClientError> {
        let body = body.as_bytes().to_vec();
        Ok(Response { status, times: Default::default(), timing: None, function_us: None, length: 0, body })
    }

    #[test]
    fn reasons_are_those_of_problem_documents() {
        assert_eq!(reason(br#"{"code":"boot_failed","detail":"it exited\nmore"}"#), "boot_failed: it exited");
        assert_eq!(reason(b"plain\nmore"), "plain");
        assert_eq!(reason(b""), "");
    }

    #[test]
    fn failures_count_by_status_and_reason() {
        let mut failures = Failures::default();
        let late = Err(ClientError::Timeout(std::time::Duration::from_secs(3)));
        for one in [&answered(200, "fine"), &answered(502, "a"), &late, &answered(502, "b"), &answered(502, "a")] {
            failures.note(one);
        }
        failures.extend(failures.clone());
        let found: Vec<_> = failures.iter().collect();
        assert_eq!(found, [(0, "no response within 3 s", 2), (502, "a", 4), (502, "b", 2)]);
        (0..1000).for_each(|number| failures.note(&answered(500, &number.to_string())));
        assert_eq!(failures.count(), 1008, "none is lost");
        assert!(failures.iter().count() <= MAX_REASONS + 1, "{failures:?}");
    }
}
