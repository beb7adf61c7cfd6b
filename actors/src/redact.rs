//! Redacts an instance's secrets in text that comes from outside: its output, and errors of its engine.
//!
//! Such text reaches the log, `/debug` and clients. A Linux guest prints its command line with the callback URL in it. An
//! engine quotes the arguments of a program that it could not start. A function may print its environment when it fails.

use std::{borrow::Cow, fmt, sync::Arc};

use crate::{id::ReadyToken, spec::Environment};

/// Shorter values are likely to be ordinary words, and too easily guessed to be secrets.
const MIN_SECRET_BYTES: usize = 6;

/// Replaces the secrets of one instance.
#[derive(Clone, Default)]
pub struct Redactor(Arc<[Secret]>);

struct Secret {
    text: String,
    replacement: String,
}

impl Redactor {
    /// Creates a redactor for that token and the values of those variables.
    pub fn new(token: ReadyToken, env: &Environment) -> Self {
        // Longer texts are printed line by line.
        let values = env.iter().flat_map(|(name, value)| value.lines().map(move |line| (name, line.trim())));
        let values = values.filter(|(_, line)| line.len() >= MIN_SECRET_BYTES);
        let values = values.map(|(name, line)| Secret { text: line.to_owned(), replacement: format!("${{{name}}}") });
        let token = Secret { text: token.reveal(), replacement: "…".to_owned() };
        let mut secrets: Vec<_> = values.chain([token]).collect();
        // A secret may contain another one: the longest is replaced first.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.text.len()));
        Self(secrets.into())
    }

    /// Returns the text with each secret replaced.
    pub fn redact<'t>(&self, text: impl Into<Cow<'t, str>>) -> Cow<'t, str> {
        let mut text = text.into();
        for secret in self.0.iter().filter(|secret| !secret.text.is_empty()) {
            if text.contains(&secret.text) {
                text = text.replace(&secret.text, &secret.replacement).into();
            }
        }
        text
    }

    /// Returns the length of the longest secret in bytes.
    pub fn longest(&self) -> usize {
        self.0.first().map_or(0, |secret| secret.text.len())
    }
}

impl fmt::Debug for Redactor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Redactor(…)")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn redactor(token: ReadyToken, env: &[(&str, &str)]) -> Redactor {
        let env: BTreeMap<_, _> = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Redactor::new(token, &env.into())
    }

    #[test]
    fn replaces_every_occurrence_of_the_token() {
        let token = ReadyToken::random();
        let text = format!("exec: \"http://10.0.0.1:8124/ready/{0}\": not found: {0}", token.reveal());
        assert_eq!(redactor(token, &[]).redact(text), "exec: \"http://10.0.0.1:8124/ready/…\": not found: …");
    }

    #[test]
    fn replaces_values_by_the_names_of_their_variables() {
        let env = [("SHORT", "hunter2"), ("LONG", "hunter2-and-more"), ("MODE", "debug")];
        let redactor = redactor(ReadyToken::random(), &env);
        assert_eq!(redactor.redact("hunter2-and-more, hunter2 debug"), "${LONG}, ${SHORT} debug");
    }

    #[test]
    fn replaces_each_line_of_a_value() {
        let key = "-----BEGIN KEY-----\r\n  c2VjcmV0IGtleQ==\nend\n";
        let redactor = redactor(ReadyToken::random(), &[("KEY", key)]);
        assert_eq!(redactor.redact("loaded c2VjcmV0IGtleQ== to the end"), "loaded ${KEY} to the end");
        assert_eq!(redactor.longest(), 32);
    }

    #[test]
    fn debug_output_shows_no_secret() {
        let redactor = redactor(ReadyToken::random(), &[("A", "hunter2")]);
        assert_eq!(format!("{redactor:?}"), "Redactor(…)");
        assert_eq!(Redactor::default().redact("as it is"), "as it is");
    }
}
