//! Signatures of deliveries, as Standard Webhooks say: HMAC-SHA256 over id, time and body.

use std::{fs, io, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::hmac;

/// What a secret of Standard Webhooks begins with. Base64 follows.
const SECRET_PREFIX: &str = "whsec_";

/// Signs deliveries.
#[derive(Debug, Clone)]
pub struct DeliveryKey(hmac::Key);

impl DeliveryKey {
    /// Reads a secret: `whsec_` and base64, or any bytes.
    ///
    /// # Errors
    /// When it cannot be read, or is empty.
    pub fn read(file: &Path) -> io::Result<Self> {
        let invalid = || io::Error::new(io::ErrorKind::InvalidData, "expected `whsec_` and base64, or any other bytes");
        Self::of(&fs::read(file)?).ok_or_else(invalid)
    }

    fn of(content: &[u8]) -> Option<Self> {
        let secret = content.trim_ascii();
        let secret = match secret.strip_prefix(SECRET_PREFIX.as_bytes()) {
            Some(encoded) => STANDARD.decode(encoded).ok()?,
            None => secret.to_vec(),
        };
        (!secret.is_empty()).then(|| Self(hmac::Key::new(hmac::HMAC_SHA256, &secret)))
    }

    /// Returns the value of `webhook-signature`. `timestamp`: seconds since 1970.
    pub fn sign(&self, id: &str, timestamp: u64, body: &[u8]) -> String {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(format!("{id}.{timestamp}.").as_bytes());
        context.update(body);
        format!("v1,{}", STANDARD.encode(context.sign()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_that_of_the_specification() {
        // The example of the specification's reference implementations.
        let key = DeliveryKey::of(b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n").unwrap();
        let signature = key.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        assert!(DeliveryKey::of(b"").is_none() && DeliveryKey::of(b"whsec_?").is_none());
    }
}
