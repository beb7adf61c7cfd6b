//! What other people do to our containers with the engine's own tools.

use futures::StreamExt;
use integration::{Daemon, Engine, Pieces, contained, empty, ms, request, within};
use tokio::{net::TcpStream, process::Command, time::Instant};
use tokio_tungstenite::{client_async, tungstenite::Message};

use crate::{container, shared};

/// Runs `docker ARGUMENTS CONTAINER` to its end.
async fn docker(engine: &Engine, arguments: &[&str], container: &str) {
    let mut command = Command::new("docker");
    let output = command.args(["--host", &engine.host()]).args(arguments).arg(container).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

const CUT_OFF: &[&str] = &["network", "disconnect", "bridge"];
const DISTURBANCES: [&[&str]; 4] = [&["kill"], &["rm", "--force"], &["stop", "--time", "1"], CUT_OFF];

#[tokio::test]
async fn an_idle_container_that_somebody_ends_is_replaced() {
    let Some(engine) = shared() else { return };
    let daemon = engine.daemon(contained("bullied", &[], "", "")).await;
    for arguments in DISTURBANCES {
        let first = container(&daemon, "bullied").await;
        docker(engine, arguments, &first).await;
        let second = container(&daemon, "bullied").await;
        assert_ne!(first, second, "{arguments:?}");
    }
    daemon.until("bullied", "idle", 1).await;
    assert_eq!(engine.containers("unifaas-bullied-").await.len(), 1, "what somebody ended was not removed");
}

async fn fails_at_once(engine: &Engine, daemon: &Daemon, name: &str, arguments: &[&str]) {
    let victim = container(daemon, name).await;
    let path = format!("/invoke/{name}/sleep?ms=10000");
    // A POST, which is not repeated elsewhere when the connection breaks.
    let request = async { (daemon.post(&path, "").await, Instant::now()) };
    let disturb = async {
        daemon.until(name, "busy", 1).await;
        tokio::time::sleep(ms(100)).await;
        docker(engine, arguments, &victim).await;
        Instant::now()
    };
    let ((reply, answered), disturbed) = futures::join!(request, disturb);
    reply.problem(502, "instance_failed");
    assert!(answered < disturbed + ms(500), "{arguments:?}: it took {:?}", answered - disturbed);
    assert_ne!(container(daemon, name).await, victim);
}

#[tokio::test]
async fn a_request_in_a_container_that_somebody_ends_fails_at_once_and_the_next_is_served() {
    let Some(engine) = shared() else { return };
    let daemon = engine.daemon(contained("struck", &[], "", "")).await;
    for arguments in DISTURBANCES {
        fails_at_once(engine, &daemon, "struck", arguments).await;
    }
}

#[tokio::test]
async fn what_is_under_way_in_a_container_that_is_taken_out_of_its_network_breaks_off() {
    let Some(engine) = shared() else { return };
    let daemon = engine.daemon(contained("cut-off", &[], "concurrent-requests = 8", "")).await;
    let victim = container(&daemon, "cut-off").await;
    let (_connection, response) = daemon.start(request("GET", "/invoke/cut-off/stream?n=2&ms=60000", empty())).await;
    let mut answer = Pieces::of(response);
    assert_eq!(answer.next().await.unwrap().unwrap(), "line 0\n");
    // Only the end of its connection would end it.
    let (_another, response) = daemon.start(request("GET", "/invoke/cut-off/half/unmeasured", empty())).await;
    let mut unmeasured = Pieces::of(response);
    assert_eq!(unmeasured.next().await.unwrap().unwrap(), "half");
    let stream = TcpStream::connect(daemon.listen).await.unwrap();
    let (mut tunnel, _) = client_async(format!("ws://{}/invoke/cut-off/ws", daemon.listen), stream).await.unwrap();
    docker(engine, CUT_OFF, &victim).await;
    let all = futures::future::join3(answer.next(), unmeasured.next(), tunnel.next());
    let (piece, rest, message) = within(ms(1000), "all end", all).await;
    assert!(piece.unwrap().is_err() && rest.unwrap().is_err(), "half an answer looks like a whole one");
    assert!(!matches!(message, Some(Ok(Message::Text(_) | Message::Binary(_)))), "{message:?}");
    assert!(daemon.log().contains("taken out of its network"));
    assert_ne!(container(&daemon, "cut-off").await, victim);
    daemon.until("cut-off", "idle", 1).await;
    assert_eq!(engine.containers("unifaas-cut-off-").await.len(), 1, "what was cut off was not removed");
}

#[tokio::test]
async fn a_container_of_gvisor_that_somebody_kills_is_replaced() {
    let Some(engine) = shared() else { return };
    let daemon = engine.daemon(contained("struck-gvisor", &[], "", "runtime = \"runsc\"")).await;
    fails_at_once(engine, &daemon, "struck-gvisor", DISTURBANCES[0]).await;
}

#[tokio::test]
async fn a_container_that_somebody_removes_while_it_boots_fails_its_boot() {
    let Some(engine) = shared() else { return };
    let daemon = engine.daemon(contained("nipped", &["--boot-delay", "5000"], "", "")).await;
    let request = async { daemon.get("/invoke/nipped/").await };
    let disturb = async {
        let function = daemon.until("nipped", "booting", 1).await;
        engine.remove(function["instances"][0]["engine_id"].as_str().unwrap()).await;
    };
    let (reply, ()) = futures::join!(request, disturb);
    reply.problem(502, "boot_failed");
    assert!(reply.took < ms(3000), "{:?}", reply.took);
    engine.none_left("nipped").await;
}
