//! Root disks: private copies, shared disks, and no leftovers.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use integration::{
    Daemon, SOON, Setup, eventually,
    firecracker::Firecracker,
    vm::{self, KINDS, Kind, Vm, image, isolated, setup},
};

const MIB: u64 = 1 << 20;

/// Device and inode of a file.
type FileId = (u64, u64);

fn id(path: &Path) -> FileId {
    let metadata = path.metadata().unwrap();
    (metadata.dev(), metadata.ino())
}

/// Returns the files and directories that the VMM of each instance holds open.
async fn open_files(daemon: &Daemon) -> Vec<Vec<FileId>> {
    let instances = daemon.instances("f").await;
    let pids = instances.iter().map(|instance| instance["pid"].as_u64().unwrap());
    let files = |pid| fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    // Some descriptors are closed meanwhile.
    let ids = |pid| files(pid).filter(|file| file.path().metadata().is_ok()).map(|file| id(&file.path())).collect();
    pids.map(ids).collect()
}

/// Returns the copies of root disks, wherever they are in the directory of an instance.
pub(super) fn copies(daemon: &Daemon) -> Vec<PathBuf> {
    fn search(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if entry.file_name() == "rootfs" && !kind.is_symlink() => found.push(entry.path()),
                Ok(kind) if kind.is_dir() => search(&entry.path(), found),
                _ => {}
            }
        }
    }
    let mut found = Vec::new();
    search(&daemon.home.path("state/instances"), &mut found);
    found
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
            let (copies, open) = (copies(&daemon), open_files(&daemon).await);
            assert_eq!((copies.len(), open.len()), (2, 2), "{kind:?}");
            for copy in &copies {
                let metadata = copy.metadata().unwrap();
                assert_eq!(metadata.len(), 64 * MIB);
                assert!(metadata.blocks() * 512 < MIB, "the copy is not sparse");
                let users = open.iter().filter(|files| files.contains(&id(copy))).count();
                assert_eq!(users, 1, "{kind:?}: {} is not the disk of one instance", copy.display());
            }
            assert!(!open.iter().any(|files| files.contains(&id(&image))), "{kind:?}: the image itself is open");
            daemon.home.remove("f");
            let left = async || copies.iter().filter(|copy| copy.exists()).collect::<Vec<_>>();
            eventually(SOON, "the copies are removed", left, Vec::is_empty).await;
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
            let open = open_files(&daemon).await;
            assert!(open.len() == 2 && open.iter().all(|files| files.contains(&id(&image))), "{kind:?}");
            assert_eq!(copies(&daemon), Vec::<PathBuf>::new(), "{kind:?}");
        }
    });
}

#[test]
fn writable_disk_without_a_copy_has_one_guest() {
    isolated(|| async {
        let place = tempfile::tempdir().unwrap();
        let image = image(place.path(), 64);
        let vm = |name: &str| {
            let vm = Vm::new(name, Kind::Firecracker).vm("image", format!("{image:?}"));
            vm.hypervisor("copy-rootfs", false)
        };
        let setup = setup().function(vm("f").set("max-instances", 1).into());
        let setup = setup.function(vm("other").set("max-instances", 1).into()).function(vm("several").into());
        let daemon = setup.start().await;
        daemon.get("/invoke/f/").await.ok();
        assert!(open_files(&daemon).await[0].contains(&id(&image)));
        let refused = daemon.get("/invoke/other/").await;
        let problem = refused.problem(503, "host_saturated").to_string();
        assert!(problem.contains("another instance writes to the root disk"), "{problem}");
        let problem = daemon.get("/invoke/several/").await.problem(500, "function_misconfigured").to_string();
        assert!(problem.contains("vm.hypervisor.copy-rootfs"), "{problem}");
        daemon.home.remove("f");
        // The disk is free again.
        daemon.answers("/invoke/other/", 200).await;
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
        let [copy] = &copies(&daemon)[..] else { panic!("not one copy: {:?}", copies(&daemon)) };
        assert_eq!(fs::read_to_string(copy.join("file")).unwrap(), "content");
        let open = open_files(&daemon).await;
        assert!(open[0].contains(&id(copy)) && !open[0].contains(&id(place.path())), "the guest may write to a copy");
    });
}

/// Returns the names that jailers have to cope with: releases are installed as a link to a file with the version in its
/// name, and releases up to 1.12 refuse names without "firecracker".
fn installations(place: &Path) -> [PathBuf; 2] {
    let Firecracker { program, .. } = Firecracker::chosen();
    let (link, renamed) = (place.join("firecracker"), place.join("fc-1.12"));
    symlink(&program, &link).unwrap();
    fs::copy(&program, &renamed).unwrap();
    [link, renamed]
}

#[test]
fn jailed_firecracker_finds_its_files() {
    isolated(|| async {
        let place = tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o755)).tempdir().unwrap();
        let image = image(place.path(), 64);
        for (program, read_only) in installations(place.path()).into_iter().zip([false, true]) {
            let vm = Vm::new("f", Kind::Firecracker).vm("image", format!("{image:?}")).hypervisor("jailer", true);
            let vm = vm.hypervisor("read-only", read_only);
            let mut daemon = setup().variable("FIRECRACKER_EXE", &program).function(vm.into()).start().await;
            daemon.get("/invoke/f/").await.ok();
            let [copy] = &copies(&daemon)[..] else { panic!("not one copy: {:?}", copies(&daemon)) };
            assert!(open_files(&daemon).await[0].contains(&id(copy)), "the disk is not the one in the jail");
            let config = fs::read_to_string(copy.parent().unwrap().join("config.json")).unwrap();
            let config: serde_json::Value = serde_json::from_str(&config).unwrap();
            assert_eq!(config["drives"][0]["is_read_only"], read_only);
            assert_eq!(daemon.end().await.status.code(), Some(0));
            assert_eq!(fs::read_dir(daemon.home.path("state/instances")).unwrap().count(), 0);
        }
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
