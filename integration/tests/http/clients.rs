//! Popular HTTP clients against the daemon.
//!
//! A missing program is skipped with a message; under CI that is a failure.

use integration::{
    Daemon, Function, Raw, ms,
    tools::{program, run},
};

async fn served() -> Daemon {
    Daemon::with(Function::new("f").set("concurrent-requests", 50)).await
}

#[tokio::test]
async fn serves_curl() {
    let Some(curl) = program("curl") else { return };
    let daemon = served().await;
    let base = format!("http://{}/invoke/f", daemon.listen);
    let upload = daemon.home.path("upload");
    std::fs::write(&upload, "0123456789".repeat(200_000)).unwrap();
    let upload = upload.to_string_lossy().into_owned();
    let text = async |arguments: &[&str]| {
        let output = run(&curl, ["-sS", "--fail", "--noproxy", "*"].iter().chain(arguments)).await;
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert_eq!(text(&[&format!("{base}/a%20b?c")]).await, "GET /a%20b?c");
    assert_eq!(text(&["--path-as-is", &format!("{base}/../x")]).await, "GET /../x");
    assert_eq!(text(&["-X", "DELETE", &format!("{base}/x")]).await, "DELETE /x");
    assert_eq!(text(&["-d", "a=1", &format!("{base}/echo")]).await, "a=1");
    assert_eq!(text(&["--http1.0", &format!("{base}/x")]).await, "GET /x");
    assert_eq!(text(&["--http2", &format!("{base}/x")]).await, "GET /x");
    assert_eq!(text(&["-T", &upload, &format!("{base}/received")]).await, "2000000");
    assert_eq!(
        text(&["-T", &upload, "-H", "Transfer-Encoding: chunked", &format!("{base}/received")]).await,
        "2000000"
    );
    assert_eq!(text(&["-T", &upload, "-H", "Expect: 100-continue", &format!("{base}/received")]).await, "2000000");
    assert_eq!(text(&["-N", &format!("{base}/sse?n=3&ms=10")]).await, "data: 0\n\ndata: 1\n\ndata: 2\n\n");
    assert!(text(&["-I", &format!("{base}/pid")]).await.starts_with("HTTP/1.1 200"));
    let pids = text(&[&format!("{base}/pid?n=[1-20]")]).await;
    assert_eq!(pids.len() % 20, 0, "{pids}");
}

#[tokio::test]
async fn serves_python_with_and_without_keep_alive() {
    let Some(python) = program("python3") else { return };
    let daemon = served().await;
    let script = r#"
import http.client, sys, urllib.request
host = sys.argv[1]
connection = http.client.HTTPConnection(host, timeout=10)
for n in range(50):
    connection.request("POST", "/invoke/f/received", body=b"x" * n, headers={"X-N": str(n)})
    response = connection.getresponse()
    assert response.status == 200 and response.read() == str(n).encode(), (n, response.status)
    assert connection.sock is not None, ("the connection was not kept", n, response.getheaders())
connection.request("POST", "/invoke/f/echo", body=iter([b"one", b"two"]), encode_chunked=True, headers={"Transfer-Encoding": "chunked"})
assert connection.getresponse().read() == b"onetwo"
connection.request("GET", "/invoke/missing/")
response = connection.getresponse()
assert response.status == 404 and response.getheader("x-unifaas-error") == "no_such_function"
response.read()
connection.request("GET", "/invoke/f/pid")
assert connection.getresponse().read().isdigit()
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
for n in range(50):
    with opener.open(f"http://{host}/invoke/f/n?{n}", timeout=10) as response:
        assert response.read().decode() == f"GET /n?{n}"
print("all served")
"#;
    let output = run(&python, ["-c", script, &daemon.listen.to_string()]).await;
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "all served");
    assert_eq!(daemon.counter("f", "ok").await, 102);
}

#[tokio::test]
async fn serves_wrk_without_errors() {
    let Some(wrk) = program("wrk") else { return };
    let daemon = served().await;
    daemon.get("/invoke/f/pid").await.ok();
    let url = format!("http://{}/invoke/f/pid", daemon.listen);
    let output = run(&wrk, ["-t1", "-c32", "-d2s", &url]).await;
    let report = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!report.contains("Non-2xx") && !report.contains("Socket errors"), "{report}");
    let line = report.lines().find(|line| line.contains("requests in")).unwrap_or_else(|| panic!("{report}"));
    let requests: u64 = line.trim().split(' ').next().and_then(|word| word.parse().ok()).unwrap();
    assert!(requests > 100, "{report}");
    // Requests in flight when wrk exits may be cancelled; all others were served.
    daemon.settled("f", "all slots are free", |f| f["instances"][0]["in_flight"] == 0).await;
    assert!(daemon.counter("f", "ok").await > requests);
    assert!(daemon.counter("f", "client_gone").await <= 32);
}

#[tokio::test]
async fn serves_browser() {
    let daemon = served().await;
    let mut raw = Raw::request(
        daemon.listen,
        "GET /invoke/f/page?q=%E2%82%AC HTTP/1.1\r\nHost: localhost:8123\r\nConnection: keep-alive\r\n\
         Cache-Control: max-age=0\r\nsec-ch-ua: \"Chromium\";v=\"140\", \"Not=A?Brand\";v=\"24\"\r\n\
         sec-ch-ua-mobile: ?0\r\nUpgrade-Insecure-Requests: 1\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\n\
         Accept: text/html,application/xhtml+xml;q=0.9,*/*;q=0.8\r\nSec-Fetch-Site: none\r\nSec-Fetch-Mode: navigate\r\n\
         Accept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en-GB,en;q=0.9\r\n\
         Cookie: a=1; b=\"2\"\r\nIf-None-Match: \"e\"\r\n\r\n\
         GET /favicon.ico HTTP/1.1\r\nHost: localhost:8123\r\nConnection: keep-alive\r\n\r\n",
    )
    .await;
    let page = raw.expect_head().await;
    let length = page.text("content-length").expect("a length").parse().unwrap();
    assert_eq!((page.status, raw.bytes(length).await), (200, b"GET /page?q=%E2%82%AC".to_vec()));
    assert_eq!(raw.expect_head().await.status, 404);
    raw.rest(ms(50)).await;
}
