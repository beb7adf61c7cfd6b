//! Isolation of guests: what they reach and what they do not, probed from inside.

use std::{
    fs,
    net::Ipv4Addr,
    process::Command,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

use integration::{
    Daemon, SOON, Setup, eventually, processes, request,
    vm::{Kind, Vm, add_interface, forward, ip, isolated, setup, taps, traces},
};
use serde_json::Value;
use tokio::net::TcpListener;

/// Opens a listener on every address that accepts all connections.
pub(super) async fn open_listener() -> u16 {
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    port
}

/// Returns whether a function's guest can connect to an address.
pub(super) async fn reaches(daemon: &Daemon, function: &str, address: &str) -> bool {
    let reply = daemon.get(&format!("/invoke/{function}/connect?addr={address}")).await.ok().text();
    match reply.trim() {
        "open" => true,
        "refused" | "timeout" | "unreachable" => false,
        other => panic!("{other}"),
    }
}

async fn guest_of(daemon: &Daemon, function: &str) -> Ipv4Addr {
    let address = daemon.instances(function).await[0]["address"].as_str().unwrap().to_owned();
    address.split(':').next().unwrap().parse().unwrap()
}

fn gateway_of(guest: Ipv4Addr) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(guest) - 1)
}

/// Starts a daemon whose front and admin pages are public, with two guests.
async fn two_guests(setup: Setup, a: Vm, b: Vm) -> Daemon {
    let setup = setup.option("--listen", "0.0.0.0:0").option("--admin-listen", "0.0.0.0:0");
    let daemon = setup.function(a.into()).function(b.into()).start().await;
    daemon.get("/invoke/a/").await.ok();
    daemon.get("/invoke/b/").await.ok();
    daemon
}

#[test]
fn guest_reaches_only_its_callback() {
    isolated(|| async {
        add_interface("other", "192.0.2.7/24");
        ip("route add default via 192.0.2.1");
        let open_port = open_listener().await;
        for kind in [Kind::Microvm, Kind::Firecracker] {
            let daemon = two_guests(setup(), Vm::new("a", kind), Vm::new("b", kind)).await;
            let (a, b) = (guest_of(&daemon, "a").await, guest_of(&daemon, "b").await);
            let (gateway, front, callback) = (gateway_of(a), daemon.listen.port(), daemon.callback.port());
            let admin = daemon.admin.expect("an admin listener").port();

            assert!(reaches(&daemon, "a", &format!("{gateway}:{callback}")).await, "the test itself is broken");
            for forbidden in [
                format!("{gateway}:{front}"),
                format!("{gateway}:{admin}"),
                format!("{}:{front}", gateway_of(b)),
                format!("{}:{admin}", gateway_of(b)),
                format!("192.0.2.7:{admin}"),
                format!("192.0.2.7:{open_port}"),
                format!("127.0.0.1:{admin}"),
                format!("{gateway}:{open_port}"),
                format!("{}:{callback}", gateway_of(b)),
                format!("{}:{open_port}", gateway_of(b)),
                format!("{b}:8080"),
                format!("192.0.2.7:{callback}"),
                format!("192.0.2.7:{front}"),
                format!("127.0.0.1:{front}"),
                "192.0.2.1:80".to_owned(),
            ] {
                assert!(!reaches(&daemon, "a", &forbidden).await, "{kind:?}: {forbidden} was reached");
            }
            daemon.get("/invoke/b/").await.ok();
        }
    });
}

#[test]
fn reloaded_host_firewall_keeps_isolation() {
    isolated(|| async {
        add_interface("other", "192.0.2.7/24");
        ip("route add default via 192.0.2.1");
        let open_port = open_listener().await;
        let daemon = two_guests(setup(), Vm::new("a", Kind::any()), Vm::new("b", Kind::any()).vm("egress", true)).await;
        let forbidden = format!("{}:{open_port}", gateway_of(guest_of(&daemon, "a").await));
        let rules = || Command::new("nft").args(["list", "ruleset"]).output().unwrap().stdout;
        let before = rules();
        assert!(String::from_utf8_lossy(&before).contains("\"other\""), "the test itself is broken");
        for _ in 0..3 {
            assert!(Command::new("nft").args(["flush", "ruleset"]).status().unwrap().success());
            eventually(SOON, "the rules are there again", async || rules(), |rules| *rules == before).await;
            assert!(!reaches(&daemon, "a", &forbidden).await, "{forbidden} was reached");
        }
    });
}

#[test]
fn callback_listener_is_reached_only_at_its_address() {
    isolated(|| async {
        add_interface("other", "192.0.2.7/24");
        let setup = setup().option("--callback-listen", "192.0.2.7:0");
        let daemon = two_guests(setup, Vm::new("a", Kind::any()), Vm::new("b", Kind::any())).await;
        assert!(reaches(&daemon, "a", &daemon.callback.to_string()).await);
        assert!(!reaches(&daemon, "a", &format!("192.0.2.7:{}", daemon.listen.port())).await);
    });
}

/// A second namespace with a server that reports its client's address.
struct Outside {
    name: String,
    server: std::process::Child,
}

impl Outside {
    fn new() -> Self {
        // Tests run at the same time, and the names of namespaces are the host's.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("unifaas-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Relaxed));
        ip(&format!("netns add {name}"));
        ip(&format!("link add uplink type veth peer name eth0 netns {name}"));
        ip("addr add 198.51.100.1/24 dev uplink");
        ip("link set uplink up");
        ip("route add default via 198.51.100.2");
        ip(&format!("-n {name} addr add 198.51.100.2/24 dev eth0"));
        ip(&format!("-n {name} link set eth0 up"));
        ip(&format!("-n {name} link set lo up"));
        let server = Command::new("ip")
            .args(["netns", "exec", &name, "python3", "-m", "http.server", "--bind", "198.51.100.2", "8000"])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        Self { name, server }
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
        ip(&format!("netns del {}", self.name));
    }
}

fn forwarding(interface: &str) -> String {
    fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{interface}/forwarding")).unwrap().trim().to_owned()
}

#[test]
fn egress_reaches_outside_but_not_host() {
    isolated(|| async {
        let _outside = Outside::new();
        let open_port = open_listener().await;
        let before = traces();
        assert_eq!(forwarding("uplink"), "0");
        let open = Vm::new("a", Kind::any()).vm("egress", true);
        let mut daemon = two_guests(setup(), open, Vm::new("b", Kind::any())).await;
        let (a, b) = (guest_of(&daemon, "a").await, guest_of(&daemon, "b").await);
        let gateway = gateway_of(a);
        let reached = async || reaches(&daemon, "a", "198.51.100.2:8000").await;
        eventually(SOON, "the outside is reached", reached, |reached| *reached).await;
        assert_eq!(forwarding("uplink"), "1");
        for forbidden in [
            format!("{gateway}:{}", daemon.listen.port()),
            format!("{gateway}:{open_port}"),
            format!("198.51.100.1:{open_port}"),
            format!("{}:{}", gateway_of(b), daemon.callback.port()),
            format!("{b}:8080"),
        ] {
            assert!(!reaches(&daemon, "a", &forbidden).await, "{forbidden} was reached");
        }
        assert!(!reaches(&daemon, "b", "198.51.100.2:8000").await, "without egress");
        assert_eq!(daemon.end().await.status.code(), Some(0));
        assert_eq!(forwarding("uplink"), "0");
        assert_eq!(traces(), before);
    });
}

#[test]
fn forwarding_of_the_host_stays_on() {
    isolated(|| async {
        forward(true);
        let _outside = Outside::new();
        assert_eq!(forwarding("uplink"), "1");
        let open = Vm::new("a", Kind::any()).vm("egress", true);
        let mut daemon = two_guests(setup(), open, Vm::new("b", Kind::any())).await;
        let reached = async || reaches(&daemon, "a", "198.51.100.2:8000").await;
        eventually(SOON, "the outside is reached", reached, |reached| *reached).await;
        assert!(!reaches(&daemon, "b", "198.51.100.2:8000").await, "without egress");
        daemon.end().await;
        assert_eq!(forwarding("uplink"), "1");
    });
}

#[test]
fn daemons_do_not_disable_each_others_egress() {
    isolated(|| async {
        let _outside = Outside::new();
        let before = traces();
        let open = || Vm::new("f", Kind::any()).vm("egress", true);
        let mut first = setup().function(open().into()).start().await;
        let mut second = setup().option("--subnet", "10.101.0.0/16").function(open().into()).start().await;
        let both_reach = async |daemons: &[&Daemon]| {
            for daemon in daemons {
                let reached = async || reaches(daemon, "f", "198.51.100.2:8000").await;
                eventually(SOON, "the outside is reached", reached, |reached| *reached).await;
            }
        };
        both_reach(&[&first, &second]).await;
        first.end().await;
        assert_eq!(forwarding("uplink"), "1");
        both_reach(&[&second]).await;
        second.end().await;
        assert_eq!(forwarding("uplink"), "0");
        assert_eq!(traces(), before);
    });
}

#[test]
fn callback_of_another_guest_is_rejected() {
    isolated(|| async {
        let setup =
            setup().function(Vm::new("victim", Kind::Microvm).cmdline("ip=%ip gw=%gateway wanted=%callback").into());
        let daemon = setup.start().await;
        let mut waiter = daemon.connect().await;
        let waits =
            tokio::spawn(async move { waiter.send(request("GET", "/invoke/victim/", integration::empty())).await });
        let victim = daemon.until("victim", "booting", 1).await;
        let pid = u32::try_from(victim["instances"][0]["pid"].as_u64().unwrap()).unwrap();
        // The test reads it as root; a guest would have to guess.
        let line = processes::arguments(pid).join(" ");
        let (_, token) = line.split_once("/ready/").expect("the callback is on the command line");
        let token: String = token.chars().take_while(|c| c.is_ascii_alphanumeric()).collect();

        let cmdline = format!(
            "ip=%ip gw=%gateway mask=%netmask own=%callback callback=http://%gateway:{}/ready/{token}",
            daemon.callback.port()
        );
        daemon.home.put(&Vm::new("liar", Kind::Microvm).cmdline(&cmdline).set("min-instances", 1).into());
        let refused = |function: &Value| function["callbacks_refused"].as_u64() >= Some(1);
        daemon.settled("victim", "the callback was refused", refused).await;
        daemon.until("victim", "booting", 1).await;
        daemon.until("liar", "booting", 1).await;
        waits.abort();
    });
}

#[test]
fn missing_nft_refuses_vms() {
    isolated(|| async {
        let empty = tempfile::tempdir().unwrap();
        let setup = setup().variable("PATH", empty.path().as_os_str()).function(Vm::new("f", Kind::Microvm).into());
        let daemon = setup.function(integration::Function::new("process")).start().await;
        let problem = daemon.get("/invoke/f/").await.problem(502, "start_failed").to_string();
        assert!(problem.contains("nftables"), "{problem}");
        daemon.get("/invoke/process/pid").await.ok();
        assert_eq!(taps(), Vec::<String>::new());
    });
}
