//! Root disks: private copies, shared disks, and no leftovers.

use std::{
    fs,
    os::unix::fs::{MetadataExt, symlink},
    path::{Path, PathBuf},
};

use integration::{
    Daemon, Setup, processes,
    vm::{self, KINDS, Kind, Vm, image, isolated, setup},
};

const MIB: u64 = 1 << 20;

/// Returns the root disks on the command lines of the running VMMs.
async fn disks(daemon: &Daemon) -> Vec<PathBuf> {
    let instances = daemon.instances("f").await;
    let pids = instances.iter().map(|instance| u32::try_from(instance["pid"].as_u64().unwrap()).unwrap());
    let option = |pid| processes::arguments(pid).into_iter().find(|argument| argument.contains("if=none")).unwrap();
    let file =
        |option: String| option.split(',').find_map(|part| part.strip_prefix("file=").map(PathBuf::from)).unwrap();
    let mut disks: Vec<_> = pids.map(option).map(file).collect();
    disks.sort();
    disks
}

async fn two_instances(vm: Vm) -> Daemon {
    let daemon = setup().function(vm.set("min-instances", 2).into()).start().await;
    daemon.until("f", "idle", 2).await;
    daemon
}

#[test]
fn writable_disks_are_private_copies() {
    isolated(|| async {
        for kind in KINDS {
            let place = tempfile::tempdir().unwrap();
            let image = image(place.path(), 64);
            let daemon = two_instances(Vm::new("f", kind).vm("image", format!("{image:?}"))).await;
            let disks = disks(&daemon).await;
            assert!(disks[0] != disks[1] && !disks.contains(&image), "{kind:?}: {disks:?}");
            for disk in &disks {
                let metadata = disk.metadata().unwrap();
                assert_eq!(metadata.len(), 64 * MIB);
                assert!(metadata.blocks() * 512 < MIB, "the copy is not sparse");
                assert!(disk.starts_with(daemon.home.path("state").canonicalize().unwrap()));
            }
            daemon.home.remove("f");
            integration::eventually(integration::ms(5000), "the copies are removed", async || {
                disks.iter().all(|disk| !disk.exists()).then_some(())
            })
            .await;
        }
    });
}

#[test]
fn read_only_disk_is_shared() {
    isolated(|| async {
        for kind in KINDS {
            let place = tempfile::tempdir().unwrap();
            let image = image(place.path(), 64);
            let vm = Vm::new("f", kind).vm("image", format!("{image:?}")).hypervisor("read-only", true);
            let daemon = two_instances(vm).await;
            assert_eq!(disks(&daemon).await, [image.clone(), image]);
        }
    });
}

#[test]
fn firecracker_shares_writable_disk_only_if_configured() {
    isolated(|| async {
        let place = tempfile::tempdir().unwrap();
        let image = image(place.path(), 64);
        let vm = Vm::new("f", Kind::Firecracker).vm("image", format!("{image:?}")).hypervisor("copy-rootfs", false);
        let daemon = setup().function(vm.set("max-instances", 1).into()).start().await;
        daemon.get("/invoke/f/").await.ok();
        assert_eq!(disks(&daemon).await, [image]);
    });
}

#[test]
fn directory_is_root_disk_over_9p() {
    isolated(|| async {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("file"), "content").unwrap();
        let vm = Vm::new("f", Kind::Qemu).vm("image", format!("{:?}", place.path())).hypervisor("disk-type", "\"9p\"");
        let daemon = setup().function(vm.into()).start().await;
        daemon.get("/invoke/f/").await.ok();
        let pid = u32::try_from(daemon.instances("f").await[0]["pid"].as_u64().unwrap()).unwrap();
        let shared =
            processes::arguments(pid).into_iter().find(|argument| argument.starts_with("local,id=root")).unwrap();
        let path = shared.split(',').find_map(|part| part.strip_prefix("path=")).unwrap();
        assert_eq!(fs::read_to_string(Path::new(path).join("file")).unwrap(), "content");
        assert_ne!(Path::new(path), place.path(), "a copy: the guest may write to it");
    });
}

#[test]
fn jailed_firecracker_finds_its_files() {
    isolated(|| async {
        let place = tempfile::tempdir().unwrap();
        let image = image(place.path(), 64);
        let vm = Vm::new("f", Kind::Firecracker).vm("image", format!("{image:?}")).hypervisor("jailer", true);
        // Releases are installed as a link to a file with the version in its name.
        let link = place.path().join("firecracker");
        symlink(vm::firecracker(), &link).unwrap();
        let mut daemon = setup().variable("FIRECRACKER_EXE", &link).function(vm.into()).start().await;
        daemon.get("/invoke/f/").await.ok();
        assert_eq!(disks(&daemon).await, [Path::new("rootfs")], "a path inside of the jail");
        assert_eq!(daemon.end().await.status.code(), Some(0));
        assert_eq!(fs::read_dir(daemon.home.path("state/instances")).unwrap().count(), 0);
    });
}

#[test]
fn copy_that_does_not_fit_is_refused() {
    isolated(|| async {
        let home = integration::Home::new();
        let image = home.path("disk.img");
        fs::write(&image, vec![7; 8 << 20]).unwrap();
        let setup = vm::prepared(Setup::at(&home)).on_a_small_disk("2m");
        for kind in KINDS {
            home.put(
                &Vm::new(&format!("large-{kind:?}").to_lowercase(), kind).vm("image", format!("{image:?}")).into(),
            );
            home.put(&Vm::new(&format!("none-{kind:?}").to_lowercase(), kind).into());
        }
        let mut daemon = setup.start().await;
        for kind in KINDS {
            let name = format!("{kind:?}").to_lowercase();
            let problem = daemon.get(&format!("/invoke/large-{name}/")).await;
            let problem = problem.problem(503, "host_saturated").to_string();
            assert!(problem.contains("disk.img") && problem.contains("No space left"), "{problem}");
            daemon.get(&format!("/invoke/none-{name}/")).await.ok();
            let large = format!("large-{name}");
            daemon.settled(&large, "gone", |function| function["instances"] == serde_json::json!([])).await;
        }
        // Firecracker's configuration is in there.
        assert_eq!(fs::read_dir(daemon.inside("state/instances")).unwrap().count(), 1);
        daemon.end().await;
        assert_eq!(vm::traces(), Vec::<String>::new());
    });
}
