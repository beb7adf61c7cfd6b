//! Hours of 300 functions under four policies, in virtual time: how long requests wait, and what is held for it.
//!
//! `traffic.rs` draws the requests, `host.rs` has the instances and their memory. Times and sizes are about
//! those of a machine with two processors. docs/performance.md has the figures. The same requests meet each policy:
//!
//! - instances end after their keepalive, and the longest idle ones are evicted;
//! - they are paused after their keepalive, are charged what they hold, and the longest idle ones are evicted;
//! - the same, and the steps that cost the least per byte are taken;
//! - the same, and functions get a paused instance ahead of requests that are expected.

mod host;
mod templates;
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
        let all = [Policy::EndIdle, Policy::LongestIdle, Policy::CostPerByte, Policy::Prewarm];
        let [end, pause, cost, prewarm] = all.map(|policy| figures(&traffic, gib, policy));
        for it in [&end, &pause, &cost, &prewarm] {
            assert_eq!(it.served, traffic.requests.len(), "a wake was lost");
        }
        assert!(pause.mean_wait_ms() < end.mean_wait_ms() * 0.75 && pause.cold_share() < end.cold_share() * 0.75);
        assert!(prewarm.mean_wait_ms() < cost.mean_wait_ms() * 1.02);
        assert!(cost.mean_wait_ms() < pause.mean_wait_ms() * if gib == 6 { 0.6 } else { 0.95 });
    }
}

#[test]
fn requests_at_regular_times_find_an_instance_that_was_started_ahead_of_them() {
    let traffic = Traffic::of_timers(0, 60, (900.0, 3_600.0), Duration::from_secs(24 * 3600));
    println!("{} requests", traffic.requests.len());
    let [cost, prewarm] = [Policy::CostPerByte, Policy::Prewarm].map(|policy| figures(&traffic, 12, policy));
    assert_eq!(prewarm.served, traffic.requests.len());
    assert!(cost.cold_share() > 0.95 && prewarm.cold_share() < 0.4, "the first eleven of each are cold");
}
