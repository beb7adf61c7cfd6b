//! Guests that mean harm. What one does to its own machine is its own affair: memory, processes, files. To abuse there are
//! its console, its disk, the processor, everybody's time, and the daemon's trust in what it answers.
//!
//! Most of them are a Linux with the function under test, as processes (`abuse.rs`) and containers (`containers/abuse.rs`)
//! are. What a guest reaches is in `vm_walls.rs`, one that crashes, ends or never calls back in `vm_life.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::{fs, os::unix::fs::MetadataExt, path::PathBuf, process::Command, time::Duration};

use integration::{
    Daemon, Function, Home, Setup,
    abuse::{check_malformed_responses, without_side_effects},
    eventually,
    linux::{self, linux},
    ms, number, processes,
    vm::{self, Kind, Vm, image, isolated, prepared, setup, traces},
    within,
};
use nix::sys::signal::Signal;
use serde_json::json;
use tempfile::TempDir;

const MIB: u64 = 1 << 20;
/// A boot where instructions are emulated and others boot as well, and an answer.
const SOON: Duration = Duration::from_secs(30);

/// A test for which there has to be the Linux guest, in a namespace of its own. Afterwards nothing is left there.
fn in_a_namespace<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    isolated(|| async {
        if let Some(missing) = linux::obstacle() {
            return vm::skip(&missing);
        }
        test().await;
        assert_eq!(traces(), Vec::<String>::new());
    });
}

/// A test with a daemon that has `bad`, as it is described, and `good`, which somebody uses meanwhile.
fn with<F: Future<Output = ()>>(
    bad: impl FnOnce() -> Vm + Send + 'static,
    test: impl FnOnce(Daemon) -> F + Send + 'static,
) {
    in_a_namespace(|| async {
        test(setup().function(bad().into()).function(Function::new("good")).start().await).await;
    });
}

async fn until_none_is_left(daemon: &Daemon) {
    daemon.settled("bad", "no instance", |function| function["instances"] == json!([])).await;
}

/// The process id of the machine monitor.
async fn monitor(daemon: &Daemon) -> u32 {
    u32::try_from(number(&daemon.instances("bad").await[0], "pid")).unwrap()
}

/// What a process has in memory, in pages of 4 KiB; none, if it has just ended.
fn resident_pages(pid: u32) -> Option<u64> {
    fs::read_to_string(format!("/proc/{pid}/statm")).ok()?.split(' ').nth(1)?.parse().ok()
}

#[test]
fn answers_that_are_none_have_the_right_status_and_harm_nobody() {
    with(
        || linux("bad", &[]).set("timeout", 2).set("boot-timeout", 60),
        async |daemon| {
            daemon.get("/invoke/bad/pid").await.ok();
            without_side_effects(&daemon, "good", check_malformed_responses(&daemon, "bad")).await;
        },
    );
}

#[test]
fn a_guest_that_listens_late_is_waited_for() {
    with(
        || linux("bad", &["--listen-delay=600"]),
        async |daemon| {
            let reply = within(SOON, "an answer", daemon.get("/invoke/bad/pid")).await.ok();
            assert!(reply.took > ms(600), "{:?}", reply.took);
            assert_eq!(number(&daemon.function("bad").await, "instances_started"), 1);
        },
    );
}

#[test]
fn a_guest_that_calls_back_and_dies_is_told_to_those_who_waited_for_it() {
    with(
        || linux("bad", &["--exit-after-callback=7"]).set("timeout", 5),
        async |daemon| {
            without_side_effects(&daemon, "good", async {
                let reply = within(Duration::from_secs(60), "an answer", daemon.get("/invoke/bad/pid")).await;
                let problem = reply.problem(502, "instance_failed").to_string();
                assert!(problem.contains("could not connect") || problem.contains("has reset itself"), "{problem}");
                until_none_is_left(&daemon).await;
                // A request may have tried some, not more than that.
                assert!(number(&daemon.function("bad").await, "instances_started") <= 4);
            })
            .await;
        },
    );
}

#[test]
fn a_guest_that_closes_its_socket_loses_its_place_and_no_request() {
    with(
        || linux("bad", &[]),
        async |daemon| {
            daemon.get("/invoke/bad/deaf").await.ok();
            let first = monitor(&daemon).await;
            without_side_effects(&daemon, "good", async {
                for _ in 0..8 {
                    daemon.get("/invoke/bad/pid").await.ok();
                }
                assert_eq!(daemon.counter("bad", "instance_failed").await, 0);
                eventually(SOON, "it is gone", async || (!processes::exists(first)).then_some(())).await;
            })
            .await;
        },
    );
}

#[test]
fn a_guest_that_eats_memory_has_what_its_file_says_and_the_next_request_is_served() {
    with(
        || linux("bad", &[]),
        async |daemon| {
            daemon.get("/invoke/bad/pid").await.ok();
            let monitor = monitor(&daemon).await;
            without_side_effects(&daemon, "good", async {
                let most = async {
                    let mut most = 0;
                    while let Some(pages) = resident_pages(monitor) {
                        most = most.max(pages * 4);
                        tokio::time::sleep(ms(10)).await;
                    }
                    most
                };
                let (reply, most) = futures::join!(daemon.get("/invoke/bad/allocate?mib=400"), most);
                reply.problem(502, "instance_failed");
                // Its memory, that of the translated code, and of the machine monitor itself.
                assert!((64 << 10..(linux::MEMORY + 160) << 10).contains(&most), "{most} KiB");
                within(SOON, "an answer", daemon.get("/invoke/bad/pid")).await.ok();
            })
            .await;
        },
    );
}

#[test]
fn a_fork_bomb_stays_inside() {
    with(
        || linux("bad", &[]).set("timeout", 3).set("keepalive", 1),
        async |daemon| {
            daemon.get("/invoke/bad/pid").await.ok();
            daemon.get("/invoke/good").await.ok();
            let before = vm::processes().len();
            without_side_effects(&daemon, "good", async {
                daemon.get("/invoke/bad/bomb?ms=3000").await;
                for _ in 0..3 {
                    let reply = within(SOON, "an answer", daemon.get("/invoke/bad/pid")).await;
                    assert!([200, 502, 504].contains(&reply.status), "{reply:?}");
                    assert!(vm::processes().len() <= before);
                }
                until_none_is_left(&daemon).await;
            })
            .await;
        },
    );
}

#[test]
fn a_console_without_end_is_kept_within_bounds() {
    with(
        || linux("bad", &[]).set("keepalive", 3),
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
                until_none_is_left(&daemon).await;
            })
            .await;
        },
    );
}

#[test]
fn a_guest_fills_its_own_copy_of_the_disk_and_not_more() {
    in_a_namespace(|| async {
        let home = Home::new();
        let image = image(&home.path(""), 48);
        let setup = prepared(Setup::at(&home)).function(Function::new("good"));
        let bad = linux("bad", &[]).vm("image", format!("{image:?}")).set("keepalive", 2);
        let daemon = setup.function(bad.into()).start().await;
        daemon.get("/invoke/bad/pid").await.ok();
        without_side_effects(&daemon, "good", async {
            assert_eq!(daemon.get("/invoke/bad/fill?path=/dev/vda&mib=200").await.ok().text(), "StorageFull");
            let copy =
                fs::read_dir(home.path("state/instances")).unwrap().next().unwrap().unwrap().path().join("rootfs");
            let copy = copy.metadata().unwrap();
            assert_eq!((copy.len(), copy.blocks() * 512), (48 * MIB, 48 * MIB));
            assert_eq!(image.metadata().unwrap().blocks(), 0, "the original is not written to");
            until_none_is_left(&daemon).await;
            assert_eq!(fs::read_dir(home.path("state/instances")).unwrap().count(), 0);
        })
        .await;
    });
}

#[test]
fn a_guest_that_fills_the_disk_of_the_daemon_is_told_so_and_others_go_on() {
    in_a_namespace(|| async {
        let home = Home::new();
        let image = image(&home.path(""), 128);
        let setup = prepared(Setup::at(&home)).function(Function::new("good")).on_a_small_disk("32m");
        let bad = linux("bad", &[]).vm("image", format!("{image:?}")).set("keepalive", 2);
        let mut daemon = setup.function(bad.into()).start().await;
        daemon.get("/invoke/bad/pid").await.ok();
        without_side_effects(&daemon, "good", async {
            let how = within(SOON, "an answer", daemon.get("/invoke/bad/fill?path=/dev/vda&mib=100")).await.ok().text();
            assert_ne!(how, "filled");
            // It goes on, as far as it can do without a disk.
            daemon.get("/invoke/bad/pid").await.ok();
            until_none_is_left(&daemon).await;
        })
        .await;
        within(SOON, "an answer", daemon.get("/invoke/bad/pid")).await.ok();
        assert_eq!(daemon.end().await.status.code(), Some(0));
    });
}

#[test]
fn a_machine_monitor_that_hears_no_signal_is_killed() {
    with(
        || linux("bad", &[]).set("keepalive", 1),
        async |daemon| {
            daemon.get("/invoke/bad/pid").await.ok();
            let monitor = monitor(&daemon).await;
            processes::signal(monitor, Signal::SIGSTOP);
            without_side_effects(&daemon, "good", until_none_is_left(&daemon)).await;
            assert!(!processes::exists(monitor));
        },
    );
}

/// A guest that does nothing but print, as fast as it can. It is entered like any other, by a note in its file.
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

/// Assembles a guest.
fn guest(directory: &TempDir, source: &str) -> PathBuf {
    let path = |name: &str| directory.path().join(name);
    fs::write(path("guest.s"), source).unwrap();
    let run = |program: &str, arguments: &[&str], from: &str, to: &str| {
        let status = Command::new(program).args(arguments).arg(path(from)).arg("-o").arg(path(to)).status();
        assert!(status.is_ok_and(|status| status.success()), "{program}");
    };
    run("as", &["--32"], "guest.s", "guest.o");
    run("ld", &["-m", "elf_i386", "-Ttext=0x100000"], "guest.o", "guest.elf");
    path("guest.elf")
}

#[test]
fn a_guest_that_prints_without_end_boots_in_vain_while_nobody_notices() {
    isolated(|| async {
        let directory = tempfile::Builder::new().prefix("guest-").permissions(mode(0o755)).tempdir().unwrap();
        let vm = Vm::new("bad", Kind::Microvm).kernel(&guest(&directory, SCREAMS)).set("boot-timeout", 4);
        let mut daemon = setup().function(vm.into()).function(Function::new("good")).start().await;
        without_side_effects(&daemon, "good", async {
            let reply = within(Duration::from_secs(10), "an answer", daemon.get("/invoke/bad/")).await;
            let problem = reply.problem(504, "boot_timed_out");
            let output = problem["output"].to_string();
            assert!(output.contains("!!!!!!!!!!") && output.len() < 16 << 10, "{output}");
            daemon.settled("bad", "no instance", |function| function["instances"] == json!([])).await;
        })
        .await;
        daemon.end().await;
        assert_eq!(traces(), Vec::<String>::new());
    });
}

fn mode(bits: u32) -> fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(bits)
}
