//! Keep-alive policies: for how long instances stay without requests.

use serde::{Deserialize, Serialize};

/// A policy, such as `keepalive=60` or `keepalive=5+keep-paused=600`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    /// As it was given.
    pub name: String,
    /// Idle seconds after which an instance ends, or is paused.
    pub keepalive: f64,
    /// Seconds for which it is then kept paused.
    pub keep_paused: f64,
    /// Instances of each function that stay without any request.
    pub min_instances: u32,
    /// Memory of all instances together, in MiB.
    pub budget: Option<u64>,
}

/// Idle seconds of a policy that does not name them, as in the paper of Shahrad et al. for the fixed policy.
const KEEPALIVE: f64 = 600.0;

/// Reads a policy.
///
/// # Errors
/// When it is none, with the reason.
pub fn policy(text: &str) -> Result<Policy, String> {
    let mut policy =
        Policy { name: text.to_owned(), keepalive: KEEPALIVE, keep_paused: 0.0, min_instances: 0, budget: None };
    for part in text.split('+') {
        let wrong = || format!("\"{part}\": expected keepalive=, keep-paused=, min-instances= or budget= and a number");
        let (key, value) = part.split_once('=').ok_or_else(wrong)?;
        let seconds = || value.parse().ok().filter(|value: &f64| (0.0..1e9).contains(value)).ok_or_else(wrong);
        match key {
            "keepalive" => policy.keepalive = seconds()?,
            "keep-paused" => policy.keep_paused = seconds()?,
            "min-instances" => policy.min_instances = value.parse().map_err(|_| wrong())?,
            "budget" => policy.budget = Some(value.parse().map_err(|_| wrong())?),
            _ => return Err(wrong()),
        }
    }
    Ok(policy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_keys_and_numbers() {
        let found = policy("keepalive=5+keep-paused=60").unwrap();
        assert_eq!((found.keepalive, found.keep_paused, found.min_instances, found.budget), (5.0, 60.0, 0, None));
        let found = policy("budget=2048+min-instances=1").unwrap();
        assert_eq!((found.keepalive, found.min_instances, found.budget), (600.0, 1, Some(2048)));
        for wrong in ["", "keepalive", "keepalive=x", "keepalive=-1", "budget=1.5", "other=1", "keepalive=1+"] {
            assert!(policy(wrong).is_err(), "{wrong}");
        }
    }
}
