//! Many virtual machines, few addresses, missing privileges.

use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

use futures::{StreamExt, future::join_all, stream};
use integration::{
    Daemon, Function, eventually, number, processes, request,
    vm::{self, Kind, Vm, daemon, ip, isolated, setup, taps, traces},
    within,
};
use serde_json::json;
use tokio::time::Instant;

/// A range for four VMs.
const FOUR: (&str, &str) = ("--subnet", "10.101.0.0/28");
/// For what takes a second on an idle machine, and several beside a build.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Longer than the daemon waits before it prepares another tap.
const STABLE: Duration = Duration::from_millis(300);

async fn until_no_instance_is_left(daemon: &Daemon) {
    daemon.settled("f", "no instance", |function| function["instances"] == json!([])).await;
}

#[test]
fn thirty_vms_run_and_end() {
    isolated(|| async {
        let vm = Vm::new("f", Kind::any()).set("single-use", true).set("boot-timeout", 60);
        let mut daemon = setup().option("--tap-pool", "2").function(vm.into()).start().await;
        for reply in join_all((0..30).map(|_| daemon.get("/invoke/f/"))).await {
            reply.ok();
        }
        assert_eq!(number(&daemon.function("f").await, "instances_started"), 30);
        until_no_instance_is_left(&daemon).await;
        prepared_taps_are_left(2).await;
        // In the order of PIDs, which start again at a small number now and then.
        let mut expected = [daemon.pid, processes::spawner_of(daemon.pid)];
        expected.sort_unstable();
        assert_eq!(vm::processes(), expected);
        daemon.end().await;
        assert_eq!(traces(), Vec::<String>::new());
    });
}

/// Waits until only the prepared taps are left, and stay. Surplus ones are removed after their guest is gone, and while a
/// guest still has one, another may be prepared: then the number is right for a moment.
async fn prepared_taps_are_left(count: usize) {
    let mut since = None;
    let look = async || {
        let taps = taps();
        since = (taps.len() == count).then(|| since.unwrap_or_else(Instant::now));
        (taps, since)
    };
    let is_stable = |(_, since): &(_, Option<Instant>)| since.is_some_and(|since| since.elapsed() > STABLE);
    eventually(SETTLE_TIMEOUT, format!("only {count} prepared taps are left"), look, is_stable).await;
}

#[test]
fn three_hundred_starts_leak_nothing() {
    isolated(|| async {
        let daemon = daemon(Vm::new("f", Kind::any()).set("single-use", true)).await;
        for _ in 0..30 {
            daemon.get("/invoke/f/").await.ok();
        }
        until_no_instance_is_left(&daemon).await;
        prepared_taps_are_left(4).await;
        let before = (processes::descriptors(daemon.pid), processes::resident_kib(daemon.pid));
        for _ in 0..300 {
            daemon.get("/invoke/f/").await.ok();
        }
        until_no_instance_is_left(&daemon).await;
        prepared_taps_are_left(4).await;
        let after = (processes::descriptors(daemon.pid), processes::resident_kib(daemon.pid));
        assert!(after.0 <= before.0 + 2, "{before:?} became {after:?}");
        assert!(after.1 < before.1 + 3000, "{before:?} became {after:?}");
        assert_eq!(processes::zombies_of(daemon.pid), Vec::<u32>::new());
    });
}

#[test]
fn exhausted_subnet_is_503() {
    isolated(|| async {
        let vm = Vm::new("f", Kind::any()).set("min-instances", 4);
        let silent = Vm::new("g", Kind::any());
        let setup = setup().option(FOUR.0, FOUR.1).function(vm.into()).function(silent.into());
        let daemon = setup.start().await;
        daemon.until("f", "idle", 4).await;
        let reply = daemon.get("/invoke/g/").await;
        reply.problem(503, "host_saturated");
        assert!(reply.retry_after() >= 1);
        assert_eq!(taps().len(), 4);
        daemon.home.remove("f");
        // An address is free again.
        daemon.answers("/invoke/g/", 200).await;
    });
}

/// Runs a daemon that must refuse to start, and returns its error.
async fn refusal(function: Function, subnet: &str) -> String {
    let setup = setup().option("--subnet", subnet).function(function);
    let output = within(SETTLE_TIMEOUT, "the refusal", setup.command().output()).await.unwrap();
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
        let first = daemon(Vm::new("f", Kind::any())).await;
        let late = daemon(Vm::new("f", Kind::any())).await;
        let said = late.get("/invoke/f/").await.problem(502, "start_failed").to_string();
        assert!(said.contains("10.100.0.0/16") && said.contains("overlaps"), "{said}");
        let second =
            setup().option("--subnet", "10.103.0.0/16").function(Vm::new("f", Kind::any()).into()).start().await;
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
        daemon.home.put(&Vm::new("f", Kind::any()).into());
        daemon.settled("f", "it is there", |function| function["state"] == "serving").await;
        daemon.get("/invoke/f/").await.ok();
        assert!(!taps().is_empty());
    });
}

#[test]
fn user_mode_network_isolates_guest() {
    isolated(|| async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let user = |name| Vm::new(name, Kind::Microvm).vm("network", "\"user\"");
        let open = user("open").vm("egress", true);
        let setup = setup().option("--callback-listen", "127.0.0.1:0").function(user("f").into());
        let daemon = setup.function(open.into()).start().await;
        assert!(daemon.get("/invoke/f/").await.ok().text().contains("10.0.2.15"));
        daemon.get("/invoke/open/").await.ok();
        assert_eq!(taps(), Vec::<String>::new());
        let address = format!("10.0.2.2:{}", listener.local_addr().unwrap().port());
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

#[test]
fn vmm_of_root_keeps_access_to_files_only() {
    isolated(|| async {
        let place = tempfile::tempdir().unwrap();
        let image = vm::image(place.path(), 1);
        // For root only, and shared by all instances.
        fs::set_permissions(&image, fs::Permissions::from_mode(0o600)).unwrap();
        let vm = Vm::new("f", Kind::Microvm).vm("network", "\"user\"").vm("image", format!("{image:?}"));
        // As the shipped unit, which does not grant it.
        let setup = setup().run_by(["setpriv", "--bounding-set=-setpcap"]);
        let daemon = setup.function(vm.hypervisor("read-only", true).into()).start().await;
        daemon.get("/invoke/f/").await.ok();
        let pid = &daemon.instances("f").await[0]["pid"];
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        for line in
            ["CapPrm:\t0000000000000006", "CapEff:\t0000000000000006", "CapAmb:\t0000000000000000", "NoNewPrivs:\t1"]
        {
            assert!(status.contains(line), "{line} in {status}");
        }
    });
}
