//! What a guest cannot boot with is named by `unifaas check`, and by a start in the same words, not by a boot that times out.

use std::{fs, path::Path};

use integration::{
    Function, Home, SOON, Setup, linux, unifaas,
    vm::{self, KINDS, Kind, Vm, isolated, prepared, setup, taps, unikernel},
};
use tempfile::TempDir;
use tokio::process::Command;

/// Returns a directory that every user can read.
fn place() -> TempDir {
    let public = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    tempfile::Builder::new().permissions(public).tempdir().unwrap()
}

/// Returns the problems of a function in a registry of its own, without the name of the file.
async fn check(function: Function) -> String {
    let home = Home::new();
    home.put(&function);
    let output = Command::new(unifaas()).arg("check").arg("-r").arg(home.registry()).output().await.unwrap();
    assert!(!output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn zeros(path: &Path, mib: u64) {
    fs::File::create(path).unwrap().set_len(mib << 20).unwrap();
}

#[test]
fn check_knows_what_the_guest_needs() {
    isolated(|| async {
        let place = place();
        let [empty, large, cut] = ["empty", "large", "cut"].map(|name| place.path().join(name));
        zeros(&empty, 0);
        zeros(&large, 64);
        fs::write(&cut, &fs::read(unikernel()).unwrap()[..4096]).unwrap();
        for kind in KINDS {
            let vm = || Vm::new("f", kind);
            for (vm, expected) in [
                (vm().memory(1), "vm.memory: 1 MiB are too few: the kernel occupies "),
                (vm().vm("initrd", format!("{empty:?}")), "empty\" is empty"),
                (vm().vm("initrd", format!("{large:?}")), ", and the initrd has 64.0 MiB; at least "),
                (vm().kernel(&cut), "cut\" is a damaged ELF file: its segments reach beyond its end"),
            ] {
                let said = check(vm.into()).await;
                assert!(said.contains(expected), "{kind:?}: {said}");
            }
        }
    });
}

#[test]
fn least_memory_of_linux_is_what_it_boots_with() {
    isolated(|| async {
        if let Some(missing) = linux::obstacle() {
            return vm::skip(&missing);
        }
        let _turn = linux::turn().await;
        let said = check(linux::linux("f", &[]).memory(32).into()).await;
        let least: u64 = said.split("at least ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok()).unwrap();
        // The kernel unpacks itself there; what follows needs some more.
        let daemon = setup().function(linux::linux("f", &[]).memory(least + 12).into()).start().await;
        daemon.get("/invoke/f/pid").await.ok();
        assert!(check(linux::linux("f", &[]).memory(least - 1).into()).await.contains("vm.memory"));
    });
}

#[test]
fn files_that_changed_since_are_named_by_the_start() {
    isolated(|| async {
        let place = place();
        let [kernel, initrd] = ["kernel", "initrd"].map(|name| place.path().join(name));
        for kind in KINDS {
            fs::copy(unikernel(), &kernel).unwrap();
            zeros(&initrd, 1);
            let vm = Vm::new("f", kind).kernel(&kernel).vm("initrd", format!("{initrd:?}")).set("single-use", true);
            let daemon = setup().function(vm.into()).start().await;
            daemon.get("/invoke/f/").await.ok();
            let refused = async || daemon.get("/invoke/f/").await.problem(502, "start_failed").to_string();
            zeros(&initrd, 0);
            assert!(refused().await.contains("vm.initrd: "), "{kind:?}");
            zeros(&initrd, 64);
            assert!(refused().await.contains("vm.memory: 32 MiB are too few"), "{kind:?}");
            zeros(&initrd, 1);
            fs::write(&kernel, &fs::read(unikernel()).unwrap()[..64]).unwrap();
            let problem = refused().await;
            assert!(
                problem.contains("vm.kernel: ") && problem.contains("its program headers are missing"),
                "{problem}"
            );
        }
    });
}

/// The shortest addresses fit, those of this guest do not.
#[test]
fn command_line_is_measured_with_its_values() {
    isolated(|| async {
        let home = Home::new();
        let line = |length: usize| {
            let line = "ip=%ip gw=%gateway mask=%netmask callback=%callback";
            // With the shortest values.
            let shortest = "ip=1.0.0.1 gw=1.0.0.1 mask=255.255.255.252 callback=".len() + 55;
            format!("{line} {}", "x".repeat(length - shortest - 1))
        };
        let room = 2047 - " pci=off virtio_mmio.device=4K@0xc0001000:5".len();
        home.put(&Vm::new("long", Kind::Firecracker).cmdline(&line(room)).into());
        home.put(&Vm::new("longer", Kind::Firecracker).cmdline(&line(room + 1)).into());
        home.put(&Vm::new("short", Kind::Firecracker).cmdline(&line(room - 60)).into());
        let daemon = prepared(Setup::at(&home)).start().await;
        let problem = daemon.get("/invoke/long/").await.problem(502, "start_failed").to_string();
        assert!(problem.contains("vm.cmdline: has 20") && problem.contains("Firecracker takes 2004"), "{problem}");
        daemon.get("/invoke/longer/").await.problem(500, "function_misconfigured");
        daemon.get("/invoke/short/").await.ok();
        let what = "the tap of the failed start is in the pool";
        integration::eventually(SOON, what, async || taps(), |taps| taps.len() <= 5).await;
    });
}

#[test]
fn output_is_the_guest_s_alone() {
    isolated(|| async {
        let daemon = vm::daemon(Vm::new("f", Kind::Firecracker)).await;
        daemon.get("/invoke/f/").await.ok();
        let output = daemon.instances("f").await[0]["output"].clone();
        let lines = output.as_array().unwrap().iter().filter(|line| line["stream"] != "platform");
        let lines: Vec<_> = lines.filter_map(|line| line["text"].as_str()).collect();
        let is_guest = |line: &&str| line.starts_with("unikernel: ");
        assert!(!lines.is_empty() && lines.iter().all(is_guest), "{lines:?}");
    });
}

#[test]
fn errors_of_firecracker_are_readable() {
    isolated(|| async {
        let broken = tempfile::tempdir().unwrap();
        let program = broken.path().join("firecracker");
        // What Firecracker prints when it cannot open its tap.
        let script = "#!/bin/sh\n\
            echo \"2026-11-29T18:24:00.1 [$2:main] RunWithoutApiError error: Failed to build MicroVM from Json: no tap\"\n\
            echo 'Error: RunWithoutApiError(BuildMicroVMFromJson(NoTap))' >&2\n\
            echo \"2026-11-29T18:24:00.1 [$2:main] Firecracker exiting with error. exit_code=1\"\nexit 1\n";
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let setup = setup().variable("FIRECRACKER_EXE", &program);
        let daemon = setup.function(Vm::new("f", Kind::Firecracker).into()).start().await;
        let problem = daemon.get("/invoke/f/").await.problem(502, "boot_failed").to_string();
        let said = "Firecracker exited with status 1: Failed to build MicroVM from Json: no tap";
        assert!(problem.contains(said), "{problem}");
    });
}
