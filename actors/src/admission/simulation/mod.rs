//! Hours of 300 functions under three policies, in virtual time: how long requests wait, and what is held for it.
//!
//! `traffic.rs` draws the requests, `host.rs` has the instances and their memory. Times and sizes are about
//! those of a machine with two processors. docs/performance.md has the figures. The same requests meet each policy:
//!
//! - instances end after their keepalive, and the longest idle ones are evicted;
//! - they are paused after their keepalive, are charged what they hold, and the longest idle ones are evicted;
//! - the same, and the steps that cost the least per byte are taken.

mod host;
mod traffic;

use std::time::Duration;

use self::{
    host::{Figures, Host, Policy},
    traffic::Traffic,
};

const FUNCTIONS: usize = 300;
/// Hours that are simulated, unless `UNIFAAS_SIMULATED_HOURS` sets another number.
const HOURS: u64 = 1;

fn figures(traffic: &Traffic, gib: u64, policy: Policy) -> Figures {
    let figures = Host::new(traffic, gib << 10, policy).run();
    println!("{gib} GiB, {policy:?}: {figures}");
    figures
}

#[test]
fn paused_instances_and_cost_per_byte_shorten_waits() {
    let hours = std::env::var("UNIFAAS_SIMULATED_HOURS").ok().and_then(|hours| hours.parse().ok()).unwrap_or(HOURS);
    let traffic = Traffic::draw(0, FUNCTIONS, Duration::from_secs(hours * 3600));
    println!("{hours} h, {} requests", traffic.requests.len());
    for gib in [12, 6] {
        let all = [Policy::EndIdle, Policy::LongestIdle, Policy::CostPerByte];
        let [end, pause, cost] = all.map(|policy| figures(&traffic, gib, policy));
        for it in [&end, &pause, &cost] {
            assert_eq!(it.served, traffic.requests.len(), "a wake was lost");
        }
        assert!(pause.mean_wait_ms() < end.mean_wait_ms() * 0.75 && pause.cold_share() < end.cold_share() * 0.75);
        assert!(cost.mean_wait_ms() < pause.mean_wait_ms() * if gib == 6 { 0.6 } else { 0.95 });
    }
}
