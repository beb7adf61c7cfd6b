//! Functions as containers, against a real engine with runc and gVisor. One binary, so that the tests share one engine.
//! Where none can be had they say so and do nothing; under `CI=true` that is a failure.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod abuse;
mod boot;
mod disturbed;
mod ending;
mod engine;
mod life;
mod limits;
mod pull;
mod shipped;
mod walls;

use integration::{Daemon, Engine};

const TESTFN: &str = env!("CARGO_BIN_EXE_testfn");

/// The engine of all tests that do it no harm.
fn shared() -> Option<&'static Engine> {
    Engine::shared(TESTFN)
}

/// The first characters of the id of the container that answers.
async fn container(daemon: &Daemon, function: &str) -> String {
    daemon.get(&format!("/invoke/{function}/env?name=HOSTNAME")).await.ok().text()
}
