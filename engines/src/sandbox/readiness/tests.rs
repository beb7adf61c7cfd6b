//! Probes of servers on loopback.

use std::{cell::Cell, net::Ipv4Addr};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket},
    task::LocalSet,
};

use super::*;

fn probe_at(address: SocketAddr, readiness: Readiness) -> Rc<Probe> {
    Probe::new(Target {
        route: address.into(),
        alternative: None,
        readiness,
        place: Place::Process,
        sockets: Sockets::Hidden,
    })
}

fn healthz() -> Readiness {
    Readiness::Http("/healthz".into())
}

/// Returns an address at which nothing listens.
async fn unused() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap()
}

/// Answers the n-th connection with `answers[n]`, later ones with the last. Counts connections.
async fn server(answers: &'static [&'static str]) -> (SocketAddr, Rc<Cell<usize>>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let count = Rc::new(Cell::new(0));
    let counter = count.clone();
    task::spawn_local(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = answers[counter.get().min(answers.len() - 1)];
            counter.set(counter.get() + 1);
            let mut request = [0; 1024];
            let got = stream.read(&mut request).await.unwrap();
            if got > 0 {
                assert!(request.starts_with(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:"));
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        }
    });
    (address, count)
}

#[tokio::test]
async fn ready_only_with_status_200_to_399() {
    LocalSet::new()
        .run_until(async {
            let (address, count) = server(&[
                "",
                "not http at all\r\n\r\n",
                "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n",
                "HTTP/1.1 404 Not Found\r\n\r\n",
                "HTTP/1.1 302 Found\r\nlocation: /\r\n\r\n",
            ])
            .await;
            let reached = probe_at(address, healthz()).ready().await;
            assert_eq!((reached.route.address, reached.connection.is_none(), count.get()), (address, true, 5));
        })
        .await;
}

#[tokio::test]
async fn tcp_is_ready_once_port_is_open() {
    let address = unused().await;
    let mut ready = probe_at(address, Readiness::Tcp).ready();
    let listen = async {
        time::sleep(Duration::from_millis(30)).await;
        TcpListener::bind(address).await.unwrap()
    };
    let listener = tokio::select! {
        _ = &mut ready => panic!("ready before the port was open"),
        listener = listen => listener,
    };
    let reached = time::timeout(Duration::from_secs(5), ready).await.expect("ready once the port is open");
    // The connection is handed over, and there is no other.
    let (_accepted, peer) = listener.accept().await.unwrap();
    let connection = std::net::TcpStream::from(reached.connection.unwrap());
    assert_eq!(connection.local_addr().unwrap(), peer);
    assert!(time::timeout(Duration::from_millis(100), listener.accept()).await.is_err());
}

#[tokio::test]
async fn callback_readiness_is_not_probed() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let ready = probe_at(listener.local_addr().unwrap(), Readiness::Callback).ready();
    tokio::select! {
        _ = ready => panic!("ready without a callback"),
        _ = listener.accept() => panic!("probed"),
        () = time::sleep(MAX_INTERVAL * 2) => {}
    }
}

#[tokio::test]
async fn alternative_address_is_reached_if_the_first_refuses() {
    let Ok(listener) = TcpListener::bind("[::1]:0").await else { return };
    let other = listener.local_addr().unwrap();
    for readiness in [Readiness::Callback, Readiness::Tcp] {
        let target = Target { alternative: Some(other), ..probe_at(unused().await, readiness).target.clone() };
        let probe = Probe::new(target);
        let reached = match probe.target.readiness {
            Readiness::Callback => probe.connect().await.unwrap(),
            _ => probe.ready().await,
        };
        assert_eq!(reached.route.address, other);
    }
}

#[tokio::test]
async fn refusal_after_callback_ends_in_time_and_is_explained() {
    let address = unused().await;
    let since = Instant::now();
    let why = probe_at(address, Readiness::Callback).connect().await.unwrap_err();
    assert!(why.starts_with(&format!("refused connections to {address};")), "{why}");
    assert!((REFUSED_LIMIT..REFUSED_LIMIT * 3).contains(&since.elapsed()), "{:?}", since.elapsed());
}

#[tokio::test]
async fn late_listener_is_reached_after_callback() {
    let address = unused().await;
    let late = async {
        time::sleep(REFUSED_LIMIT / 2).await;
        TcpListener::bind(address).await.unwrap()
    };
    let (reached, _listener) = futures::join!(probe_at(address, Readiness::Callback).connect(), late);
    assert_eq!(reached.unwrap().route.address, address);
}

#[tokio::test]
async fn unanswered_connections_end_in_time() {
    // A listener whose queue is full.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    while let Ok(stream) = time::timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
        waiting.push(stream.unwrap());
    }
    let since = Instant::now();
    let why = probe_at(address, Readiness::Callback).connect().await.unwrap_err();
    assert!(why.starts_with(&format!("did not answer connections to {address}")), "{why}");
    assert!((UNANSWERED_LIMIT..UNANSWERED_LIMIT * 2).contains(&since.elapsed()), "{:?}", since.elapsed());
}

#[tokio::test]
async fn forwarded_connection_that_is_closed_at_once_was_refused() {
    LocalSet::new()
        .run_until(async {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            let address = listener.local_addr().unwrap();
            task::spawn_local(async move {
                let mut open = Vec::new();
                for count in 0.. {
                    let (stream, _) = listener.accept().await.unwrap();
                    open.extend(Some(stream).filter(|_| count > 3));
                }
            });
            let place = Place::ForwardedGuest { port: 8080 };
            let probe = Probe::new(Target { place, ..probe_at(address, Readiness::Callback).target.clone() });
            assert_eq!(probe.open_after_callback().await.unwrap_err(), Seen::Closed);
            assert!(probe.connect().await.is_ok());
        })
        .await;
}

/// Probes for a while, and returns what is seen then.
async fn explained(probe: Rc<Probe>) -> String {
    let _ = time::timeout(Duration::from_millis(100), probe.clone().ready()).await;
    probe.explain(None).await
}

#[tokio::test]
async fn boot_timeout_is_explained_by_the_last_attempt() {
    LocalSet::new()
        .run_until(async {
            let address = unused().await;
            let why = explained(probe_at(address, Readiness::Tcp)).await;
            assert!(why.starts_with(&format!("it refused connections to {address};")), "{why}");
            for (answer, expected) in [
                ("HTTP/1.1 400 Bad Request\r\n\r\n", "it answered GET /healthz at ADDRESS with status 400"),
                ("SSH-2.0-OpenSSH\r\n", "it did not answer GET /healthz at ADDRESS in HTTP"),
                ("", "it closed connections to ADDRESS without a response"),
            ] {
                let answers: &'static [&'static str] = vec![answer].leak();
                let (address, _) = server(answers).await;
                let expected = expected.replace("ADDRESS", &address.to_string());
                assert_eq!(explained(probe_at(address, healthz())).await, expected);
            }
        })
        .await;
}

#[tokio::test]
async fn missing_callback_is_explained_with_what_would_do() {
    let address = unused().await;
    let why = explained(probe_at(address, Readiness::Callback)).await;
    assert_eq!(why, "it never called back; if it needs no callback, set `readiness = \"tcp\"`");
    let listener = TcpListener::bind(address).await.unwrap();
    let why = explained(probe_at(listener.local_addr().unwrap(), Readiness::Callback)).await;
    let expected =
        format!("it never called back, but it accepts connections to {address}; if it needs no callback, set");
    assert!(why.starts_with(&expected), "{why}");
    let called = probe_at(unused().await, Readiness::Callback);
    let _ = time::timeout(Duration::from_millis(50), called.clone().connect()).await;
    let why = called.explain(None).await;
    assert!(why.starts_with("it called back, but refused connections to"), "{why}");
}
