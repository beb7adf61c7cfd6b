//! Orderly and disorderly ends of the daemon, refused starts, and leftovers.

use std::{fs::File, net::TcpListener, os::unix::fs::OpenOptionsExt, process::Command, sync::Arc};

use futures::{SinkExt, StreamExt, future::join_all};
use integration::{
    AT_ONCE, Connection, Daemon, Ending, Function, Home, SOON, Setup, cgroups_are_usable, empty, ms, refusal, request,
    within,
};
use nix::{
    fcntl::OFlag,
    pty::{grantpt, posix_openpt, ptsname_r, unlockpt},
    sys::signal::Signal,
};
use tokio::net::TcpStream;
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::Message};

/// Sends requests until a 503 or a refused connection; returns the number of responses, and whether there was a 503.
///
/// # Panics
/// When an accepted request gets no response or an unexpected one.
async fn client(daemon: &Daemon) -> (u32, bool) {
    let mut served = 0;
    loop {
        let Ok(mut connection) = Connection::open(daemon.listen).await else { return (served, false) };
        let reply = match connection.send(request("GET", "/invoke/f/sleep?ms=20", empty())).await {
            Ok(reply) => reply,
            Err(error) => panic!("a request was dropped: {error:?}"),
        };
        if reply.status == 503 {
            reply.problem(503, "draining");
            assert!(reply.retry_after() >= 1);
            assert_eq!(reply.header("connection").as_deref(), Some("close"));
            return (served, true);
        }
        reply.ok();
        served += 1;
    }
}

async fn drains_under_load(signal: Signal) {
    let function = Function::new("f").set("concurrent-requests", 4);
    let mut daemon = Setup::default().option("--drain-grace", "8").function(function).start().await;
    let pid = daemon.pid;
    let home = Arc::clone(&daemon.home);
    let long = join_all((0..4).map(|_| daemon.get("/invoke/f/sleep?ms=2000")));
    let clients = join_all((0..16).map(|_| client(&daemon)));
    let signalled = async {
        tokio::time::sleep(ms(800)).await;
        integration::processes::signal(pid, signal);
    };
    let (long, served, ()) = futures::join!(long, clients, signalled);
    for reply in long {
        reply.ok();
    }
    assert!(served.iter().all(|(served, _)| *served > 0), "{served:?}");
    assert!(served.iter().any(|(_, refused)| *refused), "no client got a 503: {served:?}");
    let ending = daemon.ended().await;
    assert_eq!(ending.status.code(), Some(0), "{}", daemon.log());
    assert!(ending.took < AT_ONCE, "{ending:?}");
    assert_eq!(home.processes(), Vec::<u32>::new());
}

#[tokio::test]
async fn sigterm_under_load_drops_no_accepted_request() {
    drains_under_load(Signal::SIGTERM).await;
}

#[tokio::test]
async fn sigint_under_load_drops_no_accepted_request() {
    drains_under_load(Signal::SIGINT).await;
}

#[tokio::test]
async fn waiting_requests_get_503_at_end() {
    let function = Function::new("f").set("max-instances", 1);
    let daemon = Setup::default().option("--drain-grace", "5").function(function).start().await;
    daemon.get("/invoke/f/pid").await.ok();
    let busy = daemon.get("/invoke/f/sleep?ms=1500");
    let waiting = async {
        daemon.until("f", "busy", 1).await;
        daemon.get("/invoke/f/pid").await
    };
    let signalled = async {
        daemon.settled("f", "one waits", |function| function["waiting"] == 1).await;
        daemon.signal(Signal::SIGTERM);
    };
    let (busy, waiting, ()) = futures::join!(busy, waiting, signalled);
    busy.ok();
    // Served within the grace or refused: both are correct.
    if waiting.status != 200 {
        waiting.problem(503, "draining");
        waiting.retry_after();
    }
}

#[tokio::test]
async fn idle_daemon_exits_at_once() {
    let mut daemon = Daemon::with(Function::new("f").set("min-instances", 3)).await;
    daemon.until("f", "idle", 3).await;
    let Ending { status, took } = daemon.end().await;
    assert_eq!(status.code(), Some(0));
    assert!(took < AT_ONCE, "{took:?}");
    assert!(daemon.home.processes().is_empty());
}

#[tokio::test]
async fn requests_beyond_drain_grace_are_cut_off() {
    let function = Function::new("f").flag("--ignore-sigterm").set("timeout", 0);
    let mut daemon = Setup::default().option("--drain-grace", "1").function(function).start().await;
    daemon.get("/invoke/f/pid").await.ok();
    let mut connection = daemon.connect().await;
    let endless =
        tokio::spawn(async move { connection.send(request("POST", "/invoke/f/sleep?ms=60000", empty())).await });
    daemon.until("f", "busy", 1).await;
    let Ending { status, took } = daemon.end().await;
    assert_eq!(status.code(), Some(0));
    assert!(took > ms(900) && took < ms(10_000), "{took:?}");
    if let Ok(reply) = endless.await.unwrap() {
        let problem = reply.problem(502, "instance_failed").to_string();
        assert!(problem.contains("its time to finish was over"), "{problem}");
    }
}

#[tokio::test]
async fn second_signal_ends_grace() {
    for second in [Signal::SIGTERM, Signal::SIGINT] {
        let function = Function::new("f").flag("--ignore-sigterm").set("stop-grace", 20).set("timeout", 0);
        let mut daemon = Setup::default().option("--drain-grace", "60").function(function).start().await;
        let mut connection = daemon.connect().await;
        let endless =
            tokio::spawn(async move { connection.send(request("GET", "/invoke/f/sleep?ms=60000", empty())).await });
        daemon.until("f", "busy", 1).await;
        daemon.signal(Signal::SIGTERM);
        tokio::time::sleep(ms(500)).await;
        daemon.signal(second);
        let ending = daemon.ended().await;
        assert!(ending.took < AT_ONCE, "{ending:?}");
        assert_eq!(ending.status.code(), Some(0));
        assert!(daemon.home.processes().is_empty());
        endless.abort();
    }
}

#[tokio::test]
async fn exits_while_functions_boot() {
    let function = Function::new("f").flag("--callbacks").flag("0").set("min-instances", 2);
    let mut daemon = Daemon::with(function).await;
    daemon.until("f", "booting", 2).await;
    let mut connection = daemon.connect().await;
    let waiter = tokio::spawn(async move { connection.send(request("GET", "/invoke/f/pid", empty())).await });
    daemon.settled("f", "one waits", |function| function["waiting"] == 1).await;
    let Ending { status, took } = daemon.end().await;
    assert_eq!(status.code(), Some(0));
    assert!(took < AT_ONCE, "{took:?}");
    waiter.await.unwrap().expect("an answer").problem(503, "draining");
}

#[tokio::test]
async fn drains_streams_and_tunnels() {
    let mut daemon = Setup::default().option("--drain-grace", "6").function(Function::new("f")).start().await;
    let mut connection = daemon.connect().await;
    let stream =
        tokio::spawn(async move { connection.send(request("GET", "/invoke/f/stream?n=10&ms=150", empty())).await });
    daemon.until("f", "busy", 1).await;
    let ending = daemon.end().await;
    assert_eq!(stream.await.unwrap().expect("the whole stream").ok().text().lines().count(), 10);
    assert_eq!(ending.status.code(), Some(0));
}

#[tokio::test]
async fn stalled_readers_delay_exit_at_most_by_grace() {
    let function = Function::new("f").set("concurrent-requests", 16);
    let mut daemon = Setup::default().option("--drain-grace", "1").function(function).start().await;
    let _stalled = join_all((0..16).map(|_| daemon.start(request("GET", "/invoke/f/bytes?mib=200", empty())))).await;
    let ending = daemon.end().await;
    assert_eq!(ending.status.code(), Some(0), "{ending:?}\n{}", daemon.log());
    assert!(ending.took < ms(10_000), "{ending:?}");
}

#[tokio::test]
async fn tunnel_continues_while_draining() {
    let mut daemon = Setup::default().option("--drain-grace", "8").function(Function::new("f")).start().await;
    let stream = TcpStream::connect(daemon.listen).await.unwrap();
    let (mut socket, _) = client_async(format!("ws://{}/invoke/f/ws", daemon.listen), stream).await.unwrap();
    let echo = async |socket: &mut WebSocketStream<TcpStream>, text: &'static str| {
        socket.send(Message::text(text)).await.unwrap();
        let answer = within(SOON, "an echo", socket.next()).await;
        assert_eq!(answer.unwrap().unwrap(), Message::text(text));
    };
    echo(&mut socket, "before").await;
    daemon.signal(Signal::SIGTERM);
    tokio::time::sleep(ms(700)).await;
    echo(&mut socket, "while it drains").await;
    socket.close(None).await.unwrap();
    drop(socket);
    let ending = daemon.ended().await;
    assert_eq!(ending.status.code(), Some(0));
    assert!(ending.took < AT_ONCE, "it waited without reason: {ending:?}");
}

#[tokio::test]
async fn tunnel_ends_with_grace() {
    let mut daemon = Setup::default().option("--drain-grace", "1").function(Function::new("f")).start().await;
    let stream = TcpStream::connect(daemon.listen).await.unwrap();
    let (mut socket, _) = client_async(format!("ws://{}/invoke/f/ws", daemon.listen), stream).await.unwrap();
    let ending = daemon.end().await;
    assert_eq!(ending.status.code(), Some(0));
    assert!(ending.took < ms(10_000), "{ending:?}");
    let end = within(SOON, "the end of the tunnel", socket.next()).await;
    assert!(!matches!(end, Some(Ok(Message::Text(_) | Message::Binary(_)))), "{end:?}");
}

#[tokio::test]
async fn functions_end_with_killed_daemon() {
    let home = Home::new();
    home.put(&Function::new("f").set("min-instances", 2).flag("--ignore-sigterm"));
    let mut daemon = Setup::at(&home).start().await;
    daemon.until("f", "idle", 2).await;
    daemon.signal(Signal::SIGKILL);
    daemon.ended().await;
    home.left(0).await;

    let successor = Setup::at(&home).start().await;
    successor.get("/invoke/f/pid").await.ok();
    successor.until("f", "idle", 2).await;
}

#[tokio::test]
async fn next_daemon_removes_leftovers() {
    if !cgroups_are_usable().await {
        return;
    }
    let home = Home::new();
    home.put(&Function::new("f").set("min-instances", 1).flag("--descendant").flag("own-session"));
    let mut daemon = Setup::at(&home).start().await;
    daemon.until("f", "idle", 1).await;
    daemon.signal(Signal::SIGKILL);
    daemon.ended().await;
    home.put(&Function::new("f"));
    let _successor = Setup::at(&home).start().await;
    home.left(0).await;
}

#[tokio::test]
async fn port_in_use_is_one_error_line() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for option in ["--listen", "--callback-listen"] {
        let setup = Setup::default().function(Function::new("f").set("min-instances", 1)).option(option, &address);
        let line = refusal(setup.command()).await;
        assert!(line.contains(&address) && line.contains(option), "{line}");
        assert!(line.contains(&format!("(pid {})", std::process::id())), "{line}");
    }
}

#[tokio::test]
async fn missing_registry_is_one_error_line() {
    let line = refusal(Setup::default().option("--registry", "/no/such/registry").command()).await;
    assert!(line.contains("/no/such/registry"), "{line}");
    let home = Home::new();
    let file = home.path("a-file");
    std::fs::write(&file, "").unwrap();
    let line = refusal(Setup::default().option("--registry", &file).command()).await;
    assert!(line.contains("a-file"), "{line}");
}

#[tokio::test]
async fn impossible_state_directory_is_one_error_line() {
    // Not even root can create a directory there.
    let line = refusal(Setup::default().option("--state-dir", "/proc/unifaas-state").command()).await;
    assert!(line.contains("/proc/unifaas-state"), "{line}");
}

#[tokio::test]
async fn sigquit_ends_in_order() {
    // The tests themselves may run under nohup.
    let setup = Setup::default().run_by(["env", "--default-signal=QUIT"]);
    let mut daemon = setup.function(Function::new("f").set("min-instances", 1)).start().await;
    daemon.until("f", "idle", 1).await;
    daemon.signal(Signal::SIGQUIT);
    assert_eq!(daemon.ended().await.status.code(), Some(0));
    assert!(daemon.log().contains("SIGQUIT"), "{}", daemon.log());
}

#[tokio::test]
async fn closed_terminal_ends_daemon_in_order() {
    // Not by `openpty`: every child would inherit the master.
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let master = posix_openpt(flags).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let mut slave = File::options();
    slave.read(true).write(true).custom_flags(OFlag::O_NOCTTY.bits());
    let slave = slave.open(ptsname_r(&master).unwrap()).unwrap();
    let setup = Setup::default().run_by(["setsid", "--ctty", "env", "--default-signal=HUP"]);
    let setup = setup.function(Function::new("f").set("min-instances", 1));
    let mut command = setup.command();
    command.stdin(slave);
    let mut daemon = setup.start_as(command).await;
    daemon.until("f", "idle", 1).await;
    drop(master);
    assert_eq!(daemon.ended().await.status.code(), Some(0));
    assert!(daemon.log().contains("SIGHUP"), "{}", daemon.log());
    assert_eq!(daemon.home.processes(), Vec::<u32>::new());
}

#[tokio::test]
async fn ignores_sighup_under_nohup() {
    let daemon = Setup::default().run_by(["nohup"]).function(Function::new("f")).start().await;
    daemon.signal(Signal::SIGHUP);
    for _ in 0..10 {
        daemon.get("/invoke/f/pid").await.ok();
    }
    assert!(!daemon.log().contains("ending"), "{}", daemon.log());
}

#[tokio::test]
async fn ignores_user_signals() {
    let daemon = Daemon::with(Function::new("f")).await;
    for signal in [Signal::SIGUSR1, Signal::SIGUSR2] {
        daemon.signal(signal);
        for _ in 0..5 {
            daemon.get("/invoke/f/pid").await.ok();
        }
    }
}

#[tokio::test]
async fn survives_file_size_limit() {
    let mut daemon = Setup::default().function(Function::new("f").set("single-use", true)).start().await;
    let limit = |soft: &str| {
        let (pid, limits) = (daemon.pid.to_string(), format!("--fsize={soft}:"));
        assert!(Command::new("prlimit").args(["--pid", &pid, &limits]).status().unwrap().success());
    };
    daemon.get("/invoke/f/pid").await.ok();
    limit("10");
    for _ in 0..5 {
        daemon.get("/invoke/f/pid").await.problem(503, "host_saturated");
    }
    limit("unlimited");
    daemon.answers("/invoke/f/pid", 200).await;
    assert_eq!(daemon.end().await.status.code(), Some(0));
}
