//! Covers what must not be shown in words of others: what an instance prints, what an engine says about its failure.
//!
//! Such words end up in the log, at `/debug` and in answers to clients. A Linux guest prints its command line, with the
//! callback URL in it; an engine quotes the arguments of a program that it could not start; a function may print its
//! environment when it fails.

use std::{borrow::Cow, fmt, sync::Arc};

use crate::{
    id::ReadyToken,
    sandbox::{LaunchError, SandboxExit},
    spec::Environment,
};

/// Shorter values are too likely to be ordinary words, and too easily guessed to be secrets.
const SHORTEST: usize = 6;

/// The secrets of one instance.
#[derive(Clone, Default)]
pub struct Redactor(Arc<[Secret]>);

struct Secret {
    text: String,
    cover: String,
}

impl Redactor {
    /// Covers that token, and the values of those variables.
    pub fn new(token: ReadyToken, env: &Environment) -> Self {
        // The lines of a longer text are printed one by one.
        let values = env.iter().flat_map(|(name, value)| value.lines().map(move |line| (name, line.trim())));
        let values = values.filter(|(_, line)| line.len() >= SHORTEST);
        let values = values.map(|(name, line)| Secret { text: line.to_owned(), cover: format!("${{{name}}}") });
        let mut secrets: Vec<_> = values.chain([Secret { text: token.reveal(), cover: "…".to_owned() }]).collect();
        // One may be a part of another.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.text.len()));
        Self(secrets.into())
    }

    /// The text without any of the secrets.
    pub fn redact<'t>(&self, text: impl Into<Cow<'t, str>>) -> Cow<'t, str> {
        let mut text = text.into();
        for secret in self.0.iter().filter(|secret| !secret.text.is_empty()) {
            if text.contains(&secret.text) {
                text = text.replace(&secret.text, &secret.cover).into();
            }
        }
        text
    }

    /// Why an instance could not be started.
    pub fn redact_error(&self, error: LaunchError) -> LaunchError {
        let over = |words: String| self.redact(words).into_owned();
        match error {
            LaunchError::Missing(words) => LaunchError::Missing(over(words)),
            LaunchError::Exhausted(words) => LaunchError::Exhausted(over(words)),
            LaunchError::Refused(words) => LaunchError::Refused(over(words)),
        }
    }

    /// How an instance ended.
    pub fn redact_exit(&self, exit: SandboxExit) -> SandboxExit {
        match exit {
            SandboxExit::Other(words) => SandboxExit::Other(self.redact(words).into_owned()),
            other => other,
        }
    }

    /// The length of the longest secret, in bytes.
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
    fn a_token_is_covered_wherever_it_stands() {
        let token = ReadyToken::random();
        let said = format!("exec: \"http://10.0.0.1:3000/ready/{0}\": not found: {0}", token.reveal());
        let covered = redactor(token, &[]).redact_error(LaunchError::Refused(said));
        assert_eq!(covered.to_string(), "exec: \"http://10.0.0.1:3000/ready/…\": not found: …");
    }

    #[test]
    fn a_value_is_replaced_by_the_name_of_its_variable() {
        let redactor =
            redactor(ReadyToken::random(), &[("SHORT", "hunter2"), ("LONG", "hunter2-and-more"), ("MODE", "debug")]);
        assert_eq!(redactor.redact("hunter2-and-more, hunter2 debug"), "${LONG}, ${SHORT} debug");
        let exit = redactor.redact_exit(SandboxExit::Other("killed: hunter2".to_owned()));
        assert_eq!(exit, SandboxExit::Other("killed: ${SHORT}".to_owned()));
        assert_eq!(redactor.redact_exit(SandboxExit::Code(7)), SandboxExit::Code(7));
    }

    #[test]
    fn a_text_of_several_lines_is_covered_line_by_line() {
        let key = "-----BEGIN KEY-----\r\n  c2VjcmV0IGtleQ==\nend\n";
        let redactor = redactor(ReadyToken::random(), &[("KEY", key)]);
        assert_eq!(redactor.redact("loaded c2VjcmV0IGtleQ== to the end"), "loaded ${KEY} to the end");
        assert_eq!(redactor.longest(), 32);
    }

    #[test]
    fn nothing_is_shown_of_the_veil_itself() {
        let redactor = redactor(ReadyToken::random(), &[("A", "hunter2")]);
        assert_eq!(format!("{redactor:?}"), "Redactor(…)");
        assert_eq!(Redactor::default().redact("as it is"), "as it is");
    }
}
