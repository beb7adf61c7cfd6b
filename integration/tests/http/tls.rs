//! TLS: `--tls-cert` and `--tls-key`, ALPN, and certificate files that change or are invalid.

use std::{
    fs,
    path::{Path, PathBuf},
};

use futures::future::join_all;
use integration::{
    AT_ONCE, Daemon, End, Function, Home, Raw, SOON, Setup, cli, eventually, ms, number, refusal,
    tools::{output, program},
    within,
};
use serde_json::Value;
use tokio::time::Instant;

/// Files with a self-signed certificate for 127.0.0.1 and its key.
struct Pair {
    cert: PathBuf,
    key: PathBuf,
}

impl Pair {
    fn new(directory: &Path, name: &str) -> Self {
        let names = ["127.0.0.1".to_owned(), "localhost".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
        let pair = Self { cert: directory.join(format!("{name}.pem")), key: directory.join(format!("{name}.key")) };
        fs::write(&pair.cert, made.cert.pem()).unwrap();
        fs::write(&pair.key, made.signing_key.serialize_pem()).unwrap();
        pair
    }

    /// Replaces the files of another pair by renaming copies of its own.
    fn replace(&self, other: &Pair) {
        for (from, to) in [(&self.key, &other.key), (&self.cert, &other.cert)] {
            let aside = to.with_extension("new");
            fs::copy(from, &aside).unwrap();
            fs::rename(&aside, to).unwrap();
        }
    }
}

fn with(setup: Setup, pair: &Pair) -> Setup {
    setup.option("--tls-cert", &pair.cert).option("--tls-key", &pair.key)
}

/// Starts a daemon with TLS. Its pages are read with [`Curl::function`].
async fn served(function: Function) -> (Daemon, Pair) {
    let home = Home::new();
    let pair = Pair::new(&home.path(""), "server");
    (with(Setup::at(&home).function(function), &pair).start().await, pair)
}

/// curl with one trusted certificate.
struct Curl {
    program: PathBuf,
    trusted: PathBuf,
    base: String,
}

impl Curl {
    /// Returns `None` if curl is not installed.
    fn new(daemon: &Daemon, trusted: &Path) -> Option<Self> {
        let base = format!("https://{}", daemon.listen);
        program("curl").map(|program| Self { program, trusted: trusted.to_owned(), base })
    }

    async fn try_text(&self, path: &str, arguments: &[&str]) -> Result<String, String> {
        let url = format!("{}{path}", self.base);
        let trusted = self.trusted.to_string_lossy();
        let always = ["-sS", "--noproxy", "*", "--max-time", "20", "--path-as-is", "--cacert", &*trusted, &*url];
        let output = output(&self.program, always.iter().chain(arguments)).await;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    async fn text(&self, path: &str, arguments: &[&str]) -> String {
        self.try_text(path, arguments).await.unwrap_or_else(|error| panic!("{path} {arguments:?}: {error}"))
    }

    /// Returns `/debug/functions/f`.
    async fn function(&self) -> Value {
        serde_json::from_str(&self.text("/debug/functions/f", &[]).await).expect("JSON")
    }

    /// Waits until `/debug/functions/f` meets a condition.
    async fn settled(&self, what: &str, condition: impl Fn(&Value) -> bool) {
        eventually(SOON, what, async || self.function().await, condition).await;
    }
}

#[tokio::test]
async fn alpn_selects_http_version() {
    let (daemon, pair) = served(Function::new("f").set("concurrent-requests", 8)).await;
    let Some(curl) = Curl::new(&daemon, &pair.cert) else { return };
    let upload = daemon.home.path("upload");
    fs::write(&upload, "0123456789".repeat(500_000)).unwrap();
    let upload = upload.to_string_lossy();
    for (flag, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
        let found = curl.text("/invoke/f/", &[flag, "-o", "/dev/null", "-w", "%{http_version}"]).await;
        assert_eq!(found, version);
        assert_eq!(curl.text("/invoke/f/a%20b/../c?d", &[flag]).await, "GET /a%20b/../c?d");
        assert_eq!(curl.text("/invoke/f/received", &[flag, "-T", &*upload]).await, "5000000");
        let echo = curl.text("/invoke/f/echo", &[flag, "-T", &*upload]).await;
        assert_eq!(echo.len(), 5_000_000, "{version}");
        let events = curl.text("/invoke/f/sse?n=3&ms=10", &[flag]).await;
        assert_eq!(events, "data: 0\n\ndata: 1\n\ndata: 2\n\n");
        assert_eq!(curl.text("/invoke/f/status/404", &[flag]).await, "the function's own words");
        assert!(curl.text("/invoke/nobody/", &[flag]).await.contains("no_such_function"));
    }
    let none = curl.text("/invoke/f/", &["--no-alpn", "-o", "/dev/null", "-w", "%{http_version}"]).await;
    assert_eq!(none, "1.1", "a client without ALPN");
}

#[tokio::test]
async fn forwarded_proto_is_https() {
    let (daemon, pair) = served(Function::new("f")).await;
    let Some(curl) = Curl::new(&daemon, &pair.cert) else { return };
    for flag in ["--http1.1", "--http2"] {
        let head = curl.text("/invoke/f/headers", &[flag]).await.to_ascii_lowercase();
        let has = |line: &str| head.lines().any(|found| found == line);
        assert!(has("x-forwarded-proto: https"), "{flag}: {head}");
        assert!(has(&format!("host: {}", daemon.listen)), "{flag}: {head}");
        assert!(head.lines().any(|line| line.starts_with("forwarded:") && line.contains("proto=https")), "{head}");
    }
}

#[tokio::test]
async fn pages_are_served_over_tls() {
    let home = Home::new();
    let pair = Pair::new(&home.path(""), "server");
    let daemon = with(Setup::at(&home).function(Function::new("f")), &pair).start().await;
    let Some(curl) = Curl::new(&daemon, &pair.cert) else { return };
    for flag in ["--http1.1", "--http2"] {
        assert_eq!(curl.text("/healthz", &[flag]).await.trim(), "ok");
        let debug: Value = serde_json::from_str(&curl.text("/debug", &[flag]).await).expect("JSON");
        assert_eq!(debug["functions"]["f"]["state"], "serving");
        let status = ["-H", "Host: evil.example", "-w", "%{http_code}", "-o", "/dev/null"];
        let other = curl.text("/debug", &[&[flag][..], &status].concat()).await;
        assert_eq!(other, "404", "{flag}: a name that is not this host's");
    }
}

#[tokio::test]
async fn disconnected_client_frees_slot() {
    let (daemon, pair) = served(Function::new("f").set("max-instances", 1)).await;
    let Some(curl) = Curl::new(&daemon, &pair.cert) else { return };
    curl.text("/invoke/f/pid", &[]).await;
    for flag in ["--http1.1", "--http2"] {
        for path in ["/invoke/f/sleep?ms=20000", "/invoke/f/stream?n=200&ms=100"] {
            let left = curl.try_text(path, &[flag, "--max-time", "0.7"]).await;
            assert!(left.is_err_and(|error| error.contains("timed out")), "{flag} {path}");
            let began = Instant::now();
            curl.text("/invoke/f/pid", &[flag]).await;
            assert!(began.elapsed() < AT_ONCE, "{flag} {path}: {:?}", began.elapsed());
        }
    }
    curl.settled("all were counted", |function| number(&function["counters"], "client_gone") == 4).await;
}

#[tokio::test]
async fn cleartext_request_is_refused() {
    let (daemon, pair) = served(Function::new("f")).await;
    let mut cases: Vec<&[u8]> =
        vec![b"GET /invoke/f/pid HTTP/1.1\r\nHost: h\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"];
    cases.push(b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03 and nothing of a greeting");
    for bytes in cases {
        let mut raw = Raw::request(daemon.listen, bytes).await;
        let (said, end) = raw.rest(ms(15_000)).await;
        let end = if end == End::Open { raw.rest(ms(5000)).await.1 } else { end };
        let text = String::from_utf8_lossy(&said).into_owned();
        // A TLS alert, a response in cleartext, or nothing.
        assert!(said.is_empty() || said[0] == 0x15 || text.starts_with("HTTP/1.1 400"), "{said:?}");
        assert_ne!(end, End::Open, "{}", String::from_utf8_lossy(bytes));
    }
    let Some(curl) = Curl::new(&daemon, &pair.cert) else { return };
    assert_eq!(number(&curl.function().await["counters"], "requests"), 0);
    curl.text("/invoke/f/pid", &[]).await;
}

#[tokio::test]
async fn incomplete_handshakes_are_closed_and_delay_no_client() {
    let (daemon, pair) = served(Function::new("f")).await;
    let address = daemon.listen;
    let silent = (0..200).map(|n| async move {
        let mut raw = Raw::connect(address).await;
        if n % 2 == 1 {
            raw.send(b"\x16\x03\x01\x02\x00\x01").await.unwrap();
        }
        raw
    });
    let mut silent = join_all(silent).await;
    let Some(curl) = Curl::new(&daemon, &pair.cert) else { return };
    let began = Instant::now();
    curl.text("/invoke/f/pid", &[]).await;
    assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
    let ends = join_all(silent.iter_mut().map(|raw| raw.rest(ms(15_000)))).await;
    let open = ends.iter().filter(|(said, end)| said.is_empty() && *end == End::Open).count();
    assert_eq!(open, 0, "still open after {:?}", began.elapsed());
}

/// Starts a daemon that must refuse its files, and returns its error.
async fn refused(home: &std::sync::Arc<Home>, cert: &Path, key: &Path) -> String {
    let setup = Setup::at(home).option("--tls-cert", cert).option("--tls-key", key);
    refusal(setup.command()).await
}

#[tokio::test]
async fn invalid_files_are_named_at_start() {
    let home = Home::new();
    let pair = Pair::new(&home.path(""), "server");
    let absent = home.path("absent.pem");
    let garbage = home.path("garbage.pem");
    fs::write(&garbage, "this is no PEM\n").unwrap();
    let blank = home.path("empty.pem");
    fs::write(&blank, "").unwrap();
    let broken = home.path("broken.pem");
    fs::write(&broken, "-----BEGIN CERTIFICATE-----\nbm8gRE VS\n-----END CERTIFICATE-----\n").unwrap();
    let directory = home.path("directory");
    fs::create_dir(&directory).unwrap();
    for bad in [&absent, &garbage, &blank, &broken, &directory] {
        let name = bad.to_string_lossy().into_owned();
        let said = refused(&home, bad, &pair.key).await;
        assert!(said.contains(&name), "as a certificate, {name}: {said}");
        let said = refused(&home, &pair.cert, bad).await;
        assert!(said.contains(&name), "as a key, {name}: {said}");
    }
    // Certificate and key are swapped.
    let said = refused(&home, &pair.key, &pair.cert).await;
    assert!(said.contains("server.key") || said.contains("server.pem"), "{said}");
}

#[tokio::test]
async fn mismatched_files_are_named_at_start() {
    let home = Home::new();
    let (one, other) = (Pair::new(&home.path(""), "one"), Pair::new(&home.path(""), "other"));
    let said = refused(&home, &one.cert, &other.key).await;
    assert!(said.contains("one.pem") || said.contains("other.key"), "{said}");
}

#[tokio::test]
async fn certificate_without_key_is_refused() {
    let home = Home::new();
    let pair = Pair::new(&home.path(""), "server");
    for (option, file, other) in [("--tls-cert", &pair.cert, "--tls-key"), ("--tls-key", &pair.key, "--tls-cert")] {
        let output = Setup::at(&home).option(option, file).command().kill_on_drop(true).output();
        let output = within(SOON, "a refusal", output).await.unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && errors.contains(other), "{option} alone: {errors}");
    }
}

#[tokio::test]
async fn replaced_certificate_is_used_for_new_connections() {
    let (daemon, pair) = served(Function::new("f")).await;
    let Some(old) = Curl::new(&daemon, &daemon.home.path("old.pem")) else { return };
    fs::copy(&pair.cert, daemon.home.path("old.pem")).unwrap();
    old.text("/invoke/f/pid", &[]).await;
    for round in 0..3 {
        let fresh = Pair::new(&daemon.home.path(""), &format!("fresh-{round}"));
        let curl = Curl::new(&daemon, &fresh.cert).expect("it was there a moment ago");
        fresh.replace(&pair);
        let text = async || curl.try_text("/invoke/f/pid", &[]).await;
        let what = format!("the certificate of round {round} is used");
        eventually(SOON, what, text, Result::is_ok).await.unwrap();
        // Several connections reach both workers.
        for flag in ["--http1.1", "--http2", "--http1.1", "--http2"] {
            curl.text("/invoke/f/pid", &[flag]).await;
        }
        assert!(old.try_text("/invoke/f/pid", &[]).await.is_err(), "the first certificate is still used");
    }
}

#[tokio::test]
async fn replaced_certificate_interrupts_no_request() {
    let (daemon, pair) = served(Function::new("f").set("concurrent-requests", 2)).await;
    let kept = daemon.home.path("old.pem");
    fs::copy(&pair.cert, &kept).unwrap();
    let Some(old) = Curl::new(&daemon, &kept) else { return };
    let fresh = Pair::new(&daemon.home.path(""), "fresh");
    let new = Curl::new(&daemon, &fresh.cert).expect("it was there a moment ago");
    let replace = async {
        old.settled("it is served", |function| function["instances"][0]["state"] == "busy").await;
        fresh.replace(&pair);
        let text = async || new.try_text("/invoke/f/", &[]).await;
        eventually(SOON, "the new one is used", text, Result::is_ok).await.unwrap();
    };
    let (text, _) = futures::join!(old.text("/invoke/f/stream?n=40&ms=100", &[]), replace);
    assert_eq!(text.lines().count(), 40);
}

#[tokio::test]
async fn invalid_replacement_is_logged_and_old_certificate_stays() {
    let (daemon, pair) = served(Function::new("f")).await;
    let kept = daemon.home.path("old.pem");
    fs::copy(&pair.cert, &kept).unwrap();
    let Some(curl) = Curl::new(&daemon, &kept) else { return };
    curl.text("/invoke/f/pid", &[]).await;
    let logged =
        |log: &str| log.lines().filter(|line| line.contains("server.pem") || line.contains("server.key")).count();
    let mut before = logged(&daemon.log());
    let other = Pair::new(&daemon.home.path(""), "other");
    for what in ["garbage", "a certificate of another key", "no file"] {
        match what {
            "garbage" => fs::write(&pair.cert, "this is no PEM\n").unwrap(),
            "no file" => fs::remove_file(&pair.cert).unwrap(),
            _ => fs::write(&pair.cert, fs::read(&other.cert).unwrap()).unwrap(),
        }
        let more = |log: &String| logged(log) > before;
        eventually(SOON, format!("{what} is logged"), async || daemon.log(), more).await;
        curl.text("/invoke/f/pid", &[]).await;
        tokio::time::sleep(ms(1000)).await;
        before = logged(&daemon.log());
        assert!(before < 20, "it fills the log: {}", daemon.log());
    }
    // A valid pair.
    other.replace(&pair);
    let curl = Curl::new(&daemon, &other.cert).expect("it was there a moment ago");
    let text = async || curl.try_text("/healthz", &[]).await;
    eventually(SOON, "a good pair is used again", text, Result::is_ok).await.unwrap();
}

#[tokio::test]
async fn admin_listener_uses_tls_and_callback_listener_does_not() {
    let home = Home::new();
    let pair = Pair::new(&home.path(""), "server");
    let setup = Setup::at(&home).option("--admin-listen", "127.0.0.1:0").function(Function::new("f"));
    let daemon = with(setup, &pair).start().await;
    let Some(curl) = Curl::new(&daemon, &pair.cert) else { return };
    // The instance has called back in cleartext.
    curl.text("/invoke/f/pid", &[]).await;
    assert!(curl.text("/debug", &[]).await.contains("no_such_page"), "the pages are elsewhere");
    let admin = Curl { base: format!("https://{}", daemon.admin.expect("it says where the pages are")), ..curl };
    for flag in ["--http1.1", "--http2"] {
        assert!(admin.text("/debug", &[flag]).await.contains("\"serving\""), "{flag}");
    }
}

#[tokio::test]
async fn commands_say_what_a_port_with_tls_needs() {
    let (daemon, _) = served(Function::new("f")).await;
    for arguments in [&["ps"][..], &["invoke", "f"]] {
        let said = daemon.cli(arguments).await.failed(3);
        let hint = format!("Then name it as https://{} ", daemon.listen);
        assert!(said.contains(&hint) && said.contains("UNIFAAS_TLS_CERT"), "{arguments:?}: {said}");
    }
}

#[tokio::test]
async fn commands_expect_the_certificate_of_the_settings() {
    let (daemon, pair) = served(Function::new("f")).await;
    let other = Pair::new(&daemon.home.path(""), "other");
    let command = |arguments: &[&str], cert: &Path, key: &Path| {
        let mut command = cli::bare(arguments);
        command.env("UNIFAAS_LISTEN", daemon.listen.to_string());
        command.env("UNIFAAS_TLS_CERT", cert).env("UNIFAAS_TLS_KEY", key);
        command
    };
    let text = cli::run(command(&["invoke", "f", "received", "-d", "12345"], &pair.cert, &pair.key)).await.ok();
    assert_eq!(text, "5");
    assert!(cli::run(command(&["ps"], &pair.cert, &pair.key)).await.ok().contains("serving"));
    let url = format!("https://{}", daemon.listen);
    cli::run(command(&["logs", "f", "--url", &url], &pair.cert, &pair.key)).await.ok();
    let text = cli::run(command(&["ps"], &other.cert, &other.key)).await.failed(3);
    assert!(text.contains(&url) && text.contains("other.pem"), "{text}");
    let text = cli::run(command(&["ps"], Path::new("/no/such"), &pair.key)).await.failed(2);
    assert!(text.contains("/no/such"), "{text}");
}
