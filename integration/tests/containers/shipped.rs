//! The example image and the shipped functions that use it.

use std::fs;

use integration::{Function, Setup, cli, shipped};
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

#[tokio::test]
async fn template_of_a_container_builds_and_runs() {
    let Some(engine) = shared() else { return };
    let setup = engine.setup();
    let home = setup.home().clone();
    let text = cli::run_in(&home.path(""), cli::bare(&["new", "mine", "-t", "container", "-r", "registry"])).await.ok();
    let build = text.lines().find_map(|line| line.strip_prefix("    (")).unwrap().trim_end_matches(')').to_owned();
    let mut command = std::process::Command::new("sh");
    command.args(["-ec", &build]).env("DOCKER_HOST", engine.host());
    command.env_remove("CARGO_TARGET_DIR").env_remove("RUSTFLAGS").env("CARGO_NET_OFFLINE", "true");
    cli::run_in(&home.path(""), command).await.ok();
    let daemon = setup.start().await;
    let answer = daemon.cli(&["invoke", "mine", "a", "-d", "12345"]).await.ok();
    assert_eq!(answer, "Hello from mine: POST /a, 5 bytes\n");
}

#[tokio::test]
async fn check_of_the_host_knows_what_the_engine_has() {
    let Some(engine) = shared() else { return };
    let home = engine.setup().home().clone();
    home.put(&Function::verbatim(
        "a",
        &format!("[container]\nimage = \"{}\"\nruntime = \"runsc\"\n", integration::IMAGE),
    ));
    home.put(&Function::verbatim(
        "b",
        "[container]\nimage = \"no/such\"\nruntime = \"odd\"\nnetwork = \"none-such\"\n",
    ));
    let mut command = cli::bare(&["check", "--host", "-r", home.registry().to_str().unwrap()]);
    command.env("DOCKER_HOST", engine.host());
    let ran = cli::run(command).await;
    let lines = cli::golden(&ran.out);
    for start in [
        "container engine ok a, b ",
        &format!("image {} ok a ", integration::IMAGE),
        "runtime runsc ok a ",
        "image no/such missing b not in the engine",
        "runtime odd missing b the engine knows ",
        "network none-such missing b ",
    ] {
        assert!(lines.iter().any(|line| line.starts_with(start)), "no {start} in {lines:?}");
    }
    assert_eq!(ran.status, Some(1));
}
