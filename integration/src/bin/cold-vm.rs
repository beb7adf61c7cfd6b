//! What a cold start costs through UniFaaS, beside the same machine monitor started by hand. Prints medians, and the fastest
//! of each, which tell more on a busy machine.
//!
//! Both are measured in turn, in one network namespace: by hand from the spawn of the monitor over the guest's callback to
//! the first byte of a response, through UniFaaS from the request to that byte. The monitor's arguments by hand are those
//! that UniFaaS has used, but for names and addresses. Run it as root, with release builds of both:
//! `UNIFAAS_EXE=target/release/unifaas cargo run --release -p integration --bin cold-vm [ROUNDS]`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a bench fails by panicking, and prints"
)]

use std::{
    env, fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use integration::{
    Daemon, Setup, processes,
    vm::{Kind, Vm, ip, isolated, prepared},
};
use serde_json::{Value, json};
use tokio::time::Instant;

/// Starts of each kind. With few of them the median goes up and down by several milliseconds from run to run.
const ROUNDS: usize = 101;
/// After each start: the kernel is still busy with the interface of one that has just ended.
const REST: Duration = Duration::from_millis(300);
const TAP: &str = "byhand0";
const HOST: &str = "10.200.0.1";
const GUEST: &str = "10.200.0.2";
const MAC: &str = "02:fa:0a:c8:00:02";

fn main() {
    let rounds = env::args().nth(1).map_or(ROUNDS, |word| word.parse().expect("a number of rounds"));
    isolated(move || async move {
        ip(&format!("tuntap add {TAP} mode tap"));
        ip(&format!("addr add {HOST}/30 dev {TAP}"));
        ip(&format!("link set {TAP} up"));
        bench("QEMU microvm", Kind::Microvm, rounds).await;
        match firecracker() {
            Some(program) => {
                println!("with {}:", program.display());
                bench("Firecracker", Kind::Firecracker, rounds).await;
            }
            None => println!("Firecracker: not here, not measured"),
        }
    });
}

/// The real one.
fn firecracker() -> Option<PathBuf> {
    let chosen = env::var_os("FIRECRACKER_EXE").map(PathBuf::from);
    let path = env::var_os("PATH").unwrap_or_default();
    chosen
        .or_else(|| env::split_paths(&path).map(|directory| directory.join("firecracker")).find(|path| path.is_file()))
}

async fn bench(name: &str, kind: Kind, rounds: usize) {
    let mut setup = prepared(Setup::default());
    if let Some(real) = firecracker() {
        setup = setup.variable("FIRECRACKER_EXE", real);
    }
    let template = setup.function(Vm::new("template", kind).into());
    let daemon = template.function(Vm::new("f", kind).set("single-use", true).into()).start().await;
    daemon.get("/invoke/template/").await.ok();
    let pid = u32::try_from(daemon.instances("template").await[0]["pid"].as_u64().unwrap()).unwrap();
    let by_hand = ByHand::like(&processes::arguments(pid));
    let (mut direct, mut through) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        direct.push(by_hand.once());
        tokio::time::sleep(REST).await;
        through.push(once(&daemon));
        daemon.settled("f", "no instance", |function| function["instances"] == json!([])).await;
        tokio::time::sleep(REST).await;
    }
    direct.sort();
    through.sort();
    for (what, place) in [("median", rounds / 2), ("fastest", 0)] {
        let (direct, through) = (direct[place], through[place]);
        let more = through.as_secs_f64() * 1e3 - direct.as_secs_f64() * 1e3;
        println!("{name}, {what} of {rounds}: by hand {direct:.1?}, through UniFaaS {through:.1?}: {more:+.1} ms");
    }
}

fn once(daemon: &Daemon) -> Duration {
    let start = Instant::now();
    first_byte(daemon.listen, "/invoke/f/hello");
    start.elapsed()
}

/// Asks over a new connection and waits for the first byte.
fn first_byte(server: SocketAddr, path: &str) {
    let mut stream = TcpStream::connect(server).expect("a connection");
    stream.set_nodelay(true).unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").as_bytes()).unwrap();
    let mut start = [0; 12];
    stream.read_exact(&mut start).expect("a response");
    assert_eq!(&start[9..], b"200");
    let _ = stream.read_to_end(&mut Vec::new());
}

/// A machine monitor with the arguments that UniFaaS gave to one.
struct ByHand {
    program: String,
    arguments: Vec<String>,
    callback: TcpListener,
    _files: tempfile::TempDir,
}

impl ByHand {
    fn like(line: &[String]) -> Self {
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
        Self { program: line[0].clone(), arguments, callback, _files: files }
    }

    fn once(&self) -> Duration {
        let (_monitor, stdin) = UnixStream::pair().unwrap();
        let start = Instant::now();
        let child = Command::new(&self.program)
            .args(&self.arguments)
            .stdin(OwnedFd::from(stdin))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the machine monitor can be run");
        let _running = Running(child);
        let (mut call, _) = self.callback.accept().expect("a callback");
        let _ = call.read(&mut [0; 1024]);
        call.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
        first_byte(format!("{GUEST}:8080").parse().unwrap(), "/hello");
        start.elapsed()
    }
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
