//! The shipped functions in virtual machines, and a daemon without the privilege for them.

use std::{fs, net::SocketAddr, time::Duration};

use integration::{
    Function, cli, eventually, linux, shipped,
    vm::{self, Kind, Vm, daemon, isolated, setup, without_net_admin},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

#[test]
fn shipped_unikernel_functions_answer() {
    isolated(|| async {
        let daemon = setup().option("--registry", shipped("registry")).start().await;
        for function in ["hello-firecracker", "hello-microvm", "hello-qemu"] {
            let text = daemon.get(&format!("/invoke/{function}/")).await.ok().text();
            assert!(text.starts_with("Hello from the unikernel at 10.100."), "{function}: {text}");
        }
        let text = daemon.get("/invoke/hello-restored/").await.ok().text();
        assert_eq!(text, "Hello from the unikernel at 10.0.2.15\n");
    });
}

/// Returns a connection to a unikernel that has answered on it. `None`: it has not.
async fn answered(address: SocketAddr) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    stream.write_all(b"GET /hello HTTP/1.1\r\nHost: f\r\n\r\n").await.ok()?;
    let mut status = [0; 12];
    stream.read_exact(&mut status).await.ok()?;
    (&status == b"HTTP/1.1 200").then_some(stream)
}

#[test]
fn idle_connections_of_the_unikernel_make_room_for_new_clients() {
    isolated(|| async {
        let mut daemon = daemon(Vm::new("f", Kind::Microvm)).await;
        daemon.get("/invoke/f/").await.ok();
        let address = daemon.instances("f").await[0]["address"].as_str().unwrap().parse().unwrap();
        // More than it has, and all of them stay open.
        let mut open = Vec::new();
        for number in 0..80 {
            let what = format!("the answer on connection {number}");
            open.push(
                eventually(Duration::from_secs(30), what, async || answered(address).await, Option::is_some).await,
            );
        }
        daemon.end().await;
    });
}

#[test]
fn linux_boots_and_answers() {
    isolated(|| async {
        if let Some(missing) = linux::obstacle() {
            return vm::skip(&missing);
        }
        let text = fs::read_to_string(shipped("registry/linux-qemu/function.toml")).unwrap();
        // A busy machine takes longer than one with KVM.
        let text = format!("boot-timeout = {}\n{text}", linux::BOOT_TIMEOUT)
            .replace("../../examples", &shipped("examples").canonicalize().unwrap().display().to_string());
        let daemon = setup().function(Function::verbatim("linux-qemu", &text)).start().await;
        let text = daemon.get("/invoke/linux-qemu/").await.ok().text();
        assert!(text.to_lowercase().contains("hello"), "{text}");
        daemon.post("/invoke/linux-qemu/a/path", "a body").await.ok();
        assert_eq!(daemon.function("linux-qemu").await["instances_started"], 1);
    });
}

#[test]
fn missing_privilege_refuses_only_vms() {
    isolated(|| async {
        without_net_admin();
        let setup = setup().function(Vm::new("f", Kind::Microvm).into()).function(Function::new("process"));
        let user = Vm::new("user", Kind::Microvm).vm("network", "\"user\"");
        let daemon = setup.function(user.into()).start().await;
        let problem = daemon.get("/invoke/f/").await.problem(502, "start_failed").to_string();
        assert!(problem.contains("CAP_NET_ADMIN"), "{problem}");
        daemon.get("/invoke/process/pid").await.ok();
        daemon.get("/invoke/user/").await.ok();
    });
}

#[test]
fn only_user_of_a_namespace_starts_vms_without_taps() {
    isolated(|| async {
        let disk = tempfile::tempdir().unwrap();
        let image = vm::image(disk.path(), 1);
        let user = Vm::new("f", Kind::Microvm).vm("network", "\"user\"").vm("image", format!("{image:?}"));
        let daemon = setup().run_by(["unshare", "--user", "--map-root-user"]).function(user.into()).start().await;
        daemon.get("/invoke/f/").await.ok();
        let line = daemon.logged_line("VMMs run as root, with the capabilities for file access only").await;
        assert_eq!(line["why"], "the daemon's user namespace has no user 65534");
    });
}

#[test]
fn template_of_a_unikernel_runs_with_the_kernel_of_the_repository() {
    isolated(|| async {
        let setup = setup();
        let home = setup.home().clone();
        let text =
            cli::run_in(&home.path(""), cli::bare(&["new", "mine", "-t", "unikernel", "-r", "registry"])).await.ok();
        let daemon = setup.start().await;
        let problem = daemon.get("/invoke/mine/").await.problem(500, "function_misconfigured").to_string();
        assert!(problem.contains("unikernel.elf"), "{problem}");
        std::os::unix::fs::symlink(vm::unikernel(), home.path("unikernel.elf")).unwrap();
        let build = text.lines().find_map(|line| line.strip_prefix("    cp ")).unwrap();
        let mut command = std::process::Command::new("sh");
        command.args(["-ec", &format!("cp {build}")]);
        cli::run_in(&home.path(""), command).await.ok();
        daemon.answers("/invoke/mine/", 200).await;
        let answer = daemon.cli(&["invoke", "mine"]).await.ok();
        assert!(answer.starts_with("Hello from the unikernel"), "{answer}");
    });
}
