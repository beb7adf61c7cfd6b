//! What a cold start through UniFaaS costs on top of the engine: the same container is created, started and asked by hand and
//! through the daemon, in turn, on a private engine. Run it in a release build, as root, on a quiet machine:
//!
//! ```text
//! cargo build --release --workspace && cargo run --release -p integration --bin cold-container
//! ```

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a tool for developers")]

use std::{env, net::SocketAddr, process::ExitCode, time::Duration};

use bollard::{
    Docker,
    models::{ContainerCreateBody, HostConfig},
    query_parameters::RemoveContainerOptionsBuilder,
};
use integration::{Connection, Daemon, Engine, contained, empty, request};
use tokio::time::{Instant, sleep};

/// Cold starts of each kind.
const ROUNDS: usize = 31;
/// What the daemon may add to the median.
const ALLOWED: Duration = Duration::from_millis(15);
/// Before each start: what the last container leaves to the kernel to clean up shall not be in the way.
const REST: Duration = Duration::from_millis(150);
const RUNTIMES: [&str; 2] = ["runc", "runsc"];

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let testfn = env::current_exe().unwrap().with_file_name("testfn");
    let Some(engine) = Engine::private(testfn.to_str().unwrap()) else { return ExitCode::FAILURE };
    let docker = engine.docker().await;
    let setup = RUNTIMES.iter().fold(engine.setup(), |setup, runtime| {
        let keys = format!("memory = 64\nruntime = \"{runtime}\"");
        setup.function(contained(runtime, &[], "single-use = true\nstop-grace = 0", &keys))
    });
    let daemon = setup.start().await;
    println!("{:<8} {:>10} {:>10} {:>10}   medians of {ROUNDS}, ms", "runtime", "by hand", "unifaas", "extra");
    let mut good = true;
    for runtime in RUNTIMES {
        let (mut by_hand, mut through) = (Vec::new(), Vec::new());
        // The first of each finds everything cold, the engine included.
        for round in 0..=ROUNDS {
            let times = (hand(&docker, runtime).await, daemon_start(&daemon, &engine, runtime).await);
            if round > 0 {
                by_hand.push(times.0);
                through.push(times.1);
            }
        }
        let (by_hand, through) = (median(by_hand), median(through));
        let extra = through - by_hand;
        println!("{runtime:<8} {by_hand:>10.1} {through:>10.1} {extra:>10.1}");
        good &= extra <= ALLOWED.as_secs_f64() * 1e3;
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Create, start, and ask until there is an answer; what a script would do.
async fn hand(docker: &Docker, runtime: &str) -> Duration {
    let memory = Some(64 << 20);
    let body = ContainerCreateBody {
        image: Some("unifaas/testfn".to_owned()),
        cmd: Some(["none", "--callbacks", "0"].map(str::to_owned).to_vec()),
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
    sleep(REST).await;
    let began = Instant::now();
    let id = docker.create_container(None, body).await.unwrap().id;
    docker.start_container(&id, None).await.unwrap();
    let found = docker.inspect_container(&id, None).await.unwrap();
    let networks = found.network_settings.unwrap().networks.unwrap();
    let address = networks.values().find_map(|endpoint| endpoint.ip_address.clone()).unwrap();
    let address = SocketAddr::new(address.parse().unwrap(), 8080);
    let mut connection = loop {
        match Connection::open(address).await {
            Ok(connection) => break connection,
            Err(_) => sleep(Duration::from_millis(1)).await,
        }
    };
    connection.send(request("GET", "/pid", empty())).await.unwrap().ok();
    let took = began.elapsed();
    let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
    docker.remove_container(&id, Some(options)).await.unwrap();
    took
}

/// One request that finds no instance.
async fn daemon_start(daemon: &Daemon, engine: &Engine, runtime: &str) -> Duration {
    sleep(REST).await;
    let began = Instant::now();
    daemon.get(&format!("/invoke/{runtime}/pid")).await.ok();
    let took = began.elapsed();
    engine.none_left(runtime).await;
    took
}

/// In milliseconds.
fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e3
}
