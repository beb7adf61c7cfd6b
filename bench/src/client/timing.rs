//! `server-timing` of the daemon.

use std::collections::BTreeMap;

/// Where the daemon says that the time of a request went, in milliseconds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ServerTiming {
    /// Waiting, without the boot.
    pub queue: f64,
    /// From the order to start an instance to its readiness; 0: the instance was there.
    pub boot: f64,
    /// What the boot was: `cold`, `restored`, `resumed`.
    pub origin: Option<String>,
    /// From having an instance to the head of its response.
    pub upstream: f64,
    /// Phases of the boot, by name.
    pub phases: BTreeMap<String, f64>,
}

impl ServerTiming {
    /// Reads the header. Unknown entries are skipped.
    pub fn parse(text: &str) -> Self {
        let mut timing = Self::default();
        for entry in text.split(',') {
            let mut parts = entry.trim().split(';').map(str::trim);
            let name = parts.next().unwrap_or_default();
            let duration = parts.clone().find_map(|part| part.strip_prefix("dur=")?.parse().ok());
            let Some(duration) = duration else { continue };
            match name {
                "queue" => timing.queue = duration,
                "boot" => {
                    let described = parts.find_map(|part| part.strip_prefix("desc="));
                    timing.origin = described.map(|text| text.trim_matches('"').to_owned());
                    timing.boot = duration;
                }
                "upstream" => timing.upstream = duration,
                _ => {
                    if let Some(phase) = name.strip_prefix("boot-") {
                        timing.phases.insert(phase.to_owned(), duration);
                    }
                }
            }
        }
        timing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_and_phases_are_read() {
        let timing = ServerTiming::parse(
            "queue;dur=1.500;desc=\"host\", boot;dur=31.000;desc=\"cold\", upstream;dur=4.000, boot-resources;dur=1.000, boot-ready;dur=30.000",
        );
        assert_eq!((timing.queue, timing.boot, timing.upstream), (1.5, 31.0, 4.0));
        assert_eq!((timing.origin.as_deref(), timing.phases.len()), (Some("cold"), 2));
        assert_eq!((timing.phases["resources"], timing.phases["ready"]), (1.0, 30.0));
        assert_eq!(ServerTiming::parse("nonsense, queue;dur=x"), ServerTiming::default());
    }
}
