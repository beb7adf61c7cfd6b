//! `dev`.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    process::Stdio,
    sync::{Arc, Mutex},
    thread,
};

use integration::{
    Connection, Function, Home, SOON,
    cli::{bare, run},
    empty, eventually, processes, request,
};
use nix::sys::signal::Signal;

/// Collects what a stream has.
fn collected(stream: impl Read + Send + 'static) -> Arc<Mutex<String>> {
    let text = Arc::<Mutex<String>>::default();
    let kept = text.clone();
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            kept.lock().unwrap().push_str(&(line + "\n"));
        }
    });
    text
}

async fn shows(text: &Mutex<String>, part: &str) -> String {
    let read = async || text.lock().unwrap().clone();
    eventually(SOON, format!("{part:?} is shown"), read, |text| text.contains(part)).await
}

#[tokio::test]
async fn dev_restarts_a_function_when_a_file_changes_and_leaves_nothing() {
    let home = Home::new();
    home.put(&Function::new("f"));
    let scratch = home.path("scratch");
    fs::create_dir(&scratch).unwrap();
    let mut command = bare(&["dev", "--listen", "127.0.0.1:0"]);
    command.current_dir(home.registry().join("f")).env("TMPDIR", &scratch);
    // Settings of a daemon that is installed.
    command.env("UNIFAAS_REGISTRY", "/no/such/registry").env("UNIFAAS_LISTEN", "127.0.0.1:1");
    let mut dev = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (out, err) = (collected(dev.stdout.take().unwrap()), collected(dev.stderr.take().unwrap()));
    shows(&err, "f is served at http://127.0.0.1:").await;
    let text = shows(&out, "unifaas: serving http://").await;
    let address = text.split("serving http://").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    let pid = async || {
        let mut connection = Connection::open(address).await.unwrap();
        connection.send(request("GET", "/invoke/f/pid", empty())).await.unwrap().ok().pid()
    };
    let first = pid().await;
    shows(&out, "platform ready after").await;
    fs::write(home.registry().join("f/data"), "new").unwrap();
    let shown = shows(&err, "--- restarted").await;
    assert!(shown.contains("--- changed: data\n"), "{shown}");
    eventually(SOON, "another instance answers", pid, |pid| *pid != first).await;

    // A mistake is shown, and its correction serves again.
    fs::write(home.registry().join("f/function.toml"), "keepalive = -1\n").unwrap();
    shows(&err, "keepalive").await;
    home.put(&Function::new("f").set("keepalive", 7));
    let before = pid().await;
    eventually(SOON, "the corrected version answers", pid, |pid| *pid != before && *pid != first).await;

    processes::signal(dev.id(), Signal::SIGINT);
    let status = tokio::task::spawn_blocking(move || dev.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(0), "{}", err.lock().unwrap());
    assert_eq!(fs::read_dir(&scratch).unwrap().count(), 0);
    home.left(0).await;
}

#[tokio::test]
async fn dev_needs_a_function() {
    let home = Home::new();
    let text = run(bare(&["dev", home.registry().to_str().unwrap()])).await.failed(1);
    assert!(text.contains("has no function.toml; `unifaas new` writes a function"), "{text}");
    run(bare(&["dev", "/no/such/directory"])).await.failed(1);
}
