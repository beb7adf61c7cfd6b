//! Files that are wrong, each with what is said about it.

use super::parse;
use crate::spec::FunctionSpec;

const CONTAINER: &str = "[container]\nimage = \"i\"\n";
const PROCESS: &str = "[process]\ncommand = [\"f\"]\n";
const VM: &str = "[vm]\nkernel = \"k\"\nhypervisor.type = \"qemu\"\n";

/// What is said about `text`, a line for each problem, without the file's name.
fn complaint(text: &str) -> String {
    let error = parse(text).err().unwrap_or_else(|| panic!("accepted:\n{text}"));
    assert!(!error.problems.is_empty());
    error.to_string().replace("/registry/hello/function.toml:", "")
}

/// Each `key = value` alone at the end of `before` is refused: it was to be `expected`, and something else was found.
fn refused(before: &str, table: &str, expected: &str, cases: &[(&str, &str)]) {
    let line = before.lines().count() + 1;
    for (entry, found) in cases {
        let (key, _) = entry.split_once(" =").unwrap();
        let said = complaint(&format!("{before}{entry}"));
        assert_eq!(said, format!("{line}: {table}{key}: expected {expected}, found {found}"));
    }
}

/// As [`refused`], at the top level.
fn refused_on_top(expected: &str, cases: &[(&str, &str)]) {
    for (entry, found) in cases {
        let (key, _) = entry.split_once(" =").unwrap();
        let said = complaint(&format!("{entry}\n{CONTAINER}"));
        assert_eq!(said, format!("1: {key}: expected {expected}, found {found}"));
    }
}

/// Each text between `before` and `after` gets exactly the answer next to it.
fn answers(before: &str, after: &str, cases: &[(&str, &str)]) {
    for (text, expected) in cases {
        assert_eq!(complaint(&format!("{before}{text}\n{after}")), *expected, "{text}");
    }
}

#[test]
fn counts_are_integers_within_bounds() {
    let cases = [
        ("concurrent-requests = 0", "the integer 0"),
        ("concurrent-requests = -1", "the integer -1"),
        ("concurrent-requests = 1.5", "the float 1.5"),
        ("concurrent-requests = \"4\"", "the string \"4\""),
        ("concurrent-requests = 99999999999999999999", "the integer 99999999999999999999"),
        ("queue = 0", "the integer 0"),
        ("queue = 1000001", "the integer 1000001"),
    ];
    refused_on_top("an integer from 1 to 1000000 (requests)", &cases);
    refused_on_top("an integer from 1 to 1000000 (instances)", &[("max-instances = 0", "the integer 0")]);
    refused_on_top("an integer from 0 to 1000000 (instances)", &[("min-instances = -1", "the integer -1")]);
    let ports = [("port = 0", "the integer 0"), ("port = 0x10000", "the integer 0x10000"), ("port = {}", "a table")];
    refused_on_top("an integer from 1 to 65535 (a TCP port)", &ports);
}

#[test]
fn durations_are_finite_numbers_of_seconds() {
    let cases = [
        ("keepalive = -1", "the integer -1"),
        ("keepalive = -0.001", "the float -0.001"),
        ("keepalive = nan", "the float nan"),
        ("keepalive = inf", "the float inf"),
        ("keepalive = 1e300", "the float 1e300"),
        ("keepalive = 1000000001", "the integer 1000000001"),
        ("keepalive = \"60s\"", "the string \"60s\""),
        ("keepalive = 07:32:00", "the date or time 07:32:00"),
        ("timeout = true", "the boolean true"),
        ("boot-timeout = -5", "the integer -5"),
        ("queue-timeout = \"\"", "the string \"\""),
        ("stop-grace = [1]", "an array"),
    ];
    refused_on_top("seconds, a number from 0 to 1000000000", &cases);
    let cases = [
        ("boot-timeout = 0", "1: boot-timeout: expected more than 0 seconds, found 0"),
        ("queue-timeout = 0.0", "1: queue-timeout: expected more than 0 seconds, found 0"),
    ];
    answers("", CONTAINER, &cases);
}

#[test]
fn other_values_of_the_top_level_have_their_types() {
    let cases = [("single-use = 1", "the integer 1"), ("single-use = \"yes\"", "the string \"yes\"")];
    refused_on_top("true or false", &cases);
    let cases =
        [("max-body = 0", "the integer 0"), ("max-body = -0.5", "the float -0.5"), ("max-body = nan", "the float nan")];
    refused_on_top("MiB, a number above 0 and up to 1048576", &cases);
    let cases = [("readiness = \"http\"", "the string \"http\""), ("readiness = true", "the boolean true")];
    refused_on_top("\"callback\", \"tcp\" or { http = \"/path\" }", &cases);
    let cases = [
        ("min-instances = 5\nmax-instances = 2", "1: min-instances: 5 is more than max-instances, which is 2"),
        ("readiness = {}", "1: readiness.http: is required"),
        ("readiness = { http = 1 }", "1: readiness.http: expected a string, found the integer 1"),
    ];
    answers("", CONTAINER, &cases);
}

#[test]
fn a_path_for_readiness_must_be_one_that_can_be_requested() {
    for path in ["", "healthz", "/a b", "/\\u0001", "/ü", "/a#b", "http://x/"] {
        let said = complaint(&format!("readiness = {{ http = \"{path}\" }}\n{CONTAINER}"));
        assert!(said.starts_with("1: readiness.http: expected a path that starts with '/'"), "{said}");
    }
}

#[test]
fn the_environment_has_names_and_strings() {
    let cases = [
        ("env = 1", "1: env: expected a table of strings, found an integer"),
        ("env = { A = 1 }", "1: env.A: expected a string, found an integer"),
        ("env = { A = { B = \"c\" } }", "1: env.A: expected a string, found a table"),
        ("env = { \"\" = \"c\" }", "1: env.\"\": a name must not be empty"),
        ("env = { \"A=B\" = \"c\" }", "1: env: a name must not contain '=': \"A\" is followed by one"),
        ("env = { \"A\\u0000\" = \"c\" }", "1: env.\"A\\0\": a name must not contain a NUL character"),
        ("env = { A = \"\\u0000\" }", "1: env.A: the value must not contain a NUL character"),
    ];
    answers("", CONTAINER, &cases);
}

#[test]
fn unknown_keys_come_with_a_way_out() {
    let near =
        [("memroy", "memory"), ("Memory", "memory"), ("cpu", "cpus"), ("net-work", "network"), ("imag", "image")];
    for (key, meant) in near {
        let said = complaint(&format!("{CONTAINER}{key} = 1"));
        assert_eq!(said, format!("3: container.{key}: unknown key in [container]; did you mean `{meant}`?"));
    }
    let elsewhere = [("keepalive", "the file's top level"), ("env", "the file's top level"), ("kernel", "[vm]")];
    for (key, home) in elsewhere {
        let said = complaint(&format!("{CONTAINER}{key} = 1"));
        assert_eq!(said, format!("3: container.{key}: unknown key in [container]; it belongs to {home}"));
    }
    for key in ["ram", "\"a\\nb\"", "\"\""] {
        let said = complaint(&format!("{CONTAINER}{key} = 1"));
        let known = "known there: image, command, memory, cpus, runtime, network, user, capabilities, \
            no-new-privileges, pids-limit, file-size, read-only, init, log-size, pull";
        assert_eq!(said, format!("3: container.{key}: unknown key in [container]; {known}"));
    }
    let near = [
        ("concurrent_requests", "concurrent-requests"),
        ("keep-alive", "keepalive"),
        ("max_instance", "max-instances"),
    ];
    for (key, meant) in near {
        let said = complaint(&format!("{key} = 1\n{CONTAINER}"));
        assert_eq!(said, format!("1: {key}: unknown key in the file's top level; did you mean `{meant}`?"));
    }
    let said = complaint(&format!("memory = 1\n{CONTAINER}"));
    assert!(said.ends_with("; it belongs to [process], [container] or [vm]"), "{said}");
    let said = complaint(&format!("readiness = {{ htp = \"/\", http = \"/\" }}\n{CONTAINER}"));
    assert_eq!(said, "1: readiness.htp: unknown key in the table of `readiness`; did you mean `http`?");
}

#[test]
fn long_keys_and_values_are_cut() {
    for text in [format!("{} = 1", "k".repeat(5000)), format!("readiness = \"{}\"", "v".repeat(5000))] {
        let said = complaint(&format!("{text}\n{CONTAINER}"));
        assert!(said.len() < 500 && said.contains('…'), "{said}");
    }
}

#[test]
fn a_function_is_exactly_one_kind_of_instance() {
    let none = " what is an instance? Exactly one of [process], [container] and [vm] has to say it";
    let cases = [
        ("keepalive = 1", none),
        ("# nothing\n", none),
        ("", " the file is empty"),
        (" \n\t\n", " the file is empty"),
        ("container = 1", "1: container: expected a table, found the integer 1"),
        ("[[container]]\nimage = \"i\"", "1: container: expected a table, found an array"),
    ];
    answers("", "", &cases);
    let rule = "a function has exactly one of [process], [container] and [vm], and there is";
    assert_eq!(complaint(&format!("{CONTAINER}{PROCESS}")), format!("3: process: {rule} [container] already"));
    let three = complaint(&format!("{VM}{PROCESS}{CONTAINER}"));
    assert_eq!(three, format!("4: process: {rule} [vm] already\n6: container: {rule} [vm] already"));
}

#[test]
fn problems_of_a_process_are_named() {
    let cases = [
        ("", "1: process.command: is required"),
        ("command = []", "2: process.command: expected at least one string, found an empty array"),
        ("command = [\"\"]", "2: process.command: the first element must not be empty"),
        ("command = [\"f\", 8]", "2: process.command: expected an array of strings, element 1 is the integer 8"),
        ("command = [\"f\", \"\\u0000\"]", "2: process.command: element 1 must not contain a NUL character"),
    ];
    answers("[process]\n", "", &cases);
    refused("[process]\n", "process.", "an array of strings", &[("command = \"f\"", "the string \"f\"")]);
    refused(PROCESS, "process.", "an integer from 1 to 16777216 (MiB)", &[("memory = 0", "the integer 0")]);
    refused(PROCESS, "process.", "a string", &[("user = 1000", "the integer 1000")]);
    refused(PROCESS, "process.", "a word without white space", &[("user = \"\"", "the string \"\"")]);
    let users = [("user = \"a:b\"", "the string \"a:b\""), ("user = \"4294967295\"", "the string \"4294967295\"")];
    refused(PROCESS, "process.", "the name or numeric id of a user", &users);
    let reason = "every instance of a [process] gets a port of its own, as %port and PORT: leave this out";
    assert_eq!(complaint(&format!("port = 8080\n{PROCESS}")), format!("1: port: {reason}"));
}

#[test]
fn problems_of_a_container_are_named() {
    let cases = [
        ("", "1: container.image: is required"),
        ("image = 7", "2: container.image: expected a string, found the integer 7"),
        ("image = \"i\"\nnetwork = \"a\\u0000\"", "3: container.network: must not contain a NUL character"),
        ("image = \"i\"\ncommand = [\"\"]", "3: container.command: the first element must not be empty"),
    ];
    answers("[container]\n", "", &cases);
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
    let networks =
        [("network = \"container:x\"", "the string \"container:x\""), ("network = \"..\"", "the string \"..\"")];
    refused(CONTAINER, "container.", "the name of a network of the engine", &networks);
}

#[test]
fn problems_of_a_containers_safety_are_named() {
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
        ("capabilities = [\"SYS ADMIN\"]", "expected names such as \"SYS_PTRACE\", found \"SYS ADMIN\""),
        ("capabilities = [\"cap_\"]", "expected names such as \"SYS_PTRACE\", found \"\""),
        ("capabilities = \"ALL\"", "expected an array of strings, found the string \"ALL\""),
    ];
    for (entry, said) in cases {
        assert_eq!(complaint(&format!("{CONTAINER}{entry}")), format!("3: container.capabilities: {said}"));
    }
}

#[test]
fn problems_of_a_vm_are_named() {
    refused(VM, "vm.", "an integer from 1 to 16777216 (MiB)", &[("memory = 0", "the integer 0")]);
    let cpus = [("cpus = 0", "the integer 0"), ("cpus = 33", "the integer 33"), ("cpus = 0.5", "the float 0.5")];
    refused(VM, "vm.", "an integer from 1 to 32 (virtual CPUs)", &cpus);
    refused(VM, "vm.", "a path", &[("image = \"\"", "the string \"\"")]);
    refused(VM, "vm.", "a string", &[("initrd = []", "an array"), ("cmdline = 1", "the integer 1")]);
    refused(VM, "vm.", "\"tap\" or \"user\"", &[("network = \"bridge\"", "the string \"bridge\"")]);
    let no_user = "4: vm.network: Firecracker has no user-mode network: \"user\" is for types \"qemu\" and \"microvm\"";
    answers(&VM.replace("qemu", "firecracker"), "", &[("network = \"user\"", no_user)]);
    let homes = "a hypervisor of type \"qemu\" or a hypervisor of type \"microvm\"";
    let misplaced = format!("4: vm.disk-type: unknown key in [vm]; it belongs to {homes}");
    let no_env = "4: env: a [vm] gets nothing but its kernel command line: pass values in vm.cmdline";
    let cases = [
        ("cmdline = \"a\\u0000b\"", "4: vm.cmdline: must not contain a NUL character"),
        ("disk-type = \"9p\"", &misplaced),
        ("[env]\nA = \"b\"", no_env),
    ];
    answers(VM, "", &cases);
    let cases = [
        ("hypervisor.type = \"qemu\"", "1: vm.kernel: is required"),
        ("kernel = \"k\"", "1: vm.hypervisor: is required"),
    ];
    answers("[vm]\n", "", &cases);
    refused("[vm]\nkernel = \"k\"\n", "vm.", "a table", &[("hypervisor = \"qemu\"", "the string \"qemu\"")]);
}

/// A VM with a hypervisor of that type; the next line is the sixth.
fn with_hypervisor(kind: &str) -> String {
    format!("[vm]\nkernel = \"k\"\nimage = \"i\"\n[vm.hypervisor]\ntype = \"{kind}\"\n")
}

#[test]
fn problems_of_a_hypervisor_are_named() {
    let typeless = "[vm]\nkernel = \"k\"\n[vm.hypervisor]\n";
    let types = [("type = \"xen\"", "the string \"xen\""), ("type = 1", "the integer 1")];
    refused(typeless, "vm.hypervisor.", "\"firecracker\", \"qemu\" or \"microvm\"", &types);
    assert_eq!(complaint(typeless), "3: vm.hypervisor.type: is required");

    let qemu = with_hypervisor("qemu");
    refused(&qemu, "vm.hypervisor.", "\"block\" or \"9p\"", &[("disk-type = \"scsi\"", "the string \"scsi\"")]);
    refused(&qemu, "vm.hypervisor.", "\"auto\", \"kvm\" or \"tcg\"", &[("accel = \"KVM\"", "the string \"KVM\"")]);
    refused(&qemu, "vm.hypervisor.", "\"pc\" or \"q35\"", &[("machine = \"arm\"", "the string \"arm\"")]);
    refused(&qemu, "vm.hypervisor.", "an array of strings", &[("args = \"-s\"", "the string \"-s\"")]);
    refused(&with_hypervisor("microvm"), "vm.hypervisor.", "true or false", &[("pit = \"off\"", "the string \"off\"")]);
    let nested = "6: vm.hypervisor.args: expected an array of strings, element 0 is an array";
    answers(&qemu, "", &[("args = [[]]", nested)]);

    let both = "a read-only root disk is shared, not copied: read-only and this exclude each other";
    let expected = format!("6: vm.hypervisor.copy-rootfs: {both}");
    answers(&with_hypervisor("firecracker"), "", &[("copy-rootfs = true\nread-only = true", &expected)]);
}

#[test]
fn each_type_of_hypervisor_has_its_own_keys() {
    for (kind, key, hint) in [
        ("qemu", "copy-rootfs", "it belongs to a hypervisor of type \"firecracker\""),
        ("qemu", "pit", "it belongs to a hypervisor of type \"microvm\""),
        ("microvm", "copy-rootfs", "it belongs to a hypervisor of type \"firecracker\""),
        ("firecracker", "acell", "known there: type, copy-rootfs, read-only, jailer"),
        ("microvm", "auto-kernel-comandline", "did you mean `auto-kernel-cmdline`?"),
    ] {
        let said = complaint(&format!("{}{key} = true", with_hypervisor(kind)));
        let expected = format!("6: vm.hypervisor.{key}: unknown key in a hypervisor of type \"{kind}\"; {hint}");
        assert_eq!(said, expected);
    }
}

#[test]
fn without_an_image_nothing_can_be_said_about_the_root_disk() {
    let no_disk = "there is no root disk: vm.image is not given";
    for (kind, key, value, reason) in [
        ("qemu", "disk-type", "\"9p\"", "\"9p\" shares a directory, and vm.image is not given to name it"),
        ("qemu", "read-only", "true", no_disk),
        ("microvm", "read-only", "true", no_disk),
        ("firecracker", "copy-rootfs", "true", no_disk),
    ] {
        let text = with_hypervisor(kind).replace("image = \"i\"\n", "");
        assert_eq!(complaint(&format!("{text}{key} = {value}")), format!("5: vm.hypervisor.{key}: {reason}"));
    }
}

#[test]
fn a_syntax_error_is_one_problem_with_its_line_and_no_key() {
    for (text, line) in [
        ("keepalive = \n[container]", 1),
        ("keepalive = 1\nkeepalive = 2\n[container]\nimage = \"i\"", 2),
        ("[container]\nimage = \"i", 2),
        ("[container]\n\nimage", 3),
        ("[container\nimage = \"i\"", 1),
        ("[container]\nimage = \"i\"\n[container]", 3),
        ("keepalive = 1 2", 1),
        ("a = \u{0}", 1),
    ] {
        let error = parse(text).unwrap_err();
        assert_eq!(error.problems.len(), 1, "{error}");
        let problem = &error.problems[0];
        assert_eq!((&problem.key, problem.line), (&None, Some(line)), "{text}\n{error}");
        assert!(!problem.message.is_empty() && !problem.message.contains('\n'), "{error}");
    }
}

#[test]
fn all_problems_are_reported_in_the_order_of_the_file() {
    let text = "keepalive = -1\nbogus = 1\nport = 0\n[container]\nmemory = 1\ncpus = \"two\"\n\
        [env]\nA = 1\n[process]\nuser = 1";
    let error = parse(text).unwrap_err();
    let keys: Vec<_> = error.problems.iter().map(|problem| (problem.line, problem.key.as_deref())).collect();
    let expected = [
        (1, "keepalive"),
        (2, "bogus"),
        (3, "port"),
        (3, "port"),
        (4, "container.image"),
        (5, "container.memory"),
        (6, "container.cpus"),
        (8, "env.A"),
        (9, "process"),
        (9, "process.command"),
        (10, "process.user"),
    ];
    assert_eq!(keys, expected.map(|(line, key)| (Some(line), Some(key))));
    assert_eq!(error.to_string().lines().count(), expected.len());
    assert!(error.to_string().starts_with("/registry/hello/function.toml:1: keepalive: expected seconds"), "{error}");
}

#[test]
fn a_name_that_cannot_be_a_functions_is_a_problem_next_to_the_others() {
    let error = FunctionSpec::parse("not one", "/registry/not one".as_ref(), "[container]\nmemory = 0").unwrap_err();
    assert_eq!(error.problems.len(), 3, "{error}");
    let last = error.problems[2].to_string();
    assert!(last.starts_with("the directory cannot be a function: ") && last.contains("' '"), "{last}");
}
