//! The credentials file of NATS: a user's JWT, and the seed of the nkey that signs what the server asks for.
//!
//! Read here, as the client's own reader needs a regular expression engine, which is larger than the client itself.

use std::{fmt, sync::Arc};

use async_nats::{AuthError, ConnectOptions};
use nkeys::{KeyPair, KeyPairType};

/// The labels of the two blocks.
const JWT: &str = "NATS USER JWT";
const SEED: &str = "USER NKEY SEED";

/// What proves to a server who connects.
#[derive(Clone)]
pub struct Credentials {
    jwt: String,
    key: Arc<KeyPair>,
}

impl Credentials {
    /// Reads the contents of a file.
    ///
    /// # Errors
    /// What is missing or wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let jwt = block(text, JWT).ok_or_else(|| format!("there is no block {JWT}"))?;
        let seed = block(text, SEED).ok_or_else(|| format!("there is no block {SEED}"))?;
        // The error of the crate could show parts of the seed.
        let key = KeyPair::from_seed(seed).ok().filter(|key| matches!(key.key_pair_type(), KeyPairType::User));
        let key = key.ok_or_else(|| format!("the block {SEED} has no seed of a user"))?;
        Ok(Self { jwt: jwt.to_owned(), key: Arc::new(key) })
    }

    /// Adds them to the options of a connection.
    pub fn log_in(&self, options: ConnectOptions) -> ConnectOptions {
        let key = self.key.clone();
        options.jwt(self.jwt.clone(), move |nonce| {
            let signature = key.sign(&nonce).map_err(AuthError::new);
            async move { signature }
        })
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({})", self.key.public_key())
    }
}

/// Returns the first line of the block with a label.
fn block<'t>(text: &'t str, label: &str) -> Option<&'t str> {
    let begins = |line: &&str| line.strip_prefix("-----BEGIN ").and_then(|rest| rest.strip_prefix(label)).is_some();
    let mut lines = text.lines().map(str::trim).skip_while(|line| !begins(line)).skip(1);
    lines.find(|line| !line.is_empty()).filter(|line| !line.starts_with('-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(jwt: &str, seed: &str) -> String {
        format!(
            "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\nIMPORTANT\n\n\
             -----BEGIN USER NKEY SEED-----\r\n{seed}\r\n------END USER NKEY SEED------\n"
        )
    }

    #[test]
    fn file_has_a_token_and_the_key_that_signs() {
        let user = KeyPair::new_user();
        let read = Credentials::parse(&file("a.b.c", &user.seed().unwrap())).unwrap();
        assert_eq!(read.jwt, "a.b.c");
        assert!(user.verify(b"nonce", &read.key.sign(b"nonce").unwrap()).is_ok());
        assert!(!format!("{read:?}").contains(&user.seed().unwrap()));
    }

    #[test]
    fn file_without_both_says_which_one_it_lacks() {
        let (user, account) = (KeyPair::new_user().seed().unwrap(), KeyPair::new_account().seed().unwrap());
        for (text, why) in [
            (String::new(), "NATS USER JWT"),
            (file("", &user), "NATS USER JWT"),
            (file("a.b.c", ""), "USER NKEY SEED"),
            (file("a.b.c", "SUAX"), "no seed of a user"),
            (file("a.b.c", &account), "no seed of a user"),
        ] {
            let error = Credentials::parse(&text).unwrap_err();
            assert!(error.contains(why), "{why}: {error}");
        }
    }
}
