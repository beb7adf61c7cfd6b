//! Misbehaving guests. Memory, processes and files inside a guest are its own; attacked here are console, disk, processor,
//! time, and the parsing of responses.
//!
//! Most guests are a Linux with the function under test. `isolation.rs` has what a guest reaches; `lifecycle.rs` has
//! guests that crash, exit or never call back.

use std::{fs, os::unix::fs::MetadataExt, path::PathBuf, process::Command, time::Duration};

use integration::{
    Daemon, Function, Home, Setup,
    abuse::{OF_GUESTS, check_cause, check_malformed_responses, close_listener, without_side_effects},
    linux::{self, linux},
    ms, number, processes,
    vm::{self, Kind, Vm, image, isolated, prepared, setup, traces},
    within,
};
use nix::sys::signal::Signal;
use serde_json::json;
use tempfile::TempDir;

const MIB: u64 = 1 << 20;
/// Time limit of a boot and a response under emulation, on a busy machine.
const BOOTED: Duration = Duration::from_secs(110);

/// Runs a test that needs the Linux guest in its own namespace, and checks that nothing is left there.
fn in_a_namespace<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    isolated(|| async {
        if let Some(missing) = linux::obstacle() {
            return vm::skip(&missing);
        }
        let _turn = linux::turn().await;
        test().await;
        assert_eq!(traces(), Vec::<String>::new());
    });
}

/// Runs a test with a daemon that has `bad`, and `good`, which a client uses meanwhile.
fn with<F: Future<Output = ()>>(
    bad: impl FnOnce() -> Vm + Send + 'static,
    test: impl FnOnce(Daemon) -> F + Send + 'static,
) {
    in_a_namespace(|| async {
        test(setup().function(bad().into()).function(Function::new("good")).start().await).await;
    });
}

async fn until_no_instance_is_left(daemon: &Daemon) {
    daemon.settled("bad", "no instance", |function| function["instances"] == json!([])).await;
}

/// Returns the process id of the VMM.
async fn vmm_of(daemon: &Daemon) -> u32 {
    u32::try_from(number(&daemon.instances("bad").await[0], "pid")).unwrap()
}

/// Returns the resident memory of a process in pages of 4 KiB; `None` if it has exited.
fn resident_pages(pid: u32) -> Option<u64> {
    fs::read_to_string(format!("/proc/{pid}/statm")).ok()?.split(' ').nth(1)?.parse().ok()
}

#[test]
fn malformed_responses_have_documented_status() {
    with(
        // An emulated guest may take seconds for an answer.
        || linux("bad", &[]).set("timeout", 15),
        async |daemon| {
            daemon.get("/invoke/bad/pid").await.ok();
            let wanted = |path: &str| OF_GUESTS.contains(&path);
            without_side_effects(&daemon, "good", check_malformed_responses(&daemon, "bad", wanted)).await;
        },
    );
}

#[test]
fn waits_for_late_listener() {
    with(
        || linux("bad", &["--listen-delay=600"]),
        async |daemon| {
            let reply = within(BOOTED, "an answer", daemon.get("/invoke/bad/pid")).await.ok();
            assert!(reply.took > ms(600), "{:?}", reply.took);
            assert_eq!(number(&daemon.function("bad").await, "instances_started"), 1);
        },
    );
}

#[test]
fn crash_after_callback_fails_waiting_requests() {
    with(
        || linux("bad", &["--exit-after-callback=7"]),
        async |daemon| {
            without_side_effects(&daemon, "good", async {
                let reply = daemon.get("/invoke/bad/pid").await;
                // The guest may have accepted a connection before it ended.
                let (status, code, text) = (reply.status, reply.header("x-unifaas-error"), reply.text());
                assert!(status == 502 && matches!(code.as_deref(), Some("instance_failed" | "boot_failed")), "{text}");
                check_cause(&text, "has reset itself");
                until_no_instance_is_left(&daemon).await;
                // Each request may have tried several instances, but not more than this.
                assert!(number(&daemon.function("bad").await, "instances_started") <= 4);
            })
            .await;
        },
    );
}

#[test]
fn guest_without_listener_is_replaced_without_failed_request() {
    with(
        || linux("bad", &[]),
        async |daemon| {
            daemon.get("/invoke/bad/pid").await.ok();
            without_side_effects(&daemon, "good", async {
                let first = close_listener(&daemon, "bad").await;
                for _ in 0..8 {
                    daemon.get("/invoke/bad/pid").await.ok();
                }
                assert_eq!(daemon.counter("bad", "instance_failed").await, 0);
                processes::gone(first).await;
            })
            .await;
        },
    );
}

#[test]
fn guest_memory_is_bounded() {
    with(
        || linux("bad", &[]),
        async |daemon| {
            daemon.get("/invoke/bad/pid").await.ok();
            let vmm = vmm_of(&daemon).await;
            without_side_effects(&daemon, "good", async {
                let most = async {
                    let mut most = 0;
                    while let Some(pages) = resident_pages(vmm) {
                        most = most.max(pages * 4);
                        tokio::time::sleep(ms(10)).await;
                    }
                    most
                };
                let (reply, most) = futures::join!(daemon.get("/invoke/bad/allocate?mib=400"), most);
                reply.problem(502, "instance_failed");
                // The guest's memory, translated code, and the VMM itself.
                assert!((64 << 10..(linux::MEMORY + 160) << 10).contains(&most), "{most} KiB");
                within(BOOTED, "an answer", daemon.get("/invoke/bad/pid")).await.ok();
            })
            .await;
        },
    );
}

#[test]
fn fork_bomb_stays_inside_guest() {
    with(
        || linux("bad", &[]).set("timeout", 10).ends_after(1),
        async |daemon| {
            daemon.get("/invoke/bad/pid").await.ok();
            daemon.get("/invoke/good").await.ok();
            let before = vm::processes().len();
            without_side_effects(&daemon, "good", async {
                daemon.get("/invoke/bad/bomb?ms=3000").await;
                for _ in 0..3 {
                    let reply = within(BOOTED, "an answer", daemon.get("/invoke/bad/pid")).await;
                    assert!([200, 502, 504].contains(&reply.status), "{reply:?}");
                    assert!(vm::processes().len() <= before);
                }
                until_no_instance_is_left(&daemon).await;
            })
            .await;
        },
    );
}

#[test]
fn endless_console_output_is_bounded() {
    with(
        || linux("bad", &[]).ends_after(8),
        async |daemon| {
            daemon.get("/invoke/bad/pid").await.ok();
            without_side_effects(&daemon, "good", async {
                daemon.get("/invoke/bad/flood?ms=2000").await.ok();
                for _ in 0..20 {
                    let output = daemon.instances("bad").await[0]["output"].to_string();
                    assert!(output.len() < 64 << 10, "{} bytes of output are kept", output.len());
                    tokio::time::sleep(ms(50)).await;
                }
                assert!(daemon.instances("bad").await[0]["output"].to_string().contains("fffffff"));
                until_no_instance_is_left(&daemon).await;
            })
            .await;
        },
    );
}

#[test]
fn guest_fills_only_its_disk_copy() {
    in_a_namespace(|| async {
        let home = Home::new();
        let image = image(&home.path(""), 48);
        let setup = prepared(Setup::at(&home)).function(Function::new("good"));
        let bad = linux("bad", &[]).vm("image", format!("{image:?}")).ends_after(5);
        let daemon = setup.function(bad.into()).start().await;
        daemon.get("/invoke/bad/pid").await.ok();
        without_side_effects(&daemon, "good", async {
            assert_eq!(daemon.get("/invoke/bad/fill?path=/dev/vda&mib=200").await.ok().text(), "StorageFull");
            let copy =
                fs::read_dir(home.path("state/instances")).unwrap().next().unwrap().unwrap().path().join("rootfs");
            let copy = copy.metadata().unwrap();
            assert_eq!((copy.len(), copy.blocks() * 512), (48 * MIB, 48 * MIB));
            assert_eq!(image.metadata().unwrap().blocks(), 0, "the original is not written to");
            until_no_instance_is_left(&daemon).await;
            assert_eq!(fs::read_dir(home.path("state/instances")).unwrap().count(), 0);
        })
        .await;
    });
}

#[test]
fn full_host_disk_is_write_error_in_guest() {
    in_a_namespace(|| async {
        let home = Home::new();
        let image = image(&home.path(""), 128);
        let setup = prepared(Setup::at(&home)).function(Function::new("good")).on_a_small_disk("32m");
        let bad = linux("bad", &[]).vm("image", format!("{image:?}")).ends_after(2);
        let mut daemon = setup.function(bad.into()).start().await;
        daemon.get("/invoke/bad/pid").await.ok();
        without_side_effects(&daemon, "good", async {
            let how =
                within(BOOTED, "an answer", daemon.get("/invoke/bad/fill?path=/dev/vda&mib=100")).await.ok().text();
            assert_ne!(how, "filled");
            // It continues as far as possible without a disk.
            daemon.get("/invoke/bad/pid").await.ok();
            until_no_instance_is_left(&daemon).await;
        })
        .await;
        within(BOOTED, "an answer", daemon.get("/invoke/bad/pid")).await.ok();
        assert_eq!(daemon.end().await.status.code(), Some(0));
    });
}

#[test]
fn vmm_that_ignores_signals_is_killed() {
    with(
        || linux("bad", &[]).ends_after(3),
        async |daemon| {
            daemon.get("/invoke/bad/pid").await.ok();
            let vmm = vmm_of(&daemon).await;
            processes::signal(vmm, Signal::SIGSTOP);
            without_side_effects(&daemon, "good", until_no_instance_is_left(&daemon)).await;
            assert!(!processes::exists(vmm));
        },
    );
}

/// A guest that only prints, as fast as it can. A PVH note in the ELF file is its entry point, in 32-bit mode; the bytes mean
/// the same in 64-bit mode, in which older releases of Firecracker start it.
const SCREAMS: &str = "
    .section .note.Xen, \"a\", @note
    .align 4
    .long 4, 4, 18
    .asciz \"Xen\"
    .long _start
    .text
    .code32
    .globl _start
_start:
    movw $0x3f8, %dx
1:  movl $60, %ecx
2:  movb $'!', %al
    outb %al, %dx
    loop 2b
    movb $'\\n', %al
    outb %al, %dx
    jmp 1b
";

/// Assembles and links a guest.
fn guest(directory: &TempDir, source: &str) -> PathBuf {
    let path = |name: &str| directory.path().join(name);
    fs::write(path("guest.s"), source).unwrap();
    let run = |program: &str, arguments: &[&str], from: &str, to: &str| {
        let status = Command::new(program).args(arguments).arg(path(from)).arg("-o").arg(path(to)).status();
        assert!(status.is_ok_and(|status| status.success()), "{program}");
    };
    run("as", &["--64"], "guest.s", "guest.o");
    run("ld", &["-m", "elf_x86_64", "-Ttext=0x100000"], "guest.o", "guest.elf");
    path("guest.elf")
}

#[test]
fn endless_console_output_while_booting_is_bounded() {
    isolated(|| async {
        let directory = tempfile::Builder::new().prefix("guest-").permissions(mode(0o755)).tempdir().unwrap();
        let kernel = guest(&directory, SCREAMS);
        for kind in [Kind::Microvm, Kind::Firecracker] {
            let vm = Vm::new("bad", kind).kernel(&kernel).set("boot-timeout", 6);
            let mut daemon = setup().function(vm.into()).function(Function::new("good")).start().await;
            without_side_effects(&daemon, "good", async {
                let reply = within(BOOTED, "an answer", daemon.get("/invoke/bad/")).await;
                let problem = reply.problem(504, "boot_timed_out");
                let output = problem["output"].to_string();
                assert!(output.contains("!!!!!!!!!!") && output.len() < 16 << 10, "{kind:?}: {output}");
                daemon.settled("bad", "no instance", |function| function["instances"] == json!([])).await;
            })
            .await;
            daemon.end().await;
            assert_eq!(traces(), Vec::<String>::new(), "{kind:?}");
        }
    });
}

fn mode(bits: u32) -> fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(bits)
}
