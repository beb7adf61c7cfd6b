//! Containers on a private engine. By hand: create and start the same container, and send the daemon's request once it
//! accepts connections.

use std::{env, net::SocketAddr, time::Duration};

use bollard::{
    Docker,
    models::{ContainerCreateBody, HostConfig},
    query_parameters::RemoveContainerOptionsBuilder,
};
pub use integration::engine_obstacle as obstacle;
use integration::{Connection, Daemon, Engine, IMAGE, contained, within};
use tokio::time::{Instant, sleep};

use super::Starts;
use crate::{ask::ForwardedRequest, child::WITH_PARENT, options::Options, progress};

const ROUNDS: usize = 31;
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause before each start, so that the kernel's cleanup of the last container does not disturb it.
const SETTLE_TIME: Duration = Duration::from_millis(150);
/// MiB.
const MEMORY: i64 = 64;
/// The container runtimes.
pub const RUNTIMES: [&str; 2] = ["runc", "runsc"];

/// Starts an engine, and a daemon with a single-use function per runtime, named like it. Moves the calling thread into the
/// network of the engine.
pub async fn daemon() -> (Daemon, Engine) {
    let lean = env::current_exe().unwrap().with_file_name("lean");
    let engine = Engine::private(lean.to_str().unwrap()).expect("an engine can be had");
    let setup = engine.setup().run_by(WITH_PARENT).function(ForwardedRequest::function());
    let setup = RUNTIMES.iter().fold(setup, |setup, runtime| {
        let keys = format!("memory = {MEMORY}\nruntime = \"{runtime}\"");
        setup.function(contained(runtime, &[], "single-use = true\nstop-grace = 0", &keys))
    });
    (setup.start().await, engine)
}

/// Alternates starts by hand and through UniFaaS, for each runtime.
pub async fn starts(options: &Options) -> [Result<Starts, String>; 2] {
    let (daemon, engine) = daemon().await;
    let docker = engine.docker().await;
    let request = ForwardedRequest::of(daemon.listen);
    let mut all = Vec::new();
    for runtime in RUNTIMES {
        let (mut starts, rounds) = (Starts::default(), options.rounds(ROUNDS));
        progress(&format!("cold: container, {runtime}, {rounds} rounds"));
        // The first start finds everything cold, the engine included.
        for round in 0..=rounds {
            sleep(SETTLE_TIME).await;
            let began = Instant::now();
            let container = by_hand(&docker, runtime, &request).await;
            let by_hand = began.elapsed();
            remove(&docker, &container).await;
            sleep(SETTLE_TIME).await;
            let began = Instant::now();
            daemon.get(&format!("/invoke/{runtime}/")).await.ok();
            let through = began.elapsed();
            engine.none_left(runtime).await;
            if round > 0 {
                starts.push(by_hand, through);
            }
        }
        all.push(starts);
    }
    all.try_into().map(|all: [Starts; 2]| all.map(Ok)).expect("one for each runtime")
}

/// Creates and starts a container and sends requests until it responds, like a script. Returns the container's id.
///
/// # Panics
/// When the engine refuses.
pub async fn by_hand(docker: &Docker, runtime: &str, forwarded: &ForwardedRequest) -> String {
    let memory = Some(MEMORY << 20);
    let body = ContainerCreateBody {
        image: Some(IMAGE.to_owned()),
        cmd: Some(vec!["none".to_owned()]),
        env: Some(["HOST=0.0.0.0", "PORT=8080"].map(str::to_owned).to_vec()),
        host_config: Some(HostConfig {
            memory,
            memory_swap: memory,
            runtime: Some(runtime.to_owned()),
            pids_limit: Some(512),
            cap_drop: Some(vec!["ALL".to_owned()]),
            security_opt: Some(vec!["no-new-privileges".to_owned()]),
            ..Default::default()
        }),
        ..Default::default()
    };
    let id = docker.create_container(None, body).await.unwrap().id;
    docker.start_container(&id, None).await.unwrap();
    let found = docker.inspect_container(&id, None).await.unwrap();
    let networks = found.network_settings.unwrap().networks.unwrap();
    let address = networks.values().find_map(|endpoint| endpoint.ip_address.clone()).unwrap();
    let address = SocketAddr::new(address.parse().unwrap(), 8080);
    // Measured, so with shorter pauses than those of other waits.
    let connected = async {
        loop {
            match Connection::open(address).await {
                Ok(connection) => return connection,
                Err(_) => sleep(Duration::from_millis(1)).await,
            }
        }
    };
    let mut connection = within(START_TIMEOUT, format!("a listener on {address}"), connected).await;
    connection.send(forwarded.request("/")).await.unwrap().ok();
    id
}

/// Removes a container that was started by hand.
///
/// # Panics
/// When the engine refuses.
pub async fn remove(docker: &Docker, container: &str) {
    let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
    docker.remove_container(container, Some(options)).await.unwrap();
}
