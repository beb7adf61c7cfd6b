//! The example image and the shipped functions that use it.

use std::fs;

use integration::{Function, Setup, shipped};
use tokio::process::Command;

use crate::shared;

#[tokio::test]
async fn shipped_image_serves_under_runc_and_gvisor() {
    let Some(engine) = shared() else { return };
    let build = shipped("examples/hello-container/build.sh");
    let output = Command::new(build).env("DOCKER_HOST", engine.host()).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let daemon = with_both(engine.setup()).start().await;
    for function in ["hello-container", "hello-gvisor"] {
        let reply = daemon.get(&format!("/invoke/{function}/some/path")).await.ok();
        let instance = daemon.instances(function).await[0]["id"].clone();
        assert_eq!(reply.text(), format!("Hello from {}, pid 1\nGET /some/path\n", instance.as_str().unwrap()));
    }
}

#[tokio::test]
async fn missing_engine_is_reported() {
    let setup = Setup::default().variable("DOCKER_HOST", "unix:///no/such/docker.sock");
    let daemon = with_both(setup).start().await;
    for function in ["hello-container", "hello-gvisor"] {
        let problem = daemon.get(&format!("/invoke/{function}/")).await.problem(502, "start_failed").to_string();
        assert!(problem.contains("unix:///no/such/docker.sock cannot be reached"), "{problem}");
    }
}

/// Returns settings with a writable copy of the shipped functions.
fn with_both(setup: Setup) -> Setup {
    ["hello-container", "hello-gvisor"].into_iter().fold(setup, |setup, name| {
        let text = fs::read_to_string(shipped(&format!("registry/{name}/function.toml"))).unwrap();
        setup.function(Function::verbatim(name, &text))
    })
}
