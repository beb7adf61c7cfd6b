//! Clones on taps: all have the address of the template, and each has a tap of its own.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{FileExt, MetadataExt, PermissionsExt},
    time::Duration,
};

use integration::{
    Daemon, Home, SOON, Setup, eventually, linux, number,
    vm::{Kind, Vm, add_interface, image, isolated, prepared, setup, skip, taps, traces},
};
use serde_json::Value;
use tokio::{net::TcpStream, time::timeout};

use super::{
    disk::copies,
    isolation::{open_listener, reaches},
    snapshots::{CLONES, busy, count_of, counts, hello, made, snapshots, stop, until_snapshot, used_at_once},
};

/// The machine types whose clones are tested.
pub(super) const KINDS: [Kind; 3] = [Kind::Microvm, Kind::Qemu, Kind::Firecracker];
/// Clones that are started after all of those have ended.
const FEW: usize = 5;
/// Taps that are kept prepared.
const POOL: usize = 2;
const GUEST: &str = "10.100.255.254:8080";

pub(super) fn cloned(kind: Kind) -> Vm {
    Vm::new("f", kind).vm("snapshot", "true").set("boot-timeout", 60).set("queue-timeout", 120)
}

fn pooled(setup: Setup) -> Setup {
    setup.option("--tap-pool", POOL.to_string()).option("--memory-budget", "8000")
}

/// Drops packets whose way back would be another interface, as hardened hosts do.
fn filter_reverse_paths() {
    for interfaces in ["all", "default"] {
        fs::write(format!("/proc/sys/net/ipv4/conf/{interfaces}/rp_filter"), "1").unwrap();
    }
}

/// Returns the taps of a function's busy instances.
fn taps_of(function: &Value) -> BTreeSet<String> {
    let resources = busy(function).flat_map(|it| it["resources"].as_array().into_iter().flatten());
    resources.filter_map(|it| it.as_str()?.strip_prefix("tap ").map(str::to_owned)).collect()
}

#[test]
fn each_clone_has_a_tap_and_answers_for_itself() {
    isolated(async || {
        let most = count_of("UNIFAAS_CLONES", CLONES);
        filter_reverse_paths();
        for kind in KINDS {
            let mut daemon = pooled(setup()).function(cloned(kind).into()).start().await;
            made(&daemon).await;
            assert_eq!(counts(&daemon.function("f").await), [1, 0, 0]);
            let mut all = 0;
            for count in [most, FEW] {
                let function = used_at_once(&daemon, count).await;
                let instances: Vec<_> = busy(&function).collect();
                let distinct =
                    |member: &str| instances.iter().map(|it| it[member].to_string()).collect::<BTreeSet<_>>();
                assert_eq!(distinct("address"), BTreeSet::from([format!("\"{GUEST}\"")]), "{kind:?}: {function}");
                assert_eq!([distinct("pid").len(), taps_of(&function).len()], [count; 2], "{kind:?}: {function}");
                assert!(instances.iter().all(|it| number(it, "served") == 1), "{kind:?}: {function}");
                // A restore that takes too long, beside other tests, becomes a cold start.
                let [started, restores, failures] = counts(&function);
                all += u64::try_from(count).unwrap();
                assert_eq!(started - failures, 1 + all, "{kind:?}: {function}");
                assert!(restores > 0, "{kind:?}: {function}");
                // What is not bound to a tap reaches no clone.
                let unbound = timeout(Duration::from_millis(300), TcpStream::connect(GUEST)).await;
                assert!(!matches!(unbound, Ok(Ok(_))), "{kind:?}: a clone was reached");
                stop(&daemon).await;
                // A pool of each kind of taps.
                let look = async || taps();
                eventually(SOON, "surplus taps are removed", look, |taps| taps.len() <= 2 * POOL).await;
            }
            assert_eq!(daemon.end().await.status.code(), Some(0));
            assert_eq!(traces(), Vec::<String>::new(), "{kind:?} left something behind");
        }
    });
}

#[test]
fn restored_guest_is_requested_on_its_tap() {
    isolated(async || {
        let hooks = "{ prepare = \"/echo\", restored = \"/echo\" }";
        let vm = Vm::new("f", Kind::Microvm).vm("snapshot", hooks).set("readiness", "\"tcp\"").silent();
        let daemon = pooled(setup()).function(vm.set("boot-timeout", 60).into()).start().await;
        made(&daemon).await;
        // A guest on a busy host may not answer in time, which is followed by a cold start.
        hello(&daemon).await;
        let [started, restores, failures] = counts(&daemon.function("f").await);
        assert!((started, restores + failures) == (2 + failures, 1), "{started} {restores} {failures}");
    });
}

/// Returns the content of the disks that instances have.
fn disks(daemon: &Daemon) -> Vec<Vec<u8>> {
    copies(daemon).iter().map(|disk| fs::read(disk).unwrap()).collect()
}

#[test]
fn each_clone_has_its_own_copy_of_the_disk() {
    isolated(async || {
        for (kind, is_jailed) in [Kind::Microvm, Kind::Qemu, Kind::Firecracker]
            .map(|kind| (kind, false))
            .into_iter()
            .chain([(Kind::Firecracker, true)])
        {
            let place = tempfile::tempdir().unwrap();
            let image = image(place.path(), 8);
            let mark = format!("disk of {kind:?}");
            fs::File::options().write(true).open(&image).unwrap().write_all_at(mark.as_bytes(), 4096).unwrap();
            let content = fs::read(&image).unwrap();
            let mut vm = cloned(kind).vm("image", format!("{image:?}"));
            if is_jailed {
                vm = vm.hypervisor("jailer", true);
            }
            let mut daemon = pooled(setup()).function(vm.into()).start().await;
            made(&daemon).await;
            let saved = fs::read(snapshots(&daemon.home)[0].join("disk")).unwrap();
            assert!(saved == content, "{kind:?}: the disk is not part of the snapshot");
            let function = used_at_once(&daemon, 2).await;
            let [_, restores, _] = counts(&function);
            assert!(restores >= 1, "{kind:?} {is_jailed}: {function}");
            let disks = disks(&daemon);
            assert!(disks.len() == 2 && disks.iter().all(|disk| *disk == content), "{kind:?}: {} disks", disks.len());
            assert_eq!(daemon.end().await.status.code(), Some(0));
            assert_eq!(traces(), Vec::<String>::new(), "{kind:?} left something behind");
        }
    });
}

#[test]
fn what_a_clone_writes_is_its_own() {
    isolated(async || {
        if let Some(missing) = linux::obstacle() {
            return skip(&missing);
        }
        let _turn = linux::turn().await;
        let place = tempfile::tempdir().unwrap();
        let image = image(place.path(), 8);
        let vm = linux::linux("f", &[]).vm("image", format!("{image:?}")).vm("snapshot", "true");
        let mut daemon = pooled(setup()).function(vm.into()).start().await;
        daemon.get("/invoke/f/pid").await.ok();
        until_snapshot(&daemon, "ready").await;
        stop(&daemon).await;
        for restores in 1..=2 {
            daemon.get("/invoke/f/pid").await.ok();
            assert_eq!(counts(&daemon.function("f").await), [1 + restores, restores, 0]);
            assert!(disks(&daemon).iter().flatten().all(|byte| *byte == 0), "the disk of another clone");
            let filled = daemon.get("/invoke/f/fill?path=/dev/vda&mib=2").await.ok().text();
            assert_eq!(filled, "filled");
            stop(&daemon).await;
        }
        assert_eq!(daemon.end().await.status.code(), Some(0));
        assert_eq!(traces(), Vec::<String>::new());
    });
}

#[test]
fn damaged_memory_of_a_template_is_never_mapped() {
    isolated(async || {
        let daemon = pooled(setup()).function(cloned(Kind::Firecracker).into()).start().await;
        made(&daemon).await;
        let memory = snapshots(&daemon.home)[0].join("memory");
        let metadata = memory.metadata().unwrap();
        assert_eq!((metadata.permissions().mode() & 0o777, metadata.uid()), (0o444, 0), "no VMM may write to it");
        assert!(metadata.blocks() * 512 < metadata.len() / 2, "its zeros take no space");
        hello(&daemon).await;
        assert_eq!(counts(&daemon.function("f").await), [2, 1, 0]);
        stop(&daemon).await;
        fs::File::options().write(true).open(&memory).unwrap().write_all_at(b"X", 100).unwrap();
        hello(&daemon).await;
        let function = daemon.function("f").await;
        assert_eq!(counts(&function), [4, 1, 1], "{function}");
        until_snapshot(&daemon, "ready").await;
    });
}

/// Returns what a guest must not reach.
fn forbidden(daemon: &Daemon, open_port: u16) -> Vec<String> {
    let (front, callback) = (daemon.listen.port(), daemon.callback.port());
    let gateway = "10.100.255.253";
    vec![
        format!("{gateway}:{front}"),
        format!("{gateway}:{callback}"),
        format!("{gateway}:{open_port}"),
        format!("192.0.2.7:{open_port}"),
        format!("192.0.2.7:{callback}"),
        format!("10.100.0.1:{callback}"),
        format!("10.100.0.2:8080"),
        "192.0.2.1:80".to_owned(),
    ]
}

#[test]
fn clone_reaches_nothing() {
    isolated(async || {
        add_interface("other", "192.0.2.7/24");
        let open_port = open_listener().await;
        let setup = pooled(setup()).option("--listen", "0.0.0.0:0");
        let daemon = setup.function(cloned(Kind::Microvm).into()).start().await;
        made(&daemon).await;
        for restored in [true, false] {
            if !restored {
                daemon.cli(&["snapshot", "rm", "f"]).await;
            }
            hello(&daemon).await;
            let origin = if restored { "restored" } else { "cold" };
            assert_eq!(daemon.instances("f").await[0]["origin"], origin);
            for address in forbidden(&daemon, open_port) {
                assert!(!reaches(&daemon, "f", &address).await, "{origin}: {address} was reached");
            }
            until_snapshot(&daemon, "ready").await;
            stop(&daemon).await;
        }
    });
}

#[test]
fn nothing_is_left_of_clones_on_taps_after_a_kill() {
    isolated(async || {
        let home = Home::new();
        home.put(&cloned(Kind::Microvm).into());
        let daemon = pooled(prepared(Setup::at(&home))).start().await;
        made(&daemon).await;
        used_at_once(&daemon, 3).await;
        daemon.killed().await;
        assert!(taps().len() >= 3, "taps outlive their daemon");
        let mut next = pooled(prepared(Setup::at(&home))).start().await;
        hello(&next).await;
        let [started, restores, failures] = counts(&next.function("f").await);
        assert_eq!((started, restores + failures), (1 + failures, 1));
        assert_eq!(next.end().await.status.code(), Some(0));
        eventually(SOON, "nothing is left", async || traces(), Vec::is_empty).await;
    });
}
