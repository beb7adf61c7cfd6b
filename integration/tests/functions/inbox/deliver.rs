//! Results that are delivered to a callback URL.

use std::{fs, sync::Arc};

use integration::{Daemon, Function, Home, Receiver, SOON, Setup, eventually, refusal};
use serde_json::{Value, json};

/// The secret of these tests.
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
/// The header that asks for a delivery.
const CALLBACK: &str = "x-callback-url";

/// Sets up a daemon with function `f` that delivers below a URL, signed.
fn setup(home: &Arc<Home>, prefix: &str) -> Setup {
    home.put(&Function::new("f").asynchronous("attempts", 1));
    let key = home.path("key");
    fs::write(&key, format!("{SECRET}\n")).unwrap();
    Setup::at(home).option("--deliver-to", prefix).option("--deliver-key", key)
}

/// A daemon and a receiver to which it may deliver everything.
async fn pair() -> Option<(Daemon, Receiver)> {
    let home = Home::new();
    let receiver = Receiver::start(&home, SECRET).await?;
    let daemon = setup(&home, &receiver.url("/")).start().await;
    Some((daemon, receiver))
}

/// Checks what holds for each delivery.
fn check(delivery: &Value, id: &str) {
    let headers = &delivery["headers"];
    assert_eq!((&headers["x-unifaas-invocation"], &headers["x-unifaas-function"]), (&json!(id), &json!("f")));
    assert_eq!(delivery["is_signed"], true, "the receiver computes the same signature: {delivery}");
    let (sent, seen) = (headers["webhook-timestamp"].as_str().unwrap(), delivery["time"].as_f64().unwrap());
    assert!((sent.parse::<f64>().unwrap() - seen).abs() < 60.0, "{delivery}");
}

#[tokio::test]
async fn a_result_is_delivered_with_its_status_and_signed() {
    let Some((daemon, receiver)) = pair().await else { return };
    let id = daemon.accepted("/f/received", "12345", &[(CALLBACK, &receiver.url("/hooks/1?a=b"))]).await;
    let delivered = daemon.delivery_is(&id, "delivered").await;
    assert_eq!((&delivered["state"], &delivered["delivery_attempts"]), (&json!("done"), &json!(1)));
    let got = receiver.got("/hooks/1?a=b");
    assert_eq!((got.len(), &got[0]["body"]), (1, &json!("5")), "{got:?}");
    check(&got[0], &id);
    assert_eq!(got[0]["headers"]["x-unifaas-status"], "200");
    assert_eq!(got[0]["headers"].get("x-unifaas-error"), None);
}

#[tokio::test]
async fn a_dead_letter_is_delivered_with_its_reason_and_once_more_after_a_redrive() {
    let Some((daemon, receiver)) = pair().await else { return };
    let id = daemon.accepted("/f/status/503", "", &[(CALLBACK, &receiver.url("/dead"))]).await;
    daemon.delivery_is(&id, "delivered").await;
    daemon.cli(&["dead", "redrive", &id]).await.ok();
    let twice = async || receiver.got("/dead");
    let got = eventually(SOON, "the second result", twice, |got| got.len() == 2).await;
    for delivery in &got {
        check(delivery, &id);
        assert_eq!(delivery["headers"]["x-unifaas-error"], "attempts_exhausted");
        assert_eq!(
            (&delivery["headers"]["x-unifaas-status"], &delivery["body"]),
            (&json!("503"), &json!("the function's own words"))
        );
    }
    assert_ne!(got[0]["headers"]["webhook-id"], got[1]["headers"]["webhook-id"], "the second is another message");
}

#[tokio::test]
async fn a_result_whose_body_is_not_kept_is_delivered_without_it() {
    let home = Home::new();
    let Some(receiver) = Receiver::start(&home, SECRET).await else { return };
    let setup = setup(&home, &receiver.url("/"));
    let daemon = setup.function(Function::new("f").asynchronous("max-response", 0.001)).start().await;
    let id = daemon.accepted("/f/bytes?n=5000", "", &[(CALLBACK, &receiver.url("/large"))]).await;
    daemon.delivery_is(&id, "delivered").await;
    let delivery = &receiver.got("/large")[0];
    check(delivery, &id);
    let headers = &delivery["headers"];
    assert_eq!((&headers["x-unifaas-status"], &headers["x-unifaas-error"]), (&json!("200"), &json!("response_gone")));
    assert_eq!(delivery["body"], "");
}

#[tokio::test]
async fn refused_results_are_delivered_again_and_those_without_an_answer() {
    let Some((daemon, receiver)) = pair().await else { return };
    let mut accepted = Vec::new();
    for path in ["/refuse/2", "/hang/1"] {
        accepted.push((path, daemon.accepted("/f/pid", "", &[(CALLBACK, &receiver.url(path))]).await));
    }
    for ((path, id), attempts) in accepted.iter().zip([3, 2]) {
        let delivered = daemon.delivery_is(id, "delivered").await;
        assert_eq!(delivered["delivery_attempts"], attempts, "{path}");
        let got = receiver.got(path);
        assert_eq!(got.len(), attempts, "{path}");
        got.iter().for_each(|delivery| check(delivery, id));
        assert!(got.windows(2).all(|two| two[0]["headers"]["webhook-id"] == two[1]["headers"]["webhook-id"]), "{path}");
        let times: Vec<_> = got.iter().map(|delivery| delivery["time"].as_f64().unwrap()).collect();
        assert!(times.windows(2).all(|two| two[1] - two[0] >= 0.4), "{path} has pauses: {times:?}");
    }
}

#[tokio::test]
async fn a_receiver_that_is_away_gets_its_results_when_it_is_back() {
    let home = Home::new();
    let Some(receiver) = Receiver::start(&home, SECRET).await else { return };
    let port = receiver.port;
    let (url, prefix) = (receiver.url("/back"), receiver.url("/"));
    drop(receiver);
    let daemon = setup(&home, &prefix).start().await;
    let id = daemon.accepted("/f/pid", "", &[(CALLBACK, &url)]).await;
    daemon.logged("a result was not delivered").await;
    let Some(receiver) = Receiver::start_at(&home, port, SECRET, None).await else { return };
    let delivered = daemon.delivery_is(&id, "delivered").await;
    assert!(delivered["delivery_attempts"].as_u64() >= Some(2), "{delivered}");
    assert_eq!(receiver.got("/back").len(), 1);
}

#[tokio::test]
async fn redirects_are_not_followed_and_endless_answers_not_read_to_their_end() {
    let Some((daemon, receiver)) = pair().await else { return };
    let redirected = [(CALLBACK, &*receiver.url("/redirect")), ("x-unifaas-max-age", "3")];
    let redirected = daemon.accepted("/f/pid", "", &redirected).await;
    let endless = daemon.accepted("/f/pid", "", &[(CALLBACK, &receiver.url("/endless"))]).await;
    daemon.delivery_is(&endless, "delivered").await;
    assert_eq!(receiver.got("/endless").len(), 1, "the head of its answer confirms it");
    daemon.delivery_is(&redirected, "failed").await;
    assert!(!receiver.got("/redirect").is_empty());
    assert!(receiver.got("/elsewhere").is_empty());
}

#[tokio::test]
async fn a_result_is_given_up_after_its_age() {
    let Some((daemon, receiver)) = pair().await else { return };
    let headers = [(CALLBACK, &*receiver.url("/refuse/999")), ("x-unifaas-max-age", "4")];
    let id = daemon.accepted("/f/pid", "", &headers).await;
    let failed = daemon.delivery_is(&id, "failed").await;
    assert_eq!(failed["state"], "done", "the invocation itself has ended well");
    let attempts = failed["delivery_attempts"].as_u64().unwrap();
    assert!((1..=5).contains(&attempts), "{attempts}");
    assert_eq!(receiver.got("/refuse/999").len() as u64, attempts);
}

#[tokio::test]
async fn only_urls_below_a_prefix_are_accepted_and_only_while_they_are_allowed() {
    let home = Home::new();
    let Some(receiver) = Receiver::start(&home, SECRET).await else { return };
    let daemon = Daemon::with(Function::new("f")).await;
    daemon.enqueue("/f/", "", &[(CALLBACK, &receiver.url("/"))]).await.problem(403, "callback_not_allowed");
    let mut daemon = setup(&home, &receiver.url("/hooks/,http://other.example/")).start().await;
    for url in [&*receiver.url("/"), &receiver.url("/hooks/../x"), "http://127.0.0.1:1/hooks/", "hooks", ""] {
        daemon.enqueue("/f/", "", &[(CALLBACK, url)]).await.problem(403, "callback_not_allowed");
    }
    let late = [(CALLBACK, &*receiver.url("/hooks/1")), ("x-unifaas-delay", "3")];
    let id = daemon.accepted("/f/pid", "", &late).await;
    daemon.end().await;
    let daemon = setup(&home, "http://other.example/").start().await;
    daemon.delivery_is(&id, "failed").await;
    assert!(receiver.got("/hooks/1").is_empty());
}

#[tokio::test]
async fn a_killed_daemon_does_not_lose_a_delivery_nor_its_count() {
    let home = Home::new();
    let Some(receiver) = Receiver::start(&home, SECRET).await else { return };
    let prefix = receiver.url("/");
    let mut daemon = setup(&home, &prefix).start().await;
    let id = daemon.accepted("/f/pid", "", &[(CALLBACK, &receiver.url("/refuse/3"))]).await;
    for attempts in 1..=3 {
        let recorded = async || daemon.invocation(&id).await["delivery_attempts"].as_u64();
        eventually(SOON, "an attempt is recorded", recorded, |count| *count >= Some(attempts)).await;
        daemon.killed().await;
        daemon = setup(&home, &prefix).start().await;
    }
    let delivered = daemon.delivery_is(&id, "delivered").await;
    let got = receiver.got("/refuse/3");
    assert!(got.len() as u64 >= 4 && delivered["delivery_attempts"].as_u64() >= Some(4), "{delivered} {got:?}");
    got.iter().for_each(|delivery| check(delivery, &id));
    assert!(got.iter().all(|delivery| delivery["headers"]["webhook-id"] == got[0]["headers"]["webhook-id"]));
}

#[tokio::test]
async fn an_upgrade_hands_deliveries_over() {
    let home = Home::new();
    let Some(receiver) = Receiver::start(&home, SECRET).await else { return };
    let daemon = setup(&home, &receiver.url("/")).start().await;
    let slow = daemon.accepted("/f/pid", "", &[(CALLBACK, &receiver.url("/slow"))]).await;
    let refused = daemon.accepted("/f/pid", "", &[(CALLBACK, &receiver.url("/refuse/3"))]).await;
    let under_way = async || receiver.got("/slow").len();
    eventually(SOON, "the delivery is under way", under_way, |count| *count == 1).await;
    let successor = daemon.upgrade().await;
    let asked = async || daemon.get(&format!("/invocations/{slow}")).await.status;
    eventually(SOON, "the new daemon has the inbox", asked, |status| *status == 200).await;
    for (path, id) in [("/slow", &slow), ("/refuse/3", &refused)] {
        daemon.delivery_is(id, "delivered").await;
        let got = receiver.got(path);
        // What a slow receiver had not confirmed by then is sent once more.
        assert!([1, 2, 4].contains(&got.len()), "{path}: {got:?}");
        got.iter().for_each(|delivery| check(delivery, id));
        assert!(got.iter().all(|delivery| delivery["headers"]["webhook-id"] == got[0]["headers"]["webhook-id"]));
    }
    drop(successor);
}

#[tokio::test]
async fn receivers_with_tls_are_those_that_the_host_trusts() {
    let home = Home::new();
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let (both, trusted) = (home.path("receiver.pem"), home.path("trusted.pem"));
    fs::write(&both, made.cert.pem() + &made.signing_key.serialize_pem()).unwrap();
    fs::write(&trusted, made.cert.pem()).unwrap();
    let Some(receiver) = Receiver::start_at(&home, 0, SECRET, Some(&both)).await else { return };
    let url = format!("https://127.0.0.1:{}/tls", receiver.port);
    let age = ("x-unifaas-max-age", "3");
    let mut daemon = setup(&home, &url).start().await;
    let id = daemon.accepted("/f/pid", "", &[(CALLBACK, &url), age]).await;
    daemon.delivery_is(&id, "failed").await;
    assert!(receiver.got("/tls").is_empty(), "its certificate is not trusted");
    daemon.end().await;
    let daemon = setup(&home, &url).variable("SSL_CERT_FILE", trusted).start().await;
    let id = daemon.accepted("/f/pid", "", &[(CALLBACK, &url)]).await;
    daemon.delivery_is(&id, "delivered").await;
    check(&receiver.got("/tls")[0], &id);
}

#[tokio::test]
async fn wrong_settings_of_deliveries_are_refused() {
    let home = Home::new();
    fs::write(home.path("empty"), "\n").unwrap();
    for (option, value, words) in [
        ("--deliver-key", home.path("none").display().to_string(), ["deliver-key", "none"]),
        ("--deliver-key", home.path("empty").display().to_string(), ["deliver-key", "empty"]),
    ] {
        let error = refusal(Setup::at(&home).option(option, &value).command()).await;
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    }
    let mut command = Setup::at(&home).option("--deliver-to", "hooks.example").command();
    let output = command.kill_on_drop(true).output().await.unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && error.contains("--deliver-to") && error.contains("https://HOST/PATH/"),
        "{error}"
    );
}
