//! Containers that are changed through the engine's own tools.

use futures::StreamExt;
use integration::{AT_ONCE, Daemon, Engine, Pieces, contained, empty, ms, request, within};
use tokio::{net::TcpStream, time::Instant};
use tokio_tungstenite::{client_async, tungstenite::Message};

use crate::{container, docker, shared};

const DISCONNECT: &[&str] = &["network", "disconnect", "bridge"];
const DISTURBANCES: [&[&str]; 4] = [&["kill"], &["rm", "--force"], &["stop", "--time", "1"], DISCONNECT];

#[tokio::test]
async fn ended_idle_container_is_replaced() {
    let Some(engine) = shared() else { return };
    let daemon = engine.daemon(contained("disturbed", &[], "", "")).await;
    for arguments in DISTURBANCES {
        let first = container(&daemon, "disturbed").await;
        docker(engine, arguments, &first).await;
        let second = container(&daemon, "disturbed").await;
        assert_ne!(first, second, "{arguments:?}");
    }
    daemon.until("disturbed", "idle", 1).await;
    assert_eq!(engine.containers("unifaas-disturbed-").await.len(), 1, "an ended container was not removed");
}

async fn fails_at_once(engine: &Engine, daemon: &Daemon, name: &str, arguments: &[&str]) {
    let victim = container(daemon, name).await;
    let path = format!("/invoke/{name}/sleep?ms=10000");
    // A POST, which is not retried when the connection breaks.
    let request = async { (daemon.post(&path, "").await, Instant::now()) };
    let disturb = async {
        daemon.until(name, "busy", 1).await;
        tokio::time::sleep(ms(100)).await;
        docker(engine, arguments, &victim).await;
        Instant::now()
    };
    let ((reply, answered), disturbed) = futures::join!(request, disturb);
    reply.problem(502, "instance_failed");
    assert!(answered < disturbed + AT_ONCE, "{arguments:?}: it took {:?}", answered - disturbed);
    assert_ne!(container(daemon, name).await, victim);
}

#[tokio::test]
async fn request_fails_at_once_when_its_container_is_ended() {
    let Some(engine) = shared() else { return };
    let daemon = engine.daemon(contained("killed", &[], "", "")).await;
    for arguments in DISTURBANCES {
        fails_at_once(engine, &daemon, "killed", arguments).await;
    }
}

#[tokio::test]
async fn disconnected_container_breaks_responses_and_tunnels() {
    let Some(engine) = shared() else { return };
    let daemon = engine.daemon(contained("disconnected", &[], "concurrent-requests = 8", "")).await;
    let victim = container(&daemon, "disconnected").await;
    let (_connection, response) =
        daemon.start(request("GET", "/invoke/disconnected/stream?n=2&ms=60000", empty())).await;
    let mut answer = Pieces::of(response);
    assert_eq!(answer.next().await.unwrap().unwrap(), "line 0\n");
    // Only the end of the connection would end this response.
    let (_another, response) = daemon.start(request("GET", "/invoke/disconnected/half/unmeasured", empty())).await;
    let mut unmeasured = Pieces::of(response);
    assert_eq!(unmeasured.next().await.unwrap().unwrap(), "half");
    let stream = TcpStream::connect(daemon.listen).await.unwrap();
    let (mut tunnel, _) = client_async(format!("ws://{}/invoke/disconnected/ws", daemon.listen), stream).await.unwrap();
    docker(engine, DISCONNECT, &victim).await;
    let all = futures::future::join3(answer.next(), unmeasured.next(), tunnel.next());
    let (piece, rest, message) = within(AT_ONCE, "all end", all).await;
    assert!(piece.unwrap().is_err() && rest.unwrap().is_err(), "half an answer looks like a whole one");
    assert!(!matches!(message, Some(Ok(Message::Text(_) | Message::Binary(_)))), "{message:?}");
    daemon.logged("taken out of its network").await;
    assert_ne!(container(&daemon, "disconnected").await, victim);
    daemon.until("disconnected", "idle", 1).await;
    assert_eq!(engine.containers("unifaas-disconnected-").await.len(), 1, "a disconnected container was not removed");
}

#[tokio::test]
async fn killed_gvisor_container_is_replaced() {
    let Some(engine) = shared() else { return };
    let daemon = engine.daemon(contained("killed-gvisor", &[], "", "runtime = \"runsc\"")).await;
    fails_at_once(engine, &daemon, "killed-gvisor", DISTURBANCES[0]).await;
}

#[tokio::test]
async fn removed_container_fails_its_boot() {
    let Some(engine) = shared() else { return };
    let daemon = engine.daemon(contained("removed", &["--boot-delay", "5000"], "", "")).await;
    let request = async { daemon.get("/invoke/removed/").await };
    let disturb = async {
        let function = daemon.until("removed", "booting", 1).await;
        engine.remove(function["instances"][0]["engine_id"].as_str().unwrap()).await;
    };
    let (reply, ()) = futures::join!(request, disturb);
    reply.problem(502, "boot_failed");
    assert!(reply.took < AT_ONCE, "{:?}", reply.took);
    engine.none_left("removed").await;
}
