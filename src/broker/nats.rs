//! What all connections to NATS servers have in common.

use std::time::Duration;

use async_nats::ConnectOptions;

use super::{BrokerSettings, NatsUrl};

/// The oldest server whose behaviour the documentation describes.
const LEAST_VERSION: (u32, u32) = (2, 11);
/// Between two attempts to make a connection again.
const RETRY: Duration = Duration::from_secs(1);

/// Returns the options of each connection to a NATS server: how to log in, how to verify it, when to connect again.
pub fn nats_options(url: &NatsUrl, settings: &BrokerSettings) -> ConnectOptions {
    let mut options = ConnectOptions::new().reconnect_delay_callback(|attempts| match attempts {
        0 | 1 => Duration::ZERO,
        _ => RETRY,
    });
    if let Some((user, password)) = &url.0.login {
        options = options.user_and_password(user.clone(), password.clone());
    }
    if let Some(credentials) = &settings.nats_creds {
        options = credentials.log_in(options);
    }
    if let Some(file) = &settings.nats_ca {
        options = options.add_root_certificates(file.clone());
    }
    options
}

/// Returns why a server of this version cannot be used, if it is too old.
pub fn too_old(version: &str) -> Option<String> {
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().ok());
    let known = numbers.next().flatten().zip(numbers.next().flatten());
    let (major, minor) = LEAST_VERSION;
    // A version that is not known is that of a server built from its sources.
    known
        .filter(|known| *known < LEAST_VERSION)
        .map(|_| format!("the NATS server is version {version}, and {major}.{minor} is the least that can be used"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_before_the_least_version_are_refused() {
        for version in ["2.9.10", "2.10.29", "1.4.1", "2.10.0-RC.1"] {
            assert!(too_old(version).unwrap().contains(version), "{version}");
        }
        for version in ["2.11.0", "2.12.0-beta.1", "2.15.1", "3.0.0", "main", ""] {
            assert_eq!(too_old(version), None, "{version}");
        }
    }
}
