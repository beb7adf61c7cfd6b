//! Many virtual machines, few addresses, missing privileges.

use std::time::Duration;

use futures::{StreamExt, future::join_all, stream};
use integration::{
    Daemon, Function, ms, number, processes, request,
    vm::{self, Kind, Vm, daemon, ip, isolated, setup, taps, traces},
};
use serde_json::json;
use tokio::time::timeout;

/// A range for four VMs.
const FOUR: (&str, &str) = ("--subnet", "10.101.0.0/28");

async fn until_no_instance_is_left(daemon: &Daemon) {
    daemon.settled("f", "no instance", |function| function["instances"] == json!([])).await;
}

#[test]
fn thirty_vms_run_and_end() {
    isolated(|| async {
        let vm = Vm::new("f", Kind::Microvm).set("single-use", true).set("boot-timeout", 60);
        let mut daemon = setup().option("--tap-pool", "2").function(vm.into()).start().await;
        let replies = timeout(Duration::from_secs(55), join_all((0..30).map(|_| daemon.get("/invoke/f/"))));
        for reply in replies.await.unwrap() {
            reply.ok();
        }
        assert_eq!(number(&daemon.function("f").await, "instances_started"), 30);
        until_no_instance_is_left(&daemon).await;
        integration::eventually(ms(3000), "only the prepared taps are left", async || {
            (taps().len() == 2).then_some(())
        })
        .await;
        assert_eq!(vm::processes(), [daemon.pid, processes::spawner_of(daemon.pid)]);
        daemon.end().await;
        assert_eq!(traces(), Vec::<String>::new());
    });
}

// Surplus taps are removed after their guest is gone.
async fn only_prepared_taps_are_left() {
    integration::eventually(ms(3000), "only the prepared taps are left", async || (taps().len() == 4).then_some(()))
        .await;
}

#[test]
fn three_hundred_starts_leak_nothing() {
    isolated(|| async {
        let daemon = daemon(Vm::new("f", Kind::Microvm).set("single-use", true)).await;
        for _ in 0..30 {
            daemon.get("/invoke/f/").await.ok();
        }
        until_no_instance_is_left(&daemon).await;
        only_prepared_taps_are_left().await;
        let before = (processes::descriptors(daemon.pid), processes::resident_kib(daemon.pid), taps().len());
        for _ in 0..300 {
            daemon.get("/invoke/f/").await.ok();
        }
        until_no_instance_is_left(&daemon).await;
        only_prepared_taps_are_left().await;
        let after = (processes::descriptors(daemon.pid), processes::resident_kib(daemon.pid), taps().len());
        assert!(after.0 <= before.0 + 2 && after.2 == before.2, "{before:?} became {after:?}");
        assert!(after.1 < before.1 + 3000, "{before:?} became {after:?}");
        assert_eq!(processes::zombies_of(daemon.pid), Vec::<u32>::new());
    });
}

#[test]
fn exhausted_subnet_is_503() {
    isolated(|| async {
        let vm = Vm::new("f", Kind::Microvm).set("min-instances", 4);
        let silent = Vm::new("g", Kind::Microvm);
        let setup = setup().option(FOUR.0, FOUR.1).function(vm.into()).function(silent.into());
        let daemon = setup.start().await;
        daemon.until("f", "idle", 4).await;
        let reply = daemon.get("/invoke/g/").await;
        reply.problem(503, "host_saturated");
        assert!(reply.retry_after() >= 1);
        assert_eq!(taps().len(), 4);
        daemon.home.remove("f");
        integration::eventually(Duration::from_secs(5), "an address is free again", async || {
            (daemon.get("/invoke/g/").await.status == 200).then_some(())
        })
        .await;
    });
}

/// Runs a daemon that must refuse to start, and returns its error.
async fn refusal(function: Function, subnet: &str) -> String {
    let setup = setup().option("--subnet", subnet).function(function);
    let output = timeout(Duration::from_secs(5), setup.command().output()).await.expect("it ends at once").unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn overlapping_subnet_is_refused() {
    isolated(|| async {
        ip("link add other type veth peer name another");
        ip("link set another up");
        ip("addr add 10.100.7.1/24 dev other");
        ip("link set other up");
        ip("route add 10.102.0.0/16 via 10.100.7.9");
        let before = traces();
        for (subnet, used) in [("10.100.0.0/16", "10.100.7.1"), ("10.102.3.0/24", "10.102.0.0/16")] {
            for function in [Vm::new("f", Kind::Microvm).into(), Function::new("no-vm")] {
                let said = refusal(function, subnet).await;
                assert!(said.contains(subnet) && said.contains(used) && said.contains("--subnet"), "{said}");
                assert!(said.contains("interface other"), "{said}");
            }
        }
        assert_eq!(traces(), before);
    });
}

#[test]
fn second_daemon_with_same_subnet_is_refused() {
    isolated(|| async {
        let first = daemon(Vm::new("f", Kind::Microvm)).await;
        let late = daemon(Vm::new("f", Kind::Microvm)).await;
        let said = late.get("/invoke/f/").await.problem(502, "start_failed").to_string();
        assert!(said.contains("10.100.0.0/16") && said.contains("overlaps"), "{said}");
        let second =
            setup().option("--subnet", "10.103.0.0/16").function(Vm::new("f", Kind::Microvm).into()).start().await;
        let (one, two) = futures::join!(first.get("/invoke/f/"), second.get("/invoke/f/"));
        assert!(one.ok().text().contains(" 10.100.") && two.ok().text().contains(" 10.103."));
    });
}

#[test]
fn network_is_unchanged_without_vm_function() {
    isolated(|| async {
        let daemon = setup().function(Function::new("process")).start().await;
        daemon.get("/invoke/process/pid").await.ok();
        assert_eq!(traces().len(), 3, "the daemon, its spawner and its function: {:?}", traces());
        daemon.home.put(&Vm::new("f", Kind::Microvm).into());
        daemon.settled("f", "it is there", |function| function["state"] == "serving").await;
        daemon.get("/invoke/f/").await.ok();
        assert!(!taps().is_empty());
    });
}

#[test]
fn user_mode_network_isolates_guest() {
    isolated(|| async {
        let door = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let user = |name| Vm::new(name, Kind::Microvm).vm("network", "\"user\"");
        let open = user("open").vm("egress", true);
        let setup = setup().option("--callback-listen", "127.0.0.1:0").function(user("f").into());
        let daemon = setup.function(open.into()).start().await;
        assert!(daemon.get("/invoke/f/").await.ok().text().contains("10.0.2.15"));
        daemon.get("/invoke/open/").await.ok();
        assert_eq!(taps(), Vec::<String>::new());
        let address = format!("10.0.2.2:{}", door.local_addr().unwrap().port());
        let inside = daemon.get(&format!("/invoke/f/connect?addr={address}")).await.ok().text();
        assert_ne!(inside.trim(), "open");
        let outside = daemon.get(&format!("/invoke/open/connect?addr={address}")).await.ok().text();
        assert_eq!(outside.trim(), "open", "the positive control failed");
        let mut waiter = daemon.connect().await;
        waiter.send(request("GET", "/invoke/f/hello", integration::empty())).await.unwrap().ok();
    });
}

/// Firecracker opens its tap 1 ms after exec. A copy of the daemon's descriptor, in a child that another thread was just
/// creating, would keep the tap busy until then.
#[test]
fn taps_are_free_when_firecracker_opens_them() {
    isolated(|| async {
        let vm = Vm::new("f", Kind::Firecracker).set("single-use", true).set("boot-timeout", 60);
        let process = Function::new("process").set("single-use", true).set("boot-timeout", 60);
        let setup = setup().option("--tap-pool", "0").option("--max-starts", "30");
        let daemon = setup.function(vm.into()).function(process).start().await;
        let paths = (0..300).flat_map(|_| ["/invoke/f/", "/invoke/process/pid"]);
        let replies = stream::iter(paths).map(|path| daemon.get(path)).buffer_unordered(60);
        let failed: Vec<String> =
            replies.filter_map(|reply| async move { (reply.status != 200).then(|| reply.text()) }).collect().await;
        assert_eq!(failed, Vec::<String>::new(), "{} of 600", failed.len());
    });
}
