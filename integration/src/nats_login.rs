//! Logins at a NATS server: passwords, and the JWTs that an operator signs.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use nkeys::KeyPair;
use serde_json::{Value, json};

/// Proves to a server who connects.
#[derive(Debug)]
pub enum NatsLogin {
    /// The server asks for nothing.
    None,
    /// User and password.
    Password(&'static str, &'static str),
    /// A token and the key that it is for.
    User(Box<NatsUser>),
}

/// A user of an account, with a token that the account has signed.
#[derive(Debug)]
pub struct NatsUser {
    jwt: String,
    key: KeyPair,
}

/// An operator with one account, as a server has them that keeps no users of its own.
#[derive(Debug)]
pub struct NatsOperator {
    operator: KeyPair,
    account: KeyPair,
}

impl NatsLogin {
    /// Returns the options of a `CONNECT` that answer what the server has said in its `INFO`.
    ///
    /// # Panics
    /// When that has no nonce to sign.
    pub fn options(&self, info: &str) -> Value {
        let mut options = json!({ "verbose": false, "headers": true });
        match self {
            Self::None => {}
            Self::Password(user, password) => (options["user"], options["pass"]) = ((*user).into(), (*password).into()),
            Self::User(user) => {
                let NatsUser { jwt, key } = &**user;
                let info: Value = serde_json::from_str(info.trim_start_matches("INFO ")).expect("an object");
                let signature = key.sign(info["nonce"].as_str().expect("a nonce").as_bytes()).expect("a signature");
                options["jwt"] = jwt.as_str().into();
                options["sig"] = BASE64_URL_SAFE_NO_PAD.encode(signature).into();
            }
        }
        options
    }
}

impl NatsUser {
    /// Returns the file for `--nats-creds`.
    ///
    /// # Panics
    /// When the key has no seed.
    pub fn file(&self) -> String {
        let seed = self.key.seed().expect("a seed");
        format!(
            "-----BEGIN NATS USER JWT-----\n{}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n",
            self.jwt
        )
    }
}

impl Default for NatsOperator {
    fn default() -> Self {
        Self { operator: KeyPair::new_operator(), account: KeyPair::new_account() }
    }
}

impl NatsOperator {
    /// Returns the settings of a server that trusts the operator.
    pub fn settings(&self) -> String {
        let operator = signed(&self.operator, &self.operator, &json!({ "type": "operator", "version": 2 }));
        let limits = json!({
            "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1,
        });
        let about = json!({ "type": "account", "version": 2, "limits": limits });
        let account = signed(&self.operator, &self.account, &about);
        format!(
            "operator: {operator}\nresolver: MEMORY\nresolver_preload: {{ {}: {account} }}\n",
            self.account.public_key()
        )
    }

    /// Makes a user of the account.
    pub fn user(&self) -> NatsUser {
        let key = KeyPair::new_user();
        let about =
            json!({ "type": "user", "version": 2, "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1 });
        NatsUser { jwt: signed(&self.account, &key, &about), key }
    }
}

/// Returns a token about a key, as its issuer signs it.
fn signed(issuer: &KeyPair, subject: &KeyPair, about: &Value) -> String {
    let (header, subject) = (json!({ "typ": "JWT", "alg": "ed25519-nkey" }), subject.public_key());
    let claims = json!({
        "jti": subject, "iat": 1_700_000_000, "iss": issuer.public_key(), "name": "test", "sub": subject, "nats": about,
    });
    let text = [header, claims].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
    let signature = issuer.sign(text.as_bytes()).expect("a signature");
    format!("{text}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
}
