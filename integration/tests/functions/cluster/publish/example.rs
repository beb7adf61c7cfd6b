//! `examples/cluster/run` shows what it says.

use std::process::Stdio;

use integration::{brokers, shipped, tools, unifaas, within};
use tokio::process::Command;

use super::*;

#[tokio::test]
async fn example_has_a_node_serve_what_another_one_has_published() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: network namespaces need root");
        return;
    }
    let Some(nats) = brokers::nats_server() else { return };
    if ["ip", "nsenter", "curl", "python3"].iter().any(|name| tools::system_program(name).is_none()) {
        return;
    }
    let home = Home::new();
    let mut command = Command::new(shipped("examples/cluster/run"));
    command.arg(home.path("nodes")).env("UNIFAAS_EXE", unifaas()).env("NATS_SERVER_EXE", nats);
    command.stdin(Stdio::null()).kill_on_drop(true);
    let ran = within(8 * SOON, "the example", command.output()).await.expect("it can be run");
    let out = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{out}{}", String::from_utf8_lossy(&ran.stderr));
    let (forwarded, served) = out.split_once("unifaas publish ").expect("the command");
    assert!(forwarded.contains("x-unifaas-node: a\r\n") && served.contains("x-unifaas-node: c\r\n"), "{out}");
    let shows = |line: &str| line.starts_with("hello-everywhere") && line.contains(" serving ");
    assert!(served.lines().any(shows), "{out}");
}
