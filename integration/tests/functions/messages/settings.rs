//! The options of brokers: what is wrong is said, and a broker that is broken holds nothing up.

use std::fs;

use integration::{AT_ONCE, Function, Home, Setup, brokers::own_address, refusal};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpListener,
};

use super::until;

fn function() -> Function {
    Function::new("f").table("[[nats]]\nsubject = \"a\"\n\n[[mqtt]]\ntopic = \"a\"")
}

#[tokio::test]
async fn files_of_no_use_are_refused_with_their_names() {
    let home = Home::new();
    fs::write(home.path("empty"), "").unwrap();
    let empty = home.path("empty").display().to_string();
    for (option, file, why) in [
        ("--nats-creds", "/does/not/exist", "cannot read /does/not/exist (--nats-creds)"),
        ("--nats-creds", &*empty, "there are no credentials in"),
        ("--nats-ca", "/does/not/exist", "cannot read /does/not/exist (--nats-ca)"),
        ("--nats-ca", &*empty, "there is no certificate in"),
        ("--mqtt-ca", "/does/not/exist", "cannot read /does/not/exist (--mqtt-ca)"),
        ("--mqtt-ca", &*empty, "there is no certificate in"),
    ] {
        let setup = Setup::at(&home).option("--nats", "nats://127.0.0.1").option("--mqtt", "mqtts://127.0.0.1");
        let setup = setup.option(option, file);
        let said = refusal(setup.command()).await;
        assert!(said.contains(why) && said.contains(option), "{option} {file}: {said}");
    }
    let without_tls = Setup::at(&home).option("--mqtt", "mqtt://127.0.0.1").option("--mqtt-ca", &empty);
    let said = refusal(without_tls.command()).await;
    assert!(said.contains("--mqtt-ca needs --mqtt with mqtts://"), "{said}");
}

#[tokio::test]
async fn brokers_that_are_away_or_mute_hold_nothing_up() {
    // Accepts connections, and says nothing.
    let mute = TcpListener::bind(own_address(0)).await.unwrap();
    let address = mute.local_addr().unwrap();
    for (nats, mqtt) in [
        (format!("nats://{address}"), format!("mqtt://{address}")),
        (format!("nats://{}", own_address(4222)), format!("mqtt://{}", own_address(1883))),
        ("nats://does-not-exist.invalid".to_owned(), "mqtt://does-not-exist.invalid".to_owned()),
    ] {
        let setup = Setup::default().function(function()).option("--nats", nats).option("--mqtt", mqtt);
        let mut daemon = setup.start().await;
        for kind in ["nats", "mqtt"] {
            until(&daemon, kind, "not connected", |source| source["state"] == "connecting").await;
        }
        daemon.get("/invoke/f/pid").await.ok();
        let ending = daemon.end().await;
        assert!(ending.status.success() && ending.took < AT_ONCE, "{ending:?}");
    }
}

#[tokio::test]
async fn functions_that_subscribe_without_a_broker_are_shown() {
    let daemon = Setup::default().function(function()).start().await;
    for kind in ["nats", "mqtt"] {
        until(&daemon, kind, "no broker", |source| source["state"] == "no_broker").await;
    }
    assert!(daemon.log().contains("no option says where they come from"), "{}", daemon.log());
}

#[tokio::test]
async fn nats_server_that_is_too_old_is_refused_with_its_version() {
    let listener = TcpListener::bind(own_address(0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let old = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                let info =
                    "{\"server_id\":\"X\",\"version\":\"2.9.10\",\"proto\":1,\"headers\":true,\"max_payload\":1048576}";
                stream.write_all(format!("INFO {info}\r\n").as_bytes()).await?;
                let mut line = String::new();
                while stream.read_line(&mut line).await? > 0 {
                    if line.starts_with("PING") {
                        stream.write_all(b"PONG\r\n").await?;
                    }
                    line.clear();
                }
                Ok::<_, std::io::Error>(())
            });
        }
    });
    let daemon = Setup::default().function(function()).option("--nats", format!("nats://{address}")).start().await;
    let is_refused = |source: &serde_json::Value| {
        let error = source["error"].as_str().unwrap_or_default();
        source["state"] == "connecting" && error.contains("2.9.10") && error.contains("2.11 is the least")
    };
    until(&daemon, "nats", "refused", is_refused).await;
    old.abort();
}

#[tokio::test]
async fn passwords_of_brokers_are_not_shown() {
    let setup = Setup::default().function(function()).option("--nats", "nats://me:s3cret@127.0.0.1:1");
    let daemon = setup.option("--mqtt", "mqtt://me:s3cret@127.0.0.1:1").start().await;
    until(&daemon, "mqtt", "tried", |source| source["error"].is_string()).await;
    let debug = daemon.debug().await;
    assert_eq!(debug["daemon"]["settings"]["mqtt"], "mqtt://127.0.0.1:1");
    assert!(!debug.to_string().contains("s3cret") && !daemon.log().contains("s3cret"), "{}", daemon.log());
}
