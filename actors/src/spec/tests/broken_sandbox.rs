//! Messages about invalid `[process]`, `[container]` and `[vm]` tables.

use super::{
    broken::{CONTAINER, PROCESS, VM, check_messages, messages, refused},
    parse,
};

#[test]
fn a_function_has_exactly_one_sandbox() {
    let none = " what is an instance? Exactly one of [process], [container] and [vm] has to say it";
    let cases = [
        ("keepalive = 1", none),
        ("# nothing\n", none),
        ("", " the file is empty"),
        (" \n\t\n", " the file is empty"),
        ("container = 1", "1: container: expected a table, found the integer 1"),
        ("[[container]]\nimage = \"i\"", "1: container: expected a table, found an array"),
    ];
    check_messages("", "", &cases);
    let rule = "a function has exactly one of [process], [container] and [vm], and there is";
    assert_eq!(messages(&format!("{CONTAINER}{PROCESS}")), format!("3: process: {rule} [container] already"));
    let three = messages(&format!("{VM}{PROCESS}{CONTAINER}"));
    assert_eq!(three, format!("4: process: {rule} [vm] already\n6: container: {rule} [vm] already"));
}

#[test]
fn names_the_problems_of_a_process() {
    let cases = [
        ("", "1: process.command: is required"),
        ("command = []", "2: process.command: expected at least one string, found an empty array"),
        ("command = [\"\"]", "2: process.command: the first element must not be empty"),
        ("command = [\"f\", 8]", "2: process.command: expected an array of strings, element 1 is the integer 8"),
        ("command = [\"f\", \"\\u0000\"]", "2: process.command: element 1 must not contain a NUL character"),
    ];
    check_messages("[process]\n", "", &cases);
    refused("[process]\n", "process.", "an array of strings", &[("command = \"f\"", "the string \"f\"")]);
    refused(PROCESS, "process.", "an integer from 1 to 16777216 (MiB)", &[("memory = 0", "the integer 0")]);
    refused(PROCESS, "process.", "a string", &[("user = 1000", "the integer 1000")]);
    refused(PROCESS, "process.", "a word without white space", &[("user = \"\"", "the string \"\"")]);
    let users = [("user = \"a:b\"", "the string \"a:b\""), ("user = \"4294967295\"", "the string \"4294967295\"")];
    refused(PROCESS, "process.", "the name or numeric id of a user", &users);
    let reason = "every instance of a [process] gets a port of its own, as %port and PORT: leave this out";
    assert_eq!(messages(&format!("port = 8080\n{PROCESS}")), format!("1: port: {reason}"));
}

#[test]
fn names_the_problems_of_a_container() {
    let cases = [
        ("", "1: container.image: is required"),
        ("image = 7", "2: container.image: expected a string, found the integer 7"),
        ("image = \"i\"\nnetwork = \"a\\u0000\"", "3: container.network: must not contain a NUL character"),
        ("image = \"i\"\ncommand = [\"\"]", "3: container.command: the first element must not be empty"),
    ];
    check_messages("[container]\n", "", &cases);
    let words = [("image = \"\"", "the string \"\""), ("image = \"a b\"", "the string \"a b\"")];
    refused("[container]\n", "container.", "a word without white space", &words);
    refused(CONTAINER, "container.", "a word without white space", &[("runtime = \"\\n\"", "the string \"\\n\"")]);
    let sizes = [
        ("memory = 5", "the integer 5"),
        ("memory = 16777217", "the integer 16777217"),
        ("memory = 128.0", "the float 128.0"),
        ("memory = \"1G\"", "the string \"1G\""),
    ];
    refused(CONTAINER, "container.", "an integer from 6 to 16777216 (MiB)", &sizes);
    let cpus = [("cpus = 0", "the integer 0"), ("cpus = -1.5", "the float -1.5"), ("cpus = nan", "the float nan")];
    refused(CONTAINER, "container.", "a number of CPUs from 0.01 to 1024", &cpus);
    refused(PROCESS, "process.", "a number of CPUs from 0.01 to 1024", &cpus);
    let networks =
        [("network = \"container:x\"", "the string \"container:x\""), ("network = \"..\"", "the string \"..\"")];
    refused(CONTAINER, "container.", "the name of a network of the engine", &networks);
}

#[test]
fn names_the_problems_of_a_container_s_confinement() {
    let pids = [("pids-limit = 0", "the integer 0"), ("pids-limit = -1", "the integer -1")];
    refused(CONTAINER, "container.", "an integer from 1 to 4194304 (processes and threads)", &pids);
    refused(PROCESS, "process.", "an integer from 1 to 4194304 (processes and threads)", &pids);
    let files = [("file-size = 0", "the integer 0"), ("file-size = \"1G\"", "the string \"1G\"")];
    refused(CONTAINER, "container.", "an integer from 1 to 1048576 (MiB)", &files);
    refused(PROCESS, "process.", "an integer from 1 to 1048576 (MiB)", &files);
    let logs = [("log-size = 0", "the integer 0"), ("log-size = 1025", "the integer 1025")];
    refused(CONTAINER, "container.", "an integer from 1 to 1024 (MiB)", &logs);
    refused(CONTAINER, "container.", "\"never\" or \"missing\"", &[("pull = \"always\"", "the string \"always\"")]);
    for key in ["no-new-privileges", "read-only", "init"] {
        refused(CONTAINER, "container.", "true or false", &[(&format!("{key} = 1"), "the integer 1")]);
    }
    let cases = [
        ("capabilities = [\"SYS ADMIN\"]", "Linux has no capability \"SYS ADMIN\"; did you mean \"SYS_ADMIN\"?"),
        (
            "capabilities = [\"KILL\", \"NET_BND\"]",
            "Linux has no capability \"NET_BND\"; did you mean \"NET_BIND_SERVICE\"?",
        ),
        ("capabilities = [\"cap_net_rw\"]", "Linux has no capability \"cap_net_rw\"; did you mean \"NET_RAW\"?"),
        ("capabilities = \"ALL\"", "expected an array of strings, found the string \"ALL\""),
    ];
    for (entry, message) in cases {
        assert_eq!(messages(&format!("{CONTAINER}{entry}")), format!("3: container.capabilities: {message}"));
    }
    let unlike = messages(&format!("{CONTAINER}capabilities = [\"cap_\"]"));
    assert!(unlike.contains("no capability \"cap_\"; known: ALL, AUDIT_CONTROL, "), "{unlike}");
}

#[test]
fn names_the_problems_of_a_vm() {
    refused(VM, "vm.", "an integer from 1 to 16777216 (MiB)", &[("memory = 0", "the integer 0")]);
    let cpus = [("cpus = 0", "the integer 0"), ("cpus = 33", "the integer 33"), ("cpus = 0.5", "the float 0.5")];
    refused(VM, "vm.", "an integer from 1 to 32 (virtual CPUs)", &cpus);
    refused(VM, "vm.", "a path", &[("image = \"\"", "the string \"\"")]);
    refused(VM, "vm.", "a string", &[("initrd = []", "an array"), ("cmdline = 1", "the integer 1")]);
    refused(VM, "vm.", "\"tap\" or \"user\"", &[("network = \"bridge\"", "the string \"bridge\"")]);
    let no_user = "4: vm.network: Firecracker has no user-mode network: \"user\" is for types \"qemu\" and \"microvm\"";
    check_messages(&VM.replace("qemu", "firecracker"), "", &[("network = \"user\"", no_user)]);
    let homes = "a hypervisor of type \"qemu\" or a hypervisor of type \"microvm\"";
    let misplaced = format!("4: vm.disk-type: unknown key in [vm]; it belongs to {homes}");
    let no_env = "4: env: a [vm] gets nothing but its kernel command line: pass values in vm.cmdline";
    let cases = [
        ("cmdline = \"a\\u0000b\"", "4: vm.cmdline: must not contain a NUL character"),
        ("disk-type = \"9p\"", &misplaced),
        ("[env]\nA = \"b\"", no_env),
    ];
    check_messages(VM, "", &cases);
    let cases = [
        ("hypervisor.type = \"qemu\"", "1: vm.kernel: is required"),
        ("kernel = \"k\"", "1: vm.hypervisor: is required"),
    ];
    check_messages("[vm]\n", "", &cases);
    refused("[vm]\nkernel = \"k\"\n", "vm.", "a table", &[("hypervisor = \"qemu\"", "the string \"qemu\"")]);
}

/// Returns a VM with a hypervisor of that type. The next line is the sixth.
fn with_hypervisor(kind: &str) -> String {
    format!("[vm]\nkernel = \"k\"\nimage = \"i\"\n[vm.hypervisor]\ntype = \"{kind}\"\n")
}

#[test]
fn names_the_problems_of_a_hypervisor() {
    let typeless = "[vm]\nkernel = \"k\"\n[vm.hypervisor]\n";
    let types = [("type = \"xen\"", "the string \"xen\""), ("type = 1", "the integer 1")];
    refused(typeless, "vm.hypervisor.", "\"firecracker\", \"qemu\" or \"microvm\"", &types);
    assert_eq!(messages(typeless), "3: vm.hypervisor.type: is required");

    let qemu = with_hypervisor("qemu");
    refused(&qemu, "vm.hypervisor.", "\"block\" or \"9p\"", &[("disk-type = \"scsi\"", "the string \"scsi\"")]);
    refused(&qemu, "vm.hypervisor.", "\"auto\", \"kvm\" or \"tcg\"", &[("accel = \"KVM\"", "the string \"KVM\"")]);
    refused(&qemu, "vm.hypervisor.", "\"pc\" or \"q35\"", &[("machine = \"arm\"", "the string \"arm\"")]);
    refused(&qemu, "vm.hypervisor.", "an array of strings", &[("args = \"-s\"", "the string \"-s\"")]);
    refused(&with_hypervisor("microvm"), "vm.hypervisor.", "true or false", &[("pit = \"off\"", "the string \"off\"")]);
    let nested = "6: vm.hypervisor.args: expected an array of strings, element 0 is an array";
    check_messages(&qemu, "", &[("args = [[]]", nested)]);

    let both = "a read-only root disk is shared, not copied: read-only and this exclude each other";
    let expected = format!("6: vm.hypervisor.copy-rootfs: {both}");
    check_messages(&with_hypervisor("firecracker"), "", &[("copy-rootfs = true\nread-only = true", &expected)]);
    let jailed = "a jail contains its own copy of the root disk: jailer = true and this exclude each other";
    let expected = format!("6: vm.hypervisor.copy-rootfs: {jailed}");
    check_messages(&with_hypervisor("firecracker"), "", &[("copy-rootfs = false\njailer = true", &expected)]);
}

#[test]
fn writable_disk_is_shared_by_one_instance_only() {
    let shared = format!("{}copy-rootfs = false\n", with_hypervisor("firecracker"));
    let rule = "without a copy, all instances would write to one disk: set read-only = true, or max-instances = 1";
    for most in ["", "max-instances = 2\n"] {
        let line = 6 + most.lines().count();
        let expected = format!("{line}: vm.hypervisor.copy-rootfs: {rule}");
        assert_eq!(messages(&format!("{most}{shared}")), expected);
    }
    for good in [format!("max-instances = 1\n{shared}"), format!("{shared}read-only = true\n")] {
        super::good(&good);
    }
}

#[test]
fn words_that_look_like_placeholders_are_problems() {
    let cases = [
        (
            "[process]\ncommand = [\"f\", \"--url=%calback\"]",
            "2: process.command: %calback is no placeholder; did you mean %callback?",
        ),
        (
            "[process]\ncommand = [\"f\", \"%gateway\"]",
            "2: process.command: %gateway is not replaced here: only %callback, %ip, %port and %unifaas are",
        ),
        (
            "[container]\nimage = \"i\"\ncommand = [\"%unifaas\"]",
            "3: container.command: %unifaas is not replaced here: only %callback, %ip and %port are",
        ),
        (
            "[vm]\nkernel = \"k\"\nhypervisor.type = \"qemu\"\ncmdline = \"ip=%ip mac=%mac\"",
            "4: vm.cmdline: %mac is no placeholder: there are %callback, %gateway, %ip and %netmask",
        ),
    ];
    check_messages("", "", &cases);
}

#[test]
fn each_hypervisor_type_has_its_own_keys() {
    for (kind, key, hint) in [
        ("qemu", "copy-rootfs", "it belongs to a hypervisor of type \"firecracker\""),
        ("qemu", "pit", "it belongs to a hypervisor of type \"microvm\""),
        ("microvm", "copy-rootfs", "it belongs to a hypervisor of type \"firecracker\""),
        ("firecracker", "acell", "known there: type, copy-rootfs, read-only, jailer"),
        ("microvm", "auto-kernel-comandline", "did you mean `auto-kernel-cmdline`?"),
    ] {
        let message = messages(&format!("{}{key} = true", with_hypervisor(kind)));
        let expected = format!("6: vm.hypervisor.{key}: unknown key in a hypervisor of type \"{kind}\"; {hint}");
        assert_eq!(message, expected);
    }
}

#[test]
fn disk_options_need_an_image() {
    let no_disk = "there is no root disk: vm.image is not given";
    for (kind, key, value, reason) in [
        ("qemu", "disk-type", "\"9p\"", "\"9p\" shares a directory, and vm.image is not given to name it"),
        ("qemu", "read-only", "true", no_disk),
        ("microvm", "read-only", "true", no_disk),
        ("firecracker", "copy-rootfs", "true", no_disk),
    ] {
        let text = with_hypervisor(kind).replace("image = \"i\"\n", "");
        assert_eq!(messages(&format!("{text}{key} = {value}")), format!("5: vm.hypervisor.{key}: {reason}"));
    }
}

#[test]
fn names_what_no_snapshot_can_be_taken_of() {
    let user = format!("{VM}network = \"user\"\n");
    refused(&user, "vm.", "true, false or a table", &[("snapshot = 1", "the integer 1")]);
    let path = "a path that starts with '/' and has only visible ASCII characters and no '#'";
    refused(&user, "vm.", path, &[("snapshot.prepare = \"x\"", "the string \"x\"")]);
    let unknown = "5: vm.snapshot.settled: unknown key in the table of `snapshot`; did you mean `settle`?";
    check_messages(&user, "", &[("snapshot.settled = 1", unknown)]);
    let on_tap = "4: vm.snapshot: clones have one address, and reach nothing from their taps: remove egress, or set \
                  network = \"user\"";
    check_messages(VM, "", &[("snapshot = true\negress = true", on_tap)]);
    parse(&format!("{VM}snapshot = true")).unwrap();
    parse(&format!("readiness = \"tcp\"\n{VM}snapshot = true")).unwrap();
    parse(&format!("{}snapshot = true", VM.replace("qemu", "firecracker"))).unwrap();
    let tcp = "6: vm.snapshot: QEMU accepts connections before the guest is ready: set readiness to \"callback\" or { http = … }";
    check_messages(&format!("readiness = \"tcp\"\n{user}"), "", &[("snapshot = true", tcp)]);
    let with_image = |hypervisor: &str| {
        format!("[vm]\nkernel = \"k\"\nimage = \"i\"\nnetwork = \"user\"\nsnapshot = true\n{hypervisor}")
    };
    parse(&with_image("hypervisor = { type = \"qemu\" }")).unwrap();
    let on_tap =
        with_image("hypervisor = { type = \"firecracker\", copy-rootfs = false }").replace("network = \"user\"\n", "");
    let disk = "4: vm.snapshot: clones would write to one root disk: remove copy-rootfs, or set read-only = true in \
                vm.hypervisor";
    assert_eq!(messages(&format!("max-instances = 1\n{on_tap}")), disk.replace("4:", "5:"));
    let shared = "5: vm.snapshot: a directory shared over 9p is no part of it: use disk-type = \"block\"";
    assert_eq!(messages(&with_image("hypervisor = { type = \"qemu\", disk-type = \"9p\", read-only = true }")), shared);
    parse(&with_image("hypervisor = { type = \"qemu\", read-only = true }")).unwrap();
}
