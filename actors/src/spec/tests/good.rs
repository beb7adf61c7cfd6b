//! Valid files and their specs.

use std::{num::NonZeroUsize, path::PathBuf, time::Duration};

use super::{FULL_CONTAINER, FULL_FIRECRACKER, FULL_MICROVM, FULL_PROCESS, good};
use crate::spec::{
    Accel, AsyncSpec, DiskType, Durability, Hypervisor, Machine, MicrovmOptions, Pull, Qemu, Readiness, SandboxSpec,
    SnapshotSpec, VmNetwork, VmSpec, check_name,
};

fn vm(text: &str) -> VmSpec {
    match good(text).sandbox {
        SandboxSpec::Vm(vm) => vm,
        other => panic!("{other:?}"),
    }
}

fn hypervisor(line: &str) -> Hypervisor {
    vm(&format!("[vm]\nkernel = \"k\"\nimage = \"i\"\n{line}")).hypervisor
}

const PLAIN_QEMU: Qemu = Qemu { disk_type: DiskType::Block, accel: Accel::Auto, args: Vec::new(), read_only: false };

#[test]
fn reads_every_key_of_a_process() {
    let spec = good(FULL_PROCESS);
    assert_eq!(spec.name, "hello");
    assert_eq!(spec.directory, PathBuf::from("/registry/hello"));
    assert_eq!(spec.concurrent_requests.get(), 4);
    assert!(!spec.single_use);
    assert_eq!(spec.keepalive, Duration::from_millis(1500));
    assert_eq!(spec.min_instances, 1);
    assert_eq!(spec.max_instances, NonZeroUsize::new(3));
    assert_eq!(spec.timeout, Some(Duration::from_secs(7)));
    assert_eq!(spec.boot_timeout, Duration::from_millis(2500));
    assert_eq!(spec.stop_grace, Duration::ZERO);
    assert_eq!(spec.queue.get(), 12);
    assert_eq!(spec.queue_timeout, Duration::from_millis(250));
    assert_eq!(spec.max_body, Some(3 << 19));
    assert_eq!(spec.readiness, Readiness::Http("/healthz?full=1".to_owned()));
    assert_eq!(spec.env.get("GREETING").map(String::as_str), Some("hello"));
    assert_eq!(spec.env.get("EMPTY").map(String::as_str), Some(""));
    assert_eq!(spec.memory(), 64);
    let AsyncSpec { allow, concurrency, queue, attempts, backoff, backoff_max, max_age, retry_on, .. } =
        spec.asynchronous.clone();
    assert_eq!((allow, concurrency.get(), queue.get(), attempts.get()), (true, 2, 20, 5));
    assert_eq!((backoff, backoff_max), (Duration::from_millis(500), Duration::from_secs(60)));
    assert_eq!([400, 499, 500, 503, 504].map(|status| retry_on.contains(status)), [true, true, false, true, false]);
    assert_eq!(serde_json::to_string(&retry_on).unwrap(), r#"["4xx","503"]"#);
    let AsyncSpec { max_body, max_response, keep, keep_dead, durability, .. } = spec.asynchronous;
    assert_eq!(durability, Durability::Site);
    assert_eq!((max_body, max_response), (2 << 20, 1 << 19));
    assert_eq!([max_age, keep, keep_dead].map(|time| time.as_secs()), [100, 10, 20]);
    let SandboxSpec::Process(process) = spec.sandbox else { panic!("not a process") };
    assert_eq!(process.command, ["./f", "%callback", "%unknown", "100%"]);
    assert_eq!(process.user.as_deref(), Some("nobody"));
    assert_eq!((process.cpus, process.pids_limit, process.file_size), (Some(1.5), 20, Some(5)));
}

#[test]
fn reads_every_key_of_a_container() {
    let spec = good(FULL_CONTAINER);
    assert_eq!(spec.port, 80);
    assert_eq!(spec.readiness, Readiness::Tcp);
    assert_eq!(spec.env.len(), 1);
    let SandboxSpec::Container(container) = spec.sandbox else { panic!("not a container") };
    assert_eq!(container.image, "registry.local:5000/team/hello:1.2");
    assert_eq!(container.command, Some(vec!["--url".to_owned(), "%callback".to_owned()]));
    assert_eq!(container.memory, 256);
    assert_eq!(container.cpus, Some(0.5));
    assert_eq!(container.runtime.as_deref(), Some("runsc"));
    assert_eq!(container.network.as_deref(), Some("faas"));
    assert_eq!(container.user.as_deref(), Some("1000:1000"));
    assert_eq!(container.capabilities, ["SYS_PTRACE", "NET_RAW"]);
    assert_eq!((container.pids_limit, container.log_size, container.pull), (64, 2, Pull::Missing));
    assert_eq!(container.file_size, Some(7));
    assert!(!container.no_new_privileges && container.read_only && container.init);
}

#[test]
fn reads_every_key_of_a_microvm() {
    let spec = good(FULL_MICROVM);
    assert_eq!(spec.port, 9000);
    let qemu = Qemu {
        disk_type: DiskType::Block,
        accel: Accel::Tcg,
        args: ["-device", "", "virtio-rng-device"].map(str::to_owned).to_vec(),
        read_only: true,
    };
    let options = MicrovmOptions {
        pic: Some(false),
        pit: Some(true),
        rtc: Some(false),
        acpi: Some(true),
        auto_kernel_cmdline: Some(false),
    };
    let expected = VmSpec {
        kernel: "/registry/hello/kernel.img".into(),
        image: Some("/registry/hello/disk/root.img".into()),
        initrd: Some("/boot/initrd".into()),
        memory: 512,
        cpus: 2,
        cmdline: "console=ttyS0".to_owned(),
        network: VmNetwork::User,
        egress: true,
        snapshot: Some(SnapshotSpec {
            prepare: Some("/before".to_owned()),
            restored: Some("/after".to_owned()),
            settle: Duration::from_millis(500),
        }),
        hypervisor: Hypervisor::Microvm { qemu, options },
    };
    assert_eq!(spec.sandbox, SandboxSpec::Vm(expected));
}

#[test]
fn explicit_defaults_make_no_difference() {
    let spelled = r#"
        concurrent-requests = 1
        single-use = false
        keepalive = 60
        min-instances = 0
        timeout = 60.0
        boot-timeout = 25
        keep-paused = 600
        prewarm = false
        stop-grace = 0.5
        queue = 1000
        queue-timeout = 30
        port = 8080
        readiness = "callback"
    "#;
    let container = "[container]\nimage = \"i\"\n";
    let safe = "capabilities = []\nno-new-privileges = true\npids-limit = 512\nread-only = false\ninit = false\n\
        log-size = 1\npull = \"never\"\n";
    assert_eq!(good(&format!("{spelled}{container}memory = 128\n{safe}[env]\n")), good(container));

    let spelled = spelled.replace("port = 8080\n", "");
    let process = "[process]\ncommand = [\"f\"]\n";
    assert_eq!(good(&format!("{spelled}{process}memory = 128\n")), good(process));

    let vm = "[vm]\nkernel = \"k\"\nhypervisor = { type = \"qemu\" }\n";
    let full = "[vm]\nkernel = \"k\"\nmemory = 128\ncpus = 1\ncmdline = \"\"\n\
        network = \"tap\"\negress = false\n\
        hypervisor = { type = \"qemu\", machine = \"pc\", disk-type = \"block\", accel = \"auto\", args = [], read-only = false }\n";
    assert_eq!(good(full), good(vm));
}

#[test]
fn the_defaults_have_only_the_documented_limits() {
    let spec = good("[container]\nimage = \"i\"");
    assert_eq!((spec.max_instances, spec.max_body), (None, None));
    let SandboxSpec::Container(container) = spec.sandbox else { panic!("not a container") };
    assert_eq!((container.command, container.cpus, container.runtime, container.network), (None, None, None, None));
}

#[test]
fn reads_the_hypervisors_of_the_prototype() {
    let firecracker = Hypervisor::Firecracker { copy_rootfs: true, read_only: false, jailer: false };
    assert_eq!(hypervisor(r#"hypervisor = { type = "firecracker", copy-rootfs = true }"#), firecracker);
    assert_eq!(hypervisor(r#"hypervisor = { type = "firecracker" }"#), firecracker);
    let qemu = hypervisor(r#"hypervisor = { type = "qemu", disk-type = "block" }"#);
    assert_eq!(qemu, Hypervisor::Qemu { qemu: PLAIN_QEMU, machine: Machine::Pc });
    let q35 = hypervisor(r#"hypervisor = { type = "qemu", machine = "q35" }"#);
    assert_eq!(q35, Hypervisor::Qemu { qemu: PLAIN_QEMU, machine: Machine::Q35 });
    let nine_p = hypervisor(r#"hypervisor = { type = "qemu", disk-type = "9p" }"#);
    let qemu = Qemu { disk_type: DiskType::NineP, ..PLAIN_QEMU };
    assert_eq!(nine_p, Hypervisor::Qemu { qemu, machine: Machine::Pc });
    let microvm = hypervisor(
        r#"hypervisor = { type = "microvm", disk-type = "block", pic = false, pit = false, rtc = false,
                   acpi = false, auto-kernel-cmdline = true }      # defaults as shown"#,
    );
    let options = MicrovmOptions {
        pic: Some(false),
        pit: Some(false),
        rtc: Some(false),
        acpi: Some(false),
        auto_kernel_cmdline: Some(true),
    };
    assert_eq!(microvm, Hypervisor::Microvm { qemu: PLAIN_QEMU, options });
    let bare = Hypervisor::Microvm { qemu: PLAIN_QEMU, options: MicrovmOptions::default() };
    assert_eq!(hypervisor(r#"hypervisor = { type = "microvm" }"#), bare);
}

#[test]
fn a_read_only_firecracker_disk_is_copied_into_a_jail_only() {
    let expected = Hypervisor::Firecracker { copy_rootfs: false, read_only: true, jailer: false };
    assert_eq!(hypervisor(r#"hypervisor = { type = "firecracker", read-only = true }"#), expected);
    let jailed = Hypervisor::Firecracker { copy_rootfs: true, read_only: false, jailer: true };
    assert_eq!(vm(FULL_FIRECRACKER).hypervisor, jailed);
    let both = Hypervisor::Firecracker { copy_rootfs: true, read_only: true, jailer: true };
    for copy in ["", ", copy-rootfs = true"] {
        let table = format!(r#"hypervisor = {{ type = "firecracker", read-only = true, jailer = true{copy} }}"#);
        assert_eq!(hypervisor(&table), both);
    }
}

#[test]
fn keeps_command_lines_byte_for_byte() {
    for cmdline in [
        "net.ip=%ip net.gw=%gateway net.mask=%netmask callback.url=%callback",
        "--ip=eth0,%ip,%netmask --defaultgw=%gateway --nameserver=%gateway --rootfs=rofs /benchmark.so %callback",
        "callback=%callback ip=%ip::%gateway:%netmask:vm:eth0:off ro noapic acpi=off pci=off nomodule \
         random.trust_cpu=on",
        "  two  spaces,\ttab and 100% ü ",
    ] {
        let text = format!("[vm]\nkernel = \"k\"\ncmdline = \"{cmdline}\"\nhypervisor = {{ type = \"qemu\" }}");
        assert_eq!(vm(&text).cmdline, cmdline);
    }
}

#[test]
fn reads_a_container_file_of_the_prototype() {
    let spec = good(
        "concurrent-requests = 100\nsingle-use = false\nkeepalive = 30\n\n[container]\nimage = \"faas/go\"\n\
         memory = 128\nruntime = \"runsc\"\n",
    );
    assert_eq!(spec.concurrent_requests.get(), 100);
    assert_eq!(spec.keepalive, Duration::from_secs(30));
}

#[test]
fn single_use_overrides_concurrent_requests() {
    let spec = good("single-use = true\nconcurrent-requests = 8\n[container]\nimage = \"i\"");
    assert_eq!((spec.single_use, spec.concurrent_requests.get()), (true, 1));
}

#[test]
fn only_zero_disables_the_timeout() {
    let timeout = |value: &str| good(&format!("timeout = {value}\n[container]\nimage = \"i\"")).timeout;
    for none in ["0", "0.0", "-0.0", "0x0"] {
        assert_eq!(timeout(none), None, "{none}");
    }
    assert_eq!(timeout("1e-300"), Some(Duration::from_nanos(1)));
    assert_eq!(timeout("1_000"), Some(Duration::from_secs(1000)));
    assert_eq!(timeout("1e9"), Some(Duration::from_secs(1_000_000_000)));
}

#[test]
fn the_default_queue_timeout_exceeds_the_boot_timeout() {
    let spec = good("boot-timeout = 1e9\n[container]\nimage = \"i\"");
    assert_eq!(spec.queue_timeout, Duration::from_secs(1_000_000_005));
}

#[test]
fn the_smallest_body_limit_is_one_byte() {
    assert_eq!(good("max-body = 1e-12\n[container]\nimage = \"i\"").max_body, Some(1));
    assert_eq!(good("max-body = 2\n[container]\nimage = \"i\"").max_body, Some(2 << 20));
}

#[test]
fn bounds_are_inclusive() {
    for top in ["port = 1", "port = 65535", "min-instances = 2\nmax-instances = 2", "queue = 1", "keepalive = 0"] {
        good(&format!("{top}\n[container]\nimage = \"i\""));
    }
    for container in ["memory = 6", "memory = 16777216", "cpus = 0.01", "cpus = 1024", "cpus = 2"] {
        good(&format!("[container]\nimage = \"i\"\n{container}"));
    }
    for process in ["memory = 1", "user = \"0\"", "user = \"4294967294\"", "user = \"www-data\""] {
        good(&format!("[process]\ncommand = [\"f\"]\n{process}"));
    }
    for vm in ["memory = 1", "cpus = 32"] {
        good(&format!("[vm]\nkernel = \"k\"\nhypervisor = {{ type = \"firecracker\" }}\n{vm}"));
    }
}

#[test]
fn paths_may_leave_the_directory_and_keep_dot_dot() {
    let vm = vm("[vm]\nkernel = \"../shared/./kernel\"\nhypervisor = { type = \"qemu\" }");
    assert_eq!(vm.kernel.as_os_str(), "/registry/hello/../shared/kernel");
}

#[test]
fn accepts_crlf_and_a_byte_order_mark() {
    good("\u{feff}keepalive = 1\r\n[container]\r\nimage = \"i\"\r\n");
}

#[test]
fn names_are_valid_in_urls_and_engines() {
    for name in ["a", "0", "hello-world_1.2", &"x".repeat(63)] {
        assert_eq!(check_name(name), Ok(()), "{name}");
    }
    for (name, reason) in [
        ("", "empty"),
        (".hidden", "'.'"),
        ("-f", "'-'"),
        ("..", "'.'"),
        ("über", "'ü'"),
        ("a b", "' '"),
        ("a/b", "'/'"),
        ("a\nb", "'\\n'"),
        (&"x".repeat(64), "64"),
    ] {
        let error = check_name(name).unwrap_err().to_string();
        assert!(error.contains(reason), "{name}: {error}");
    }
}

#[test]
fn snapshot_is_a_switch_or_a_table() {
    let snapshot = |value: &str| {
        vm(&format!("[vm]\nkernel = \"k\"\nhypervisor.type = \"qemu\"\nnetwork = \"user\"\nsnapshot = {value}"))
            .snapshot
    };
    assert_eq!(snapshot("false"), None);
    assert_eq!(snapshot("true"), Some(SnapshotSpec::default()));
    assert_eq!(snapshot("{}"), Some(SnapshotSpec::default()));
    let given = snapshot("{ prepare = \"/before\", restored = \"/after?x=1\", settle = 2 }").unwrap();
    let hooks = (Some("/before".to_owned()), Some("/after?x=1".to_owned()));
    assert_eq!(((given.prepare, given.restored), given.settle), (hooks, Duration::from_secs(2)));
}
