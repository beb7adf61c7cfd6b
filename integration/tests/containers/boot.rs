//! From the start to a ready container, with all failures on the way.

use std::time::Duration;

use bollard::models::{Ipam, IpamConfig, NetworkCreateRequest};
use integration::{AT_ONCE, Engine, Function, IMAGE, SOON, contained};

use crate::{BOOT_TIMEOUT, container, shared};

/// Invokes a function that cannot start, and returns the error.
async fn start_error(engine: &Engine, function: Function) -> String {
    let name = function.name().to_owned();
    let daemon = engine.daemon(function).await;
    let problem = daemon.get(&format!("/invoke/{name}/")).await.problem(502, "start_failed");
    assert_eq!(daemon.function(&name).await["instances"], serde_json::json!([]));
    engine.none_left(&name).await;
    problem["detail"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn exit_while_booting_is_502_with_last_output() {
    let Some(engine) = shared() else { return };
    let flags = ["--exit-at-boot", "42", "--say", "cannot find the configuration", "--boot-delay", "300"];
    let daemon = engine.daemon(contained("breaks", &flags, "", "")).await;
    let problem = daemon.get("/invoke/breaks/").await.problem(502, "boot_failed").to_string();
    assert!(problem.contains("exited with status 42"), "{problem}");
    assert!(problem.contains("cannot find the configuration") && problem.contains("exiting at"), "{problem}");
    engine.none_left("breaks").await;
}

#[tokio::test]
async fn immediate_exit_is_502_with_last_output() {
    let Some(engine) = shared() else { return };
    let daemon = engine.daemon(contained("gives-up", &["--exit-at-boot", "7", "--say", "no"], "", "")).await;
    for _ in 0..3 {
        let problem = daemon.get("/invoke/gives-up/").await.problem(502, "boot_failed").to_string();
        assert!(problem.contains("exited with status 7") && problem.contains("exiting at"), "{problem}");
    }
}

#[tokio::test]
async fn missing_callback_is_504_and_removes_container() {
    let Some(engine) = shared() else { return };
    let timeout = format!("boot-timeout = {BOOT_TIMEOUT}");
    let function = contained("waits", &["--callbacks", "0", "--say", "waiting for Godot"], &timeout, "");
    let daemon = engine.daemon(function).await;
    let reply = daemon.get("/invoke/waits/").await;
    let problem = reply.problem(504, "boot_timed_out").to_string();
    assert!(problem.contains("waiting for Godot"), "{problem}");
    assert!(reply.took < SOON, "{:?}", reply.took);
    engine.none_left("waits").await;
}

#[tokio::test]
async fn image_without_callback_uses_readiness() {
    let Some(engine) = shared() else { return };
    let flags = ["--callbacks", "0", "--boot-delay", "200"];
    let daemon = engine
        .setup()
        .function(contained("by-port", &flags, "readiness = \"tcp\"\nport = 9000", ""))
        .function(contained("by-path", &flags, "readiness = { http = \"/status/200\" }", ""))
        .start()
        .await;
    assert_eq!(daemon.get("/invoke/by-port/env?name=PORT").await.ok().text(), "9000");
    assert_eq!(daemon.get("/invoke/by-path/env?name=PORT").await.ok().text(), "8080");
}

#[tokio::test]
async fn container_has_documented_environment() {
    let Some(engine) = shared() else { return };
    let daemon = engine.daemon(contained("knows", &[], "env = { GREETING = \"a=b c\" }", "")).await;
    let value = async |name: &str| daemon.get(&format!("/invoke/knows/env?name={name}")).await.ok().text();
    assert_eq!(value("GREETING").await, "a=b c");
    assert_eq!(value("FUNCTION_NAME").await, "knows");
    assert_eq!(value("INSTANCE_ID").await, daemon.instances("knows").await[0]["id"].as_str().unwrap());
    assert_eq!(value("CALLBACK_URL").await, daemon.get("/invoke/knows/callback").await.ok().text());
    assert_eq!(daemon.get("/invoke/knows/callback/again").await.ok().text(), "409");
}

#[tokio::test]
async fn callback_url_has_gateway_of_network() {
    let Some(engine) = shared() else { return };
    let docker = engine.docker().await;
    let config = IpamConfig {
        subnet: Some("10.77.0.0/24".to_owned()),
        gateway: Some("10.77.0.99".to_owned()),
        ..Default::default()
    };
    let create = async |gateway: &str| {
        let config = IpamConfig { gateway: Some(gateway.to_owned()), ..config.clone() };
        let ipam = Ipam { config: Some(vec![config]), ..Default::default() };
        let network = NetworkCreateRequest { name: "odd".to_owned(), ipam: Some(ipam), ..Default::default() };
        docker.create_network(network).await.unwrap();
    };
    create("10.77.0.99").await;
    let daemon =
        engine.daemon(contained("elsewhere", &[], "keepalive = 0\nkeep-paused = 0", "network = \"odd\"")).await;
    let url = daemon.get("/invoke/elsewhere/callback").await.ok().text();
    assert!(url.starts_with(&format!("http://10.77.0.99:{}/ready/", daemon.callback.port())), "{url}");

    engine.none_left("elsewhere").await;
    docker.remove_network("odd").await.unwrap();
    create("10.77.0.3").await;
    // The first launch discovers the changed network.
    let reply = daemon.get("/invoke/elsewhere/callback").await;
    let url = if reply.status == 200 { reply } else { daemon.get("/invoke/elsewhere/callback").await }.ok().text();
    assert!(url.starts_with("http://10.77.0.3:"), "{url}");
    drop(daemon);
    docker.remove_network("odd").await.unwrap();
}

#[tokio::test]
async fn start_failure_quotes_engine() {
    let Some(engine) = shared() else { return };
    let said = start_error(engine, Function::verbatim("no-image", "[container]\nimage = \"no/such-image:1\"")).await;
    assert!(said.contains("\"no/such-image:1\" is not in the local engine"), "{said}");
    assert!(said.contains("pull = \"missing\"") && said.contains("No such image"), "{said}");

    let said = start_error(engine, contained("no-runtime", &[], "", "runtime = \"no-such-runtime\"")).await;
    assert!(said.contains("no-such-runtime"), "{said}");

    let said = start_error(engine, contained("no-network", &[], "", "network = \"no-such-network\"")).await;
    assert!(said.contains("network no-such-network not found"), "{said}");

    let said = start_error(engine, contained("no-user", &[], "", "user = \"no-such-user\"")).await;
    assert!(said.contains("no-such-user"), "{said}");

    for network in ["host", "none"] {
        let said = start_error(engine, contained("no-address", &[], "", &format!("network = \"{network}\""))).await;
        assert!(said.contains("bridge"), "{said}");
    }
}

#[tokio::test]
async fn unreachable_callback_listener_is_reported_at_once() {
    let Some(engine) = shared() else { return };
    let daemon = engine
        .setup()
        .option("--callback-listen", "127.0.0.1:0")
        .function(contained("deaf", &[], "", ""))
        .function(contained("calls-all-the-same", &[], "readiness = \"tcp\"", ""))
        .function(Function::verbatim(
            "needs-none",
            &format!(
                "readiness = \"tcp\"\n[container]\nimage = \"{IMAGE}\"\ncommand = [\"none\", \"--callbacks\", \"0\"]"
            ),
        ))
        .start()
        .await;
    for function in ["deaf", "calls-all-the-same"] {
        let reply = daemon.get(&format!("/invoke/{function}/")).await;
        let problem = reply.problem(502, "start_failed").to_string();
        assert!(problem.contains("--callback-listen 0.0.0.0:"), "{problem}");
        assert!(reply.took < AT_ONCE, "{:?}", reply.took);
    }
    container(&daemon, "needs-none").await;
    // Another service of this host may be at the gateway.
    assert_eq!(daemon.get("/invoke/needs-none/env?name=CALLBACK_URL").await.ok().text(), "");
}

#[tokio::test]
async fn exhausted_network_is_503() {
    let Some(engine) = shared() else { return };
    let docker = engine.docker().await;
    // The first address is the gateway's; one more is left.
    let config = IpamConfig { subnet: Some("10.78.0.0/30".to_owned()), ..Default::default() };
    let ipam = Ipam { config: Some(vec![config]), ..Default::default() };
    let network = NetworkCreateRequest { name: "narrow".to_owned(), ipam: Some(ipam), ..Default::default() };
    docker.create_network(network).await.unwrap();
    let daemon = engine
        .setup()
        .function(contained("first", &[], "", "network = \"narrow\""))
        .function(contained("second", &[], "", "network = \"narrow\""))
        .start()
        .await;
    container(&daemon, "first").await;
    let reply = daemon.get("/invoke/second/").await;
    reply.problem(503, "host_saturated");
    assert!(reply.retry_after() >= 1);
    engine.none_left("second").await;
    drop(daemon);
    tokio::time::sleep(Duration::ZERO).await;
    docker.remove_network("narrow").await.unwrap();
}
