//! Brokers with TLS and logins: the right ones connect, and the wrong ones get an error that names the reason.

use std::{fs, net::SocketAddr, path::PathBuf, process::Command};

use integration::{
    Daemon, Home, Setup,
    brokers::{Broker, MqttPublisher, NatsClient, own_address, public_file},
    eventually, ms,
    nats_login::{NatsLogin, NatsOperator},
};
use tokio::time::sleep;

use super::{connected, recorder, runs, until};

/// A certificate for an address, which is its own authority, in files.
struct Certificate {
    certificate: PathBuf,
    key: PathBuf,
}

impl Certificate {
    fn new(home: &Home, name: &str, address: SocketAddr) -> Self {
        let made = rcgen::generate_simple_self_signed([address.ip().to_string()]).unwrap();
        let (certificate, key) = (home.path(&format!("{name}.pem")), home.path(&format!("{name}.key")));
        fs::write(&certificate, made.cert.pem()).unwrap();
        fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        Self { certificate, key }
    }
}

/// Adds a function that records messages, and returns its record.
fn subscriber(home: &Home, trigger: &str) -> PathBuf {
    let file = public_file(home.path("runs"));
    home.put(&recorder("f", trigger, &file));
    file
}

/// Waits until a daemon has an error of its connection, and ends it.
async fn fails(mut daemon: Daemon, kind: &str, words: &str) {
    let has_error = |it: &serde_json::Value| it["error"].as_str().is_some_and(|error| error.contains(words));
    let shown = until(&daemon, kind, words, has_error).await;
    assert_eq!(shown["state"], "connecting", "{shown}");
    daemon.get("/invoke/f/pid").await.ok();
    daemon.end().await;
}

/// Waits until a message of NATS has run.
async fn nats_message_runs(daemon: &Daemon, broker: &Broker, login: &NatsLogin, file: &std::path::Path) {
    connected(daemon, "nats").await;
    let mut client = NatsClient::connect_as(broker.address, login).await.unwrap();
    let has_run = async || {
        // The subscription may follow the connection by a moment, and there is no answer before.
        let _ = client.request("a.b", "", "body").await;
        runs(file).contains_key("a.b")
    };
    eventually(ms(60_000), "a message has run", has_run, |has_run| *has_run).await;
}

const NATS: &str = "[[nats]]\nsubject = \"a.*\"";

#[tokio::test]
async fn nats_server_with_tls_is_used_if_its_certificate_is_trusted() {
    let home = Home::new();
    let address = own_address(4222);
    let (right, wrong) = (Certificate::new(&home, "right", address), Certificate::new(&home, "wrong", address));
    // The publisher of this test speaks no TLS.
    let settings =
        format!("tls {{ cert_file: {:?}, key_file: {:?} }}\nallow_non_tls: true", right.certificate, right.key);
    let Some(broker) = Broker::nats_at(&home, address, &settings).await else { return };
    let file = subscriber(&home, NATS);
    let setup = || Setup::at(&home).option("--nats", broker.url("tls"));
    let with = |path: &PathBuf| setup().option("--nats-ca", path);
    fails(with(&wrong.certificate).start().await, "nats", "certificate").await;
    fails(setup().start().await, "nats", "certificate").await;
    let daemon = with(&right.certificate).start().await;
    nats_message_runs(&daemon, &broker, &NatsLogin::None, &file).await;
}

#[tokio::test]
async fn nats_credentials_have_to_be_those_of_an_account_of_the_server() {
    let home = Home::new();
    let operator = NatsOperator::default();
    let Some(broker) = Broker::nats_at(&home, own_address(4222), &operator.settings()).await else { return };
    let file = subscriber(&home, NATS);
    let setup = || Setup::at(&home).option("--nats", broker.url("nats"));
    let with = |text: String| {
        let path = home.path("user.creds");
        fs::write(&path, text).unwrap();
        setup().option("--nats-creds", &path)
    };
    fails(setup().start().await, "nats", "authorization violation").await;
    fails(with(NatsOperator::default().user().file()).start().await, "nats", "authorization violation").await;
    let daemon = with(operator.user().file()).start().await;
    nats_message_runs(&daemon, &broker, &NatsLogin::User(operator.user().into()), &file).await;
}

#[tokio::test]
async fn nats_server_with_passwords_wants_the_right_one() {
    let home = Home::new();
    let settings = "authorization { users: [{ user: me, password: \"s3cr@t\" }] }";
    let Some(broker) = Broker::nats_at(&home, own_address(4222), settings).await else { return };
    let file = subscriber(&home, NATS);
    let with = |login: &str| Setup::at(&home).option("--nats", format!("nats://{login}{}", broker.address));
    fails(with("me:wrong@").start().await, "nats", "authorization violation").await;
    fails(with("").start().await, "nats", "authorization violation").await;
    let daemon = with("me:s3cr%40t@").start().await;
    nats_message_runs(&daemon, &broker, &NatsLogin::Password("me", "s3cr@t"), &file).await;
}

#[tokio::test]
async fn mqtt_broker_with_tls_and_passwords_wants_the_right_ones() {
    let home = Home::new();
    let (plain, secure) = (own_address(1883), own_address(8883));
    let (right, wrong) = (Certificate::new(&home, "right", secure), Certificate::new(&home, "wrong", secure));
    let passwords = home.path("passwords");
    let made = Command::new("mosquitto_passwd").args(["-b", "-c"]).arg(&passwords).args(["me", "s3cr@t"]).status();
    if made.is_err() {
        eprintln!("skipped: mosquitto is not installed");
        return;
    }
    let settings = format!(
        "listener {} {}\nallow_anonymous false\ncertfile {}\nkeyfile {}\npassword_file {}\n",
        secure.port(),
        secure.ip(),
        right.certificate.display(),
        right.key.display(),
        passwords.display()
    );
    let Some(broker) = Broker::mqtt_at(&home, plain, &settings).await else { return };
    let file = subscriber(&home, "[[mqtt]]\ntopic = \"a/+\"");
    let with = |login: &str| Setup::at(&home).option("--mqtt", format!("mqtts://{login}{secure}"));
    let trusting = |setup: Setup, path: &PathBuf| setup.option("--mqtt-ca", path);
    fails(trusting(with("me:s3cr%40t@"), &wrong.certificate).start().await, "mqtt", "certificate").await;
    fails(with("me:s3cr%40t@").start().await, "mqtt", "certificate").await;
    fails(trusting(with("me:wrong@"), &right.certificate).start().await, "mqtt", "refuses the user").await;
    fails(trusting(with(""), &right.certificate).start().await, "mqtt", "refuses the user").await;
    let daemon = trusting(with("me:s3cr%40t@"), &right.certificate).start().await;
    connected(&daemon, "mqtt").await;
    let mut publisher = MqttPublisher::connect(broker.address).await.unwrap();
    let has_run = async || {
        // The subscription may follow the connection by a moment.
        publisher.publish("a/b", b"body", 1).await.unwrap();
        sleep(ms(200)).await;
        runs(&file).contains_key("a/b")
    };
    eventually(ms(60_000), "a message has run", has_run, |has_run| *has_run).await;
    assert!(!daemon.log().contains("s3cr"), "{}", daemon.log());
}
