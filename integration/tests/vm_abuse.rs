//! Guests that mean harm. A machine has no more memory, disk and processors than it was given; what is left to abuse is its
//! console, the processor, and everybody's time.
//!
//! What a guest reaches is in `vm_walls.rs`, one that crashes, ends or never calls back in `vm_life.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::{fs, path::PathBuf, process::Command, time::Duration};

use integration::{
    Function,
    abuse::unnoticed,
    vm::{Kind, Vm, isolated, setup, traces},
    within,
};
use serde_json::json;
use tempfile::TempDir;

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
        unnoticed(&daemon, "good", async {
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
