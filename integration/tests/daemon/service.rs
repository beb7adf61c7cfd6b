//! The daemon under a service manager: notifications, the watchdog, and a front socket that outlives it.

use std::{
    net::{SocketAddr, TcpListener},
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::future::join_all;
use hyper::HeaderMap;
use integration::{
    AT_ONCE, Answer, Connection, Daemon, Function, Home, Load, Outcome, Setup, Workload, empty, eventually, h2::Http2,
    ms, refusal, request, tally, within,
};
use nix::{
    sys::{
        ptrace,
        signal::Signal,
        wait::{WaitPidFlag, waitpid},
    },
    unistd::Pid,
};
use tokio::{net::UnixDatagram, time::timeout};

/// Makes standard input the passed socket.
const PASS: &str = "exec 3<&0 0</dev/null; export LISTEN_FDS=1 LISTEN_PID=$$; exec \"$0\" \"$@\"";

/// The service manager's end of the notifications.
struct Manager(UnixDatagram);

impl Manager {
    /// Listens for the notifications of the daemon that `setup` makes.
    fn of(home: &Home, setup: Setup) -> (Self, Setup) {
        let path = home.path("notify");
        let manager = Self(UnixDatagram::bind(&path).unwrap());
        (manager, setup.variable("NOTIFY_SOCKET", &path))
    }

    /// Waits for the next notification.
    async fn next(&self, limit: Duration) -> Option<String> {
        let mut bytes = vec![0; 4096];
        let length = timeout(limit, self.0.recv(&mut bytes)).await.ok()?.unwrap();
        Some(String::from_utf8_lossy(&bytes[..length]).into_owned())
    }

    /// Drops the notifications that have come.
    fn forget(&self) {
        while self.0.try_recv(&mut [0; 4096]).is_ok() {}
    }
}

/// A socket that listens for every daemon at a home.
struct Front {
    home: Arc<Home>,
    socket: TcpListener,
}

impl Front {
    fn new() -> Self {
        Self { home: Home::new(), socket: TcpListener::bind("127.0.0.1:0").unwrap() }
    }

    fn address(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }

    async fn start(&self, setup: Setup) -> Daemon {
        let setup = setup.run_by(["sh", "-c", PASS]);
        let mut command = setup.command();
        command.stdin(OwnedFd::from(self.socket.try_clone().unwrap()));
        setup.start_as(command).await
    }

    async fn daemon(&self) -> Daemon {
        self.start(Setup::at(&self.home)).await
    }
}

#[tokio::test]
async fn readiness_and_end_are_reported() {
    let home = Home::new();
    let setup = Setup::at(&home).function(Function::new("f"));
    let (manager, setup) = Manager::of(&home, setup);
    let mut daemon = setup.start().await;
    let ready = manager.next(ms(1000)).await.expect("a notification");
    assert!(ready.starts_with("READY=1\nSTATUS=serving http://127.0.0.1:"), "{ready}");
    daemon.end().await;
    assert!(manager.next(ms(1000)).await.expect("a notification").starts_with("STOPPING=1\nSTATUS="));
}

#[tokio::test]
async fn no_readiness_is_reported_if_the_port_is_taken() {
    let home = Home::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let setup = Setup::at(&home).option("--listen", taken.local_addr().unwrap().to_string());
    let (manager, setup) = Manager::of(&home, setup);
    refusal(setup.command()).await;
    assert_eq!(manager.next(ms(100)).await, None);
}

#[tokio::test]
async fn connections_succeed_as_soon_as_readiness_is_reported() {
    let home = Home::new();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    drop(socket);
    let setup = Setup::at(&home).function(Function::new("f")).option("--listen", address.to_string());
    let (manager, setup) = Manager::of(&home, setup);
    let daemon = tokio::spawn(setup.start());
    manager.next(ms(10_000)).await.expect("it is ready");
    let mut connection = Connection::open(address).await.expect("it accepts connections");
    connection.send(request("GET", "/invoke/f/pid", empty())).await.unwrap().ok();
    drop(daemon.await.unwrap());
}

#[tokio::test]
async fn watchdog_is_fed_by_the_actors_thread() {
    let home = Home::new();
    let (manager, setup) = Manager::of(&home, Setup::at(&home).variable("WATCHDOG_USEC", "900000"));
    let daemon = setup.start().await;
    manager.next(ms(1000)).await.expect("it is ready");
    for _ in 0..3 {
        assert_eq!(manager.next(ms(2000)).await.as_deref(), Some("WATCHDOG=1\n"));
    }
    // Stops the first thread only, which is that of the actors.
    let thread = Pid::from_raw(daemon.pid.cast_signed());
    ptrace::seize(thread, ptrace::Options::empty()).unwrap();
    ptrace::interrupt(thread).unwrap();
    waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap();
    manager.forget();
    assert_eq!(manager.next(ms(900)).await, None);
    assert_eq!(daemon.get("/healthz").await.status, 200, "other threads run");
    ptrace::detach(thread, None).unwrap();
    assert_eq!(manager.next(ms(2000)).await.as_deref(), Some("WATCHDOG=1\n"));
}

#[tokio::test]
async fn watchdog_of_another_process_is_not_fed() {
    let home = Home::new();
    let setup = Setup::at(&home).variable("WATCHDOG_USEC", "100000").variable("WATCHDOG_PID", "1");
    let (manager, setup) = Manager::of(&home, setup);
    let _daemon = setup.start().await;
    manager.next(ms(1000)).await.expect("it is ready");
    assert_eq!(manager.next(ms(300)).await, None);
}

/// Sends requests over new connections.
async fn fresh_clients(address: SocketAddr, over: Arc<AtomicBool>) -> usize {
    let mut answers = 0;
    while !over.load(Ordering::Relaxed) {
        let mut connection = Connection::open(address).await.expect("the socket listens");
        let reply = connection.send(request("GET", "/invoke/f/sleep?ms=5", empty())).await;
        reply.unwrap_or_else(|error| panic!("a new connection got no answer: {error:?}")).ok();
        answers += 1;
    }
    answers
}

#[tokio::test]
async fn restarts_under_load_fail_no_request() {
    let front = Front::new();
    front.home.put(&Function::new("f").set("concurrent-requests", 16));
    let mut daemon = front.daemon().await;
    let workload = Workload { method: "POST", path: "/invoke/f/sleep?ms=5", clients: 4, pause: ms(10) };
    let long = Workload { method: "GET", path: "/invoke/f/sleep?ms=800", clients: 1, pause: ms(10) };
    let load = Load::on(front.address(), &[workload, long]);
    let over = Arc::new(AtomicBool::new(false));
    let fresh: Vec<_> = (0..2).map(|_| tokio::spawn(fresh_clients(front.address(), over.clone()))).collect();
    for _ in 0..3 {
        tokio::time::sleep(ms(400)).await;
        let ending = daemon.end().await;
        assert_eq!(ending.status.code(), Some(0));
        assert!(ending.took < AT_ONCE, "{ending:?}");
        daemon = front.daemon().await;
    }
    tokio::time::sleep(ms(400)).await;
    over.store(true, Ordering::Relaxed);
    let answers = load.stop().await;
    let bad: Vec<&Answer> =
        answers.iter().filter(|answer| answer.outcome != Outcome::Function { status: 200 }).collect();
    assert!(bad.is_empty(), "{bad:?} among {:?}", tally(&answers));
    assert!(answers.len() > 20, "{:?}", tally(&answers));
    for answers in join_all(fresh).await {
        assert!(answers.unwrap() > 5);
    }
}

#[tokio::test]
async fn new_connections_wait_for_the_next_daemon() {
    let front = Front::new();
    front.home.put(&Function::new("f").set("max-instances", 1));
    let mut daemon = front.daemon().await;
    let mut kept = daemon.connect().await;
    let first = kept.send(request("GET", "/invoke/f/pid", empty())).await.unwrap().ok().text();
    let mut idle = daemon.connect().await;
    idle.send(request("GET", "/invoke/f/pid", empty())).await.unwrap().ok();
    daemon.signal(Signal::SIGTERM);
    daemon.logged("wait for the next").await;
    tokio::time::sleep(ms(50)).await;

    let mut waiting = Connection::open(front.address()).await.expect("the socket listens");
    let waiting = tokio::spawn(async move { waiting.send(request("GET", "/invoke/f/pid", empty())).await });
    // A request on a kept connection is served, and is its last.
    let reply = kept.send(request("GET", "/invoke/f/pid", empty())).await.unwrap().ok();
    assert_eq!((reply.header("connection").as_deref(), reply.text()), (Some("close"), first.clone()));
    eventually(AT_ONCE, "the idle connection is closed", async || idle.is_open(), |open| !open).await;
    assert_eq!(daemon.ended().await.status.code(), Some(0));
    assert!(!waiting.is_finished());

    let _next = front.daemon().await;
    let reply = within(AT_ONCE, "the next daemon answers", waiting).await.unwrap().unwrap().ok();
    assert_ne!(reply.text(), first, "another daemon's instance");
}

#[tokio::test]
async fn http2_connection_that_is_never_idle_is_handed_over() {
    let front = Front::new();
    front.home.put(&Function::new("f").set("concurrent-requests", 64));
    let mut daemon = front.daemon().await;
    let busy = Http2::connect(front.address()).await;
    let idle = Http2::connect(front.address()).await;
    idle.get("/invoke/f/pid").await.ok();
    // Longer than kept connections are served.
    let long = busy.start("GET", "/invoke/f/sleep?ms=2500", &HeaderMap::new(), true).await.unwrap();
    let streams = async {
        loop {
            match busy.send("GET", "/invoke/f/sleep?ms=20", Bytes::new()).await {
                Ok(reply) => drop(reply.ok()),
                Err(error) => return error,
            }
        }
    };
    daemon.signal(Signal::SIGTERM);
    let ended = within(AT_ONCE, "a new stream is refused by GOAWAY", streams).await;
    assert!(ended.is_go_away() && ended.is_remote() && ended.reason() == Some(h2::Reason::NO_ERROR), "{ended:?}");
    let refused = idle.send("GET", "/invoke/f/pid", Bytes::new()).await.unwrap_err();
    assert!(refused.is_go_away() && refused.reason() == Some(h2::Reason::NO_ERROR), "{refused:?}");
    let (response, _) = long.response().await.expect("a stream that was begun is served");
    assert_eq!(response.status(), 200);
    assert_eq!(daemon.ended().await.status.code(), Some(0));
}

#[tokio::test]
async fn second_signal_ends_a_handover() {
    let front = Front::new();
    front.home.put(&Function::new("f").flag("--ignore-sigterm").set("stop-grace", 20).set("timeout", 0));
    let mut daemon = front.start(Setup::at(&front.home).option("--drain-grace", "60")).await;
    let mut connection = daemon.connect().await;
    let endless =
        tokio::spawn(async move { connection.send(request("GET", "/invoke/f/sleep?ms=60000", empty())).await });
    daemon.until("f", "busy", 1).await;
    daemon.signal(Signal::SIGTERM);
    daemon.logged("wait for the next").await;
    daemon.signal(Signal::SIGTERM);
    let ending = daemon.ended().await;
    assert!(ending.took < AT_ONCE, "{ending:?}");
    assert_eq!(ending.status.code(), Some(0));
    endless.abort();
}

#[tokio::test]
async fn listen_without_effect_is_a_warning() {
    let front = Front::new();
    let warning = "`listen` has no effect";
    let daemon = front.daemon().await;
    assert_eq!(daemon.listen, front.address());
    assert!(daemon.logged("\"serving\"").await.contains(warning), "these tests set it: {}", daemon.log());
    drop(daemon);
    let front = Front::new();
    let daemon = front.start(Setup::at(&front.home).without("--listen")).await;
    assert!(!daemon.logged("\"serving\"").await.contains(warning), "{}", daemon.log());
}

#[tokio::test]
async fn unusable_sockets_are_refused() {
    let listening = || OwnedFd::from(TcpListener::bind("127.0.0.1:0").unwrap());
    let datagram = OwnedFd::from(std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
    let peer = TcpListener::bind("127.0.0.1:0").unwrap();
    let connected = OwnedFd::from(std::net::TcpStream::connect(peer.local_addr().unwrap()).unwrap());
    let two = PASS.replace("LISTEN_FDS=1", "LISTEN_FDS=2");
    for (socket, script, reason) in [
        (listening(), two.as_str(), "2 were passed"),
        (datagram, PASS, "not a valid tcp socket"),
        (connected, PASS, "does not listen"),
    ] {
        let setup = Setup::default().run_by(["sh", "-c", script]);
        let mut command = setup.command();
        command.stdin(socket);
        let line = refusal(command).await;
        assert!(line.contains("LISTEN_FDS") && line.contains(reason), "{line}");
    }
}
