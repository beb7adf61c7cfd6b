//! `unifaas check` names file and key of what can never start on this host; a start says the same of what has changed since.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Output,
};

use integration::{
    Function, Home, Setup,
    cli::{bare, golden, run},
    unifaas,
};
use tokio::process::Command;

async fn check(home: &Home) -> Output {
    Command::new(unifaas()).arg("check").arg("-r").arg(home.registry()).output().await.unwrap()
}

/// Writes an ELF file for MIPS, which can be executed nowhere here.
fn foreign_program(path: &Path) {
    let mut header = [&b"\x7fELF\x02\x01\x01"[..], &[0; 57]].concat();
    (header[16], header[18]) = (2, 8);
    // Renamed into place: a program that is running cannot be written to.
    let new = path.with_extension("new");
    fs::write(&new, header).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(new, path).unwrap();
}

#[tokio::test]
async fn check_names_file_and_key_of_what_can_never_start() {
    let home = Home::new();
    let foreign: PathBuf = home.path("foreign");
    foreign_program(&foreign);
    let process = |command: &str| format!("[process]\ncommand = {command}\n");
    let vm = |keys: &str| format!("[vm]\nkernel = \"kernel\"\nhypervisor.type = \"firecracker\"\n{keys}\n");
    let cases = [
        (
            "absent",
            process("[\"no-such-program\"]"),
            "2: process.command: there is no program \"no-such-program\" in PATH",
        ),
        ("foreign", process(&format!("[{foreign:?}]")), "foreign\" is built for mips, and this host executes"),
        (
            "misspelled",
            process("[\"sh\", \"%calback\"]"),
            "2: process.command: %calback is no placeholder; did you mean %callback?",
        ),
        (
            "unknown-user",
            process("[\"sh\"]\nuser = \"no-such-user\""),
            "3: process.user: there is no user \"no-such-user\"",
        ),
        ("damaged", vm("cmdline = \"%callback\""), "2: vm.kernel: "),
        (
            "silent",
            vm("cmdline = \"quiet\""),
            "4: vm.cmdline: without %callback, the guest cannot report that it is ready",
        ),
        ("unknown-word", vm("cmdline = \"%callback %mac\""), "4: vm.cmdline: %mac is no placeholder"),
        (
            "long",
            vm(&format!("cmdline = \"%callback {}\"", "x".repeat(2000))),
            "4: vm.cmdline: has at least 2056 bytes",
        ),
        (
            "jailed",
            vm("cmdline = \"%callback\"\nimage = \"i\"\nhypervisor.jailer = true\nhypervisor.copy-rootfs = false"),
            "vm.hypervisor.copy-rootfs: ",
        ),
    ];
    for (name, text, _) in &cases {
        home.put(&Function::verbatim(name, text));
        fs::write(home.registry().join(name).join("kernel"), b"\x7fELF").unwrap();
    }
    home.put(&Function::new("good"));
    let output = check(&home).await;
    let (good, bad) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!((output.status.code(), good.trim()), (Some(1), "good: ok"), "{bad}");
    for (name, _, expected) in &cases {
        let file = home.registry().join(name).join("function.toml");
        let is_it = |line: &str| line.starts_with(&format!("{}:", file.display())) && line.contains(expected);
        assert!(bad.lines().any(is_it), "no {expected:?} of {name} in\n{bad}");
    }
    assert!(
        bad.contains(&format!("unifaas: misconfigured functions: {} of {}", cases.len(), cases.len() + 1)),
        "{bad}"
    );
}

#[tokio::test]
async fn foreign_program_is_named_when_it_is_started() {
    let home = Home::new();
    let program = home.path("program");
    fs::write(&program, "#!/bin/sh\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let function = Function::verbatim("f", &format!("[process]\ncommand = [{program:?}]\n"));
    let daemon = Setup::at(&home).function(function).start().await;
    // The registry does not contain it, so the daemon does not notice.
    foreign_program(&program);
    let problem = daemon.get("/invoke/f/").await.problem(502, "start_failed").to_string();
    assert!(problem.contains("it is built for mips, and this host executes"), "{problem}");
}

fn registry_of(home: &Home) -> String {
    home.registry().to_str().unwrap().to_owned()
}

#[tokio::test]
async fn check_takes_registries_and_functions() {
    let home = Home::new();
    home.put(&Function::new("good"));
    home.put(&Function::verbatim("bad", "keepalive = -1\n[process]\ncommand = [\"sh\"]\n"));
    let registry = registry_of(&home);
    let good = format!("{registry}/good");
    assert_eq!(run(bare(&["check", &good])).await.ok(), "good: ok\n");
    assert_eq!(run(bare(&["check", &format!("{good}/function.toml")])).await.ok(), "good: ok\n");
    let text = run(bare(&["check", &format!("{registry}/bad")])).await.failed(1);
    assert!(text.contains("bad/function.toml:1: keepalive") && text.contains("1 of 1"), "{text}");
    let both = run(bare(&["check", &registry, "--json"])).await;
    assert_eq!(both.status, Some(1));
    let json: serde_json::Value = serde_json::from_str(&both.out).unwrap();
    assert_eq!((&json["functions"]["good"]["ok"], &json["functions"]["bad"]["ok"]), (&true.into(), &false.into()));
    assert!(json["functions"]["bad"]["problems"][0].as_str().unwrap().contains("keepalive"), "{json}");
    assert!(run(bare(&["check", "/no/such/place"])).await.failed(1).contains("/no/such/place"));
}

#[tokio::test]
async fn check_warns_of_what_is_probably_not_meant() {
    let home = Home::new();
    home.put(&Function::verbatim(
        "f",
        "readiness = \"tcp\"\n[process]\ncommand = [\"python3\", \"-m\", \"x\", \"$PORT\"]\n",
    ));
    for (name, file) in [("a", "function.yaml"), ("b", "Function.toml")] {
        fs::create_dir(home.registry().join(name)).unwrap();
        fs::write(home.registry().join(name).join(file), "").unwrap();
    }
    let ran = run(bare(&["check", "-r", &registry_of(&home)])).await;
    assert_eq!((ran.status, ran.out.as_str()), (Some(0), "f: ok\n"), "{ran:?}");
    for (file, hint) in [
        ("f/function.toml", ": process.command: $PORT is passed as it is"),
        ("a/function.yaml", " is not read: the file of a function is function.toml"),
        ("b/Function.toml", " is not read: the file of a function is function.toml"),
    ] {
        let warning = format!("warning: {}/{file}{hint}", registry_of(&home));
        assert!(ran.err.lines().any(|line| line.starts_with(&warning)), "no {warning} in {}", ran.err);
    }
    assert_eq!(ran.err.lines().count(), 3, "{}", ran.err);
}

#[tokio::test]
async fn check_warns_of_shared_work_without_other_nodes() {
    let home = Home::new();
    let function = Function::new("f").asynchronous("durability", "\"site\"");
    home.put(&function.table("[[cron]]\nat = \"0 0 * * *\"\nscope = \"cluster\""));
    let check = |variables: &[(&str, &str)]| {
        let mut command = bare(&["check", "-r", &registry_of(&home)]);
        run({
            command.envs(variables.iter().copied());
            command
        })
    };
    let alone = check(&[]).await;
    assert_eq!((alone.status, alone.out.as_str()), (Some(0), "f: ok\n"), "{alone:?}");
    for key in ["async.durability: \"site\"", "cron[0].scope: \"cluster\""] {
        let warning = format!("warning: {}/f/function.toml: {key} needs --cluster, ", registry_of(&home));
        assert!(alone.err.lines().any(|line| line.starts_with(&warning)), "no {warning} in {}", alone.err);
    }
    let joined = check(&[("UNIFAAS_CLUSTER", "nats://n"), ("UNIFAAS_PEER_LISTEN", "127.0.0.1:1")]).await;
    assert_eq!((joined.status, joined.out.as_str(), joined.err.as_str()), (Some(0), "f: ok\n", ""));
}

#[tokio::test]
async fn check_of_the_host_names_what_functions_lack() {
    let home = Home::new();
    home.put(&Function::new("process"));
    home.put(&Function::verbatim("engine", "[container]\nimage = \"no-such-image\"\n"));
    home.put(&Function::new("large").process("memory", 4096));
    let checked = async |options: &[&str], variables: &[(&str, &str)]| {
        let mut command = bare(&[&["check", "-r", &registry_of(&home), "--host"], options].concat());
        command.env("UNIFAAS_MEMORY_BUDGET", "1024").env("DOCKER_HOST", "unix:///no/such/socket");
        command.envs(variables.iter().copied());
        run(command).await
    };
    let ran = checked(&[], &[]).await;
    assert_eq!(ran.status, Some(1), "{ran:?}");
    let lines = golden(&ran.out);
    for start in [
        "HOST STATE NEEDED BY DETAIL",
        "memory 4096 MiB missing large the budget is 1024 MiB (--memory-budget)",
        "memory 128 MiB ok ",
        "container engine missing engine unix:///no/such/socket cannot be reached",
        "image no-such-image missing engine ",
        "nft ",
        "KVM ",
    ] {
        assert!(lines.iter().any(|line| line.starts_with(start)), "no {start} in {lines:?}");
    }
    assert!(ran.err.contains("this host lacks 3 of what functions need"), "{}", ran.err);
    let ran = checked(&["--json"], &[("FIRECRACKER_EXE", "/no/such")]).await;
    let json: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    let host = json["host"].as_array().unwrap();
    let firecracker = host.iter().find(|check| check["what"] == "firecracker").unwrap();
    assert!(firecracker["missing"].as_str().unwrap().contains("/no/such"), "{firecracker}");
    // Without functions, nothing is needed.
    fs::remove_dir_all(home.registry()).unwrap();
    run(bare(&["check", "--host"])).await.ok();
}
