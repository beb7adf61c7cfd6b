//! Virtual machines in a network namespace. By hand: spawn the same VMM with the same arguments except names and addresses,
//! answer the guest's callback, and send the daemon's request.

use std::{
    fs,
    net::TcpListener,
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::{Command, Stdio},
    sync::mpsc,
    time::Duration,
};

pub use integration::vm::Kind;
use integration::{
    Setup, processes,
    vm::{Vm, ip, isolated, obstacle, prepared},
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{Starts, process::answer_callback};
use crate::{
    apart,
    ask::{ForwardedRequest, first_byte},
    child::{Running, WITH_PARENT},
    firecracker,
    options::Options,
    progress,
};

/// With few rounds, the median varies by several milliseconds between runs.
const ROUNDS: usize = 61;
/// Pause after each start: the kernel is still busy with the removed interface.
const SETTLE_TIME: Duration = Duration::from_millis(300);
const TAP: &str = "byhand0";
const HOST: &str = "10.200.0.1";
const GUEST: &str = "10.200.0.2";
const MAC: &str = "02:fa:0a:c8:00:02";

/// Alternates starts by hand and through UniFaaS.
pub fn starts(kind: Kind, options: &Options) -> Result<Starts, String> {
    if let Some(why) = obstacle() {
        return Err(why);
    }
    let rounds = options.rounds(ROUNDS);
    progress(&format!("cold: virtual machine, {kind:?}, {rounds} rounds"));
    let (tell, told) = mpsc::channel();
    apart(async || {
        isolated(move || async move {
            ip(&format!("tuntap add {TAP} mode tap"));
            ip(&format!("addr add {HOST}/30 dev {TAP}"));
            ip(&format!("link set {TAP} up"));
            let _ = tell.send(alternate(kind, rounds).await);
        });
    })?;
    told.recv().map_err(|error| error.to_string())
}

async fn alternate(kind: Kind, rounds: usize) -> Starts {
    let mut setup = prepared(Setup::default()).run_by(WITH_PARENT);
    if let Some(real) = firecracker() {
        setup = setup.variable("FIRECRACKER_EXE", real);
    }
    let setup = setup.function(ForwardedRequest::function());
    let template = setup.function(Vm::new("template", kind).into());
    let daemon = template.function(Vm::new("f", kind).set("single-use", true).into()).start().await;
    daemon.get("/invoke/template/").await.ok();
    let pid = u32::try_from(daemon.instances("template").await[0]["pid"].as_u64().unwrap()).unwrap();
    let by_hand = ByHand::like(&processes::arguments(pid), ForwardedRequest::of(daemon.listen));
    let mut starts = Starts::default();
    for round in 0..=rounds {
        let began = Instant::now();
        let running = by_hand.run();
        let by_hand = began.elapsed();
        drop(running);
        sleep(SETTLE_TIME).await;
        let began = Instant::now();
        first_byte(daemon.listen, "/invoke/f/hello");
        let through = began.elapsed();
        daemon.settled("f", "no instance", |function| function["instances"] == json!([])).await;
        sleep(SETTLE_TIME).await;
        if round > 0 {
            starts.push(by_hand, through);
        }
    }
    starts
}

/// A VMM with the same arguments as a VMM of UniFaaS.
struct ByHand {
    program: String,
    arguments: Vec<String>,
    callback: TcpListener,
    request: ForwardedRequest,
    _files: tempfile::TempDir,
}

impl ByHand {
    fn like(line: &[String], request: ForwardedRequest) -> Self {
        let callback = TcpListener::bind((HOST, 0)).expect("a port for callbacks");
        let port = callback.local_addr().unwrap().port();
        let cmdline = format!("ip={GUEST} gw={HOST} mask=255.255.255.252 callback=http://{HOST}:{port}/ready/x");
        let files = tempfile::tempdir().unwrap();
        let line: Vec<String> = line.iter().filter(|word| !word.is_empty()).cloned().collect();
        let mut arguments = line[1..].to_vec();
        for position in 1..arguments.len() {
            let replaced = match arguments[position - 1].as_str() {
                "-append" => cmdline.clone(),
                "-netdev" => format!("tap,id=net,ifname={TAP},script=no,downscript=no"),
                "-device" if arguments[position].starts_with("virtio-net") => {
                    format!("virtio-net-device,netdev=net,mac={MAC}")
                }
                "--config-file" => {
                    let mut config: Value = serde_json::from_slice(&fs::read(&arguments[position]).unwrap()).unwrap();
                    config["boot-source"]["boot_args"] = cmdline.clone().into();
                    config["network-interfaces"][0]["host_dev_name"] = TAP.into();
                    config["network-interfaces"][0]["guest_mac"] = MAC.into();
                    let path = files.path().join("config.json");
                    fs::write(&path, config.to_string()).unwrap();
                    path.to_string_lossy().into_owned()
                }
                _ => continue,
            };
            arguments[position] = replaced;
        }
        Self { program: line[0].clone(), arguments, callback, request, _files: files }
    }

    /// Starts the VMM, answers the callback and sends a request. Dropping the second value ends the first.
    fn run(&self) -> (Running, UnixStream) {
        let (monitor, stdin) = UnixStream::pair().unwrap();
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).stdin(OwnedFd::from(stdin)).stdout(Stdio::null()).stderr(Stdio::null());
        let running = Running::new(command.spawn().expect("the VMM can be executed"));
        answer_callback(&self.callback);
        self.request.first_byte(format!("{GUEST}:8080").parse().unwrap(), "/hello");
        (running, monitor)
    }
}
