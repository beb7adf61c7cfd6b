//! Problems that only this host shows: programs, users, and what a guest needs.

use std::{fs, os::unix::fs::PermissionsExt};

use super::disk::Function;
use crate::spec::{FunctionSpec, elf::tests::kernel, kernel::tests::bzimage};

fn process(keys: &str) -> Function {
    Function::with(format!("[process]\n{keys}\n"))
}

fn is_good(function: &Function) -> bool {
    FunctionSpec::check(&function.path("")).is_ok()
}

#[test]
fn a_program_has_to_be_in_path() {
    assert!(is_good(&process("command = [\"sh\", \"-c\", \"true\"]")));
    let missing = process("command = [\"no-such-program\"]");
    missing.load().unwrap();
    let said = missing.messages();
    let expected = "function.toml:2: process.command: there is no program \"no-such-program\" in PATH, which is ";
    assert!(said.starts_with(expected), "{said}");
    let own = |path: &str| process(&format!("command = [\"sh\"]\n[env]\nPATH = \"{path}\""));
    assert!(is_good(&own("/no/such:/bin")));
    let said = own("/my/secret/place").messages();
    assert_eq!(said, "function.toml:2: process.command: there is no program \"sh\" in the PATH of [env]");
}

#[test]
fn a_program_has_to_be_built_for_this_host() {
    let function = process("command = [\"./f\"]");
    let mut foreign = kernel(1);
    foreign[18] = 8;
    for (content, reason) in [
        (foreign, "is built for mips, and this host executes "),
        (b"#!/no/such/interpreter -x\n".to_vec(), "needs the interpreter /no/such/interpreter, which does not exist"),
    ] {
        function.write("f", content);
        let program = function.path("f");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let said = function.messages();
        assert!(said.starts_with(&format!("function.toml:2: process.command: \"f\" {reason}")), "{said}");
    }
}

#[test]
fn a_user_has_to_exist() {
    let user = |user: &str| process(&format!("command = [\"sh\"]\nuser = \"{user}\""));
    let said = user("no-such-user").messages();
    assert_eq!(said, "function.toml:3: process.user: there is no user \"no-such-user\" on this host");
    for good in ["root", "0", "54321"] {
        assert!(is_good(&user(good)), "{good}");
    }
}

/// Returns a guest with these keys. The first of them is in line 4.
fn guest(hypervisor: &str, keys: &str) -> Function {
    Function::with(format!("[vm]\nkernel = \"kernel\"\nhypervisor.type = \"{hypervisor}\"\n{keys}\n"))
}

#[test]
fn a_guest_that_cannot_boot_is_a_problem_of_its_key() {
    let line = "cmdline = \"%callback\"";
    let function = guest("qemu", &format!("{line}\nmemory = 64\ninitrd = \"initrd\""));
    function.write("kernel", bzimage(70 << 20));
    function.write("initrd", "");
    let expected = [
        "function.toml:5: vm.memory: 64 MiB are too few: the kernel occupies 70.0 MiB; at least 70 MiB",
        "function.toml:6: vm.initrd: \"initrd\" is empty",
    ];
    assert_eq!(function.messages(), expected.join("\n"));

    let function = guest("firecracker", &format!("cmdline = \"%callback {}\"", "x".repeat(1960)));
    function.write("kernel", kernel(1));
    let said = "function.toml:4: vm.cmdline: has at least 2016 bytes once its placeholders are replaced, and Firecracker \
        takes 2004 beside 43 that the VMM appends";
    assert_eq!(function.messages(), said);

    let function = guest("firecracker", line);
    function.write("kernel", &kernel(1)[..64]);
    let said = "function.toml:2: vm.kernel: \"kernel\" is a damaged ELF file: its program headers are missing";
    assert_eq!(function.messages(), said);
    function.write("kernel", kernel(1));
    function.load().unwrap();
}

#[test]
fn a_guest_without_a_callback_never_becomes_ready() {
    let function = guest("qemu", "cmdline = \"quiet\"");
    function.write("kernel", kernel(1));
    let said = "function.toml:4: vm.cmdline: without %callback, the guest cannot report that it is ready: add it, or set \
        `readiness`";
    assert_eq!(function.messages(), said);
    let function = Function::with(
        "readiness = \"tcp\"\n[vm]\nkernel = \"kernel\"\nhypervisor.type = \"qemu\"\ncmdline = \"quiet\"\n",
    );
    function.write("kernel", kernel(1));
    function.load().unwrap();
}

#[test]
fn firecracker_takes_no_qcow2_image() {
    let function = guest("firecracker", "cmdline = \"%callback\"\nimage = \"disk\"");
    function.write("kernel", kernel(1));
    function.write("disk", b"QFI\xfb\0\0\0\x03");
    let said = function.messages();
    assert!(said.starts_with("function.toml:5: vm.image: \"disk\" is a qcow2 image, and Firecracker"), "{said}");
    function.write("disk", "raw");
    function.load().unwrap();
}

#[test]
fn wrong_values_are_reported_once() {
    let function = guest("qemu", "memory = \"little\"\ncmdline = 7");
    function.write("kernel", bzimage(700 << 20));
    let said = function.messages();
    assert_eq!(said.lines().count(), 2, "{said}");
}
