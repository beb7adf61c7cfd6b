//! Container functions against a real engine with runc and gVisor. One binary, so that the tests share one engine.
//! Without an engine the tests are skipped with a message; under `CI=true` that is a failure.

mod abuse;
mod bench;
mod boot;
mod disturbed;
mod engine;
mod image;
mod isolation;
mod lifecycle;
mod limits;
mod pause;
mod pause_ends;
mod pull;
mod reach;
mod shipped;
mod shutdown;
mod upgrade;

use integration::{Daemon, Engine};
use tokio::process::Command;

/// The `boot-timeout` of a container that does not get ready, in seconds: longer than an engine takes to start one on a busy
/// machine.
const BOOT_TIMEOUT: u32 = 12;
const TESTFN: &str = env!("CARGO_BIN_EXE_testfn");

/// Returns the engine that the tests share.
fn shared() -> Option<&'static Engine> {
    Engine::shared(TESTFN)
}

/// Returns the first characters of the id of the answering container.
async fn container(daemon: &Daemon, function: &str) -> String {
    daemon.get(&format!("/invoke/{function}/env?name=HOSTNAME")).await.ok().text()
}

/// Runs `docker ARGUMENTS CONTAINER`.
async fn docker(engine: &Engine, arguments: &[&str], container: &str) {
    let mut command = Command::new("docker");
    let output = command.args(["--host", &engine.host()]).args(arguments).arg(container).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
