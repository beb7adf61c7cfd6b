//! Where settings come from, what `unifaas config` says about them, and reading them again.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use integration::{Daemon, Function, Home, Setup, cli, ms, shipped, unifaas};
use nix::{sys::signal::Signal, unistd::geteuid};
use serde_json::Value;

/// Each option with the values that a file, the environment and the command line give it.
const OPTIONS: &[(&str, [&str; 3])] = &[
    ("registry", ["a", "b", "c"]),
    ("listen", ADDRESSES),
    ("callback-listen", ADDRESSES),
    ("admin-listen", ADDRESSES),
    ("admin-read", ["group", "anyone", "group"]),
    ("admin-group", ["a", "b", "c"]),
    ("tls-cert", ["a", "b", "c"]),
    ("tls-key", ["a", "b", "c"]),
    ("max-connections", COUNTS),
    ("max-connections-per-client", COUNTS),
    ("client-timeout", COUNTS),
    ("subnet", ["10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16"]),
    ("tap-pool", COUNTS),
    ("state-dir", ["/a", "/b", "/c"]),
    ("memory-budget", ["50%", "1024", "90%"]),
    ("snapshot-budget", ["50%", "1024", "0"]),
    ("inbox-size", ["64", "1024", "2048"]),
    ("async-concurrency", COUNTS),
    ("deliver-to", ["http://a", "https://b/x", "http://c,https://d"]),
    ("deliver-key", ["/a", "/b", "/c"]),
    ("nats", ["nats://a", "tls://b", "nats://c:4333"]),
    ("nats-creds", ["/a", "/b", "/c"]),
    ("nats-ca", ["/a", "/b", "/c"]),
    ("mqtt", ["mqtt://a", "mqtts://b:1884", "mqtt://c"]),
    ("mqtt-ca", ["/a", "/b", "/c"]),
    ("cluster", ["nats://a", "nats://b:4333", "tls://c"]),
    ("site", ["a", "b", "c"]),
    ("node-name", ["a", "b", "c"]),
    ("node-label", ["gpu", "zone=a", "gpu,zone=b"]),
    ("peer-listen", ADDRESSES),
    ("peer-address", ["a:1", "10.0.0.1:2", "[::1]:3"]),
    ("overflow", ["x", "y", "x,y"]),
    ("peer-security", ["none", "tls", "none"]),
    ("max-starts", COUNTS),
    ("max-process-starts", COUNTS),
    ("metrics-functions", COUNTS),
    ("metrics-listen", ADDRESSES),
    ("otlp-endpoint", ["http://a:1", "http://b:2/x", "http://[::1]:3"]),
    ("trace-sample", ["0.5", "1", "0"]),
    ("drain-grace", COUNTS),
    ("upgrade-grace", COUNTS),
    ("error-detail", ["brief", "full", "brief"]),
    ("access-log", ["off", "all", "off"]),
    ("log-level", ["warn", "error", "debug"]),
];
const ADDRESSES: [&str; 3] = ["127.0.0.1:1", "[::1]:2", "0.0.0.0:3"];
const COUNTS: [&str; 3] = ["1", "2", "3"];
const SOURCES: [&str; 3] = ["file", "environment", "command-line"];

fn run(arguments: &[&str], variables: &[(String, &str)]) -> Output {
    let mut command = Command::new(unifaas());
    command.args(arguments).env("UNIFAAS_CONFIG", "/dev/null");
    command.envs(variables.iter().map(|(name, value)| (name, value)));
    command.output().unwrap()
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Writes a file in a temporary directory, and returns its path.
fn file(home: &Home, text: &str) -> String {
    let path = home.path("unifaas.toml");
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Returns what `unifaas config --json` shows.
fn shown(arguments: &[&str], variables: &[(String, &str)]) -> Value {
    let output = run(&[&["config", "--json"], arguments].concat(), variables);
    assert!(output.status.success(), "{arguments:?} {variables:?}: {output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn each_option_is_taken_from_the_first_place_that_has_it() {
    let home = Home::new();
    for &(key, values) in OPTIONS {
        let variable = format!("UNIFAAS_{}", key.to_uppercase().replace('-', "_"));
        // Each of these needs others.
        let partners: &[&str] = match key {
            "tls-cert" => &["--tls-key=x"],
            "tls-key" => &["--tls-cert=x"],
            "nats-creds" | "nats-ca" => &["--nats=nats://h"],
            "mqtt-ca" => &["--mqtt=mqtts://h"],
            "cluster" => &["--peer-listen=127.0.0.1:1"],
            "peer-listen" => &["--cluster=nats://h"],
            "node-name" | "node-label" | "peer-address" | "overflow" | "peer-security" => {
                &["--cluster=nats://h", "--peer-listen=127.0.0.1:1"]
            }
            _ => &[],
        };
        for places in 0..1 << SOURCES.len() {
            let has = |place: usize| places & 1 << place != 0;
            let path = file(&home, &if has(0) { format!("\n{key} = {:?}\n", values[0]) } else { String::new() });
            let variables = if has(1) { vec![(variable.clone(), values[1])] } else { vec![] };
            let option = if has(2) { format!("--{key}={}", values[2]) } else { String::new() };
            let from_file = format!("--config={path}");
            let words = partners.iter().copied().chain([option.as_str(), &from_file]);
            let arguments: Vec<_> = words.filter(|word| !word.is_empty()).collect();
            if places == 0 && partners.len() == 1 && !matches!(key, "nats-creds" | "nats-ca" | "mqtt-ca") {
                assert_eq!(run(&[&["config"], &arguments[..]].concat(), &[]).status.code(), Some(2));
                continue;
            }
            let setting = shown(&arguments, &variables)[key].take();
            let Some(expected) = (0..SOURCES.len()).rev().find(|place| has(*place)) else {
                assert_eq!(setting["source"], "default", "{key}: {setting}");
                continue;
            };
            assert_eq!(
                (&setting["value"], &setting["source"]),
                (&values[expected].into(), &SOURCES[expected].into()),
                "{key}"
            );
            match expected {
                0 => assert_eq!((&setting["file"], &setting["line"]), (&path.into(), &2.into()), "{key}"),
                1 => assert_eq!(setting["variable"], variable.as_str()),
                _ => {}
            }
        }
    }
}

#[test]
fn every_option_is_in_the_table_of_this_test() {
    let all = shown(&[], &[]);
    let untested = all.as_object().unwrap().keys().filter(|key| OPTIONS.iter().all(|(known, _)| known != key));
    assert_eq!(untested.collect::<Vec<_>>(), ["log-format"], "tested by the log's format");
}

#[test]
fn settings_are_shown_as_a_file_with_sources() {
    let home = Home::new();
    let path = file(&home, "# ours\nlisten = \"127.0.0.1:1\"\n");
    let output = run(&["config", "--config", &path, "-l", "warn"], &[("UNIFAAS_TAP_POOL".to_owned(), "9")]);
    let text = String::from_utf8(output.stdout).unwrap();
    let source = |setting: &str| {
        let line = text.lines().find(|line| line.starts_with(setting)).unwrap_or_else(|| panic!("{setting}: {text}"));
        line.split_once("  # ").unwrap().1.to_owned()
    };
    assert_eq!(source("listen = \"127.0.0.1:1\""), format!("{path}:2"));
    assert_eq!(source("tap-pool = 9"), "environment: UNIFAAS_TAP_POOL");
    assert_eq!(source("log-level = \"warn\""), "command line");
    assert_eq!(source("callback-listen = \"0.0.0.0:8124\""), "default");
    assert_eq!(source("# admin-listen"), "not set");
}

#[test]
fn wrong_files_are_refused_with_their_line() {
    let home = Home::new();
    for (text, reason) in [
        ("\nlisten-callback = 1\nlistn = \"127.0.0.1:1\"\n", ":3: listn: unknown key; did you mean `listen`?"),
        ("\n\nmax-starts = 0\n", ":3: invalid value '0' for '--max-starts <COUNT>'"),
        ("listen = \n", ":1: "),
        ("tls-cert = \"x\"\n", "--tls-key <FILE>"),
    ] {
        let path = file(&home, text);
        for command in ["serve", "config"] {
            let output = run(&[command, "--config", &path], &[]);
            assert_eq!(output.status.code(), Some(2), "{output:?}");
            assert!(errors(&output).contains(reason), "{reason}: {}", errors(&output));
        }
    }
    let output = run(&["--config", "/no/such/file"], &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(errors(&output).contains("/no/such/file"), "{}", errors(&output));
}

#[test]
fn a_wrong_variable_is_named() {
    let home = Home::new();
    let path = file(&home, "listen = \"127.0.0.1:0\"\nmax-starts = 3\n");
    for (variable, value, reason) in [
        ("UNIFAAS_LISTEN", "nonsense", "invalid value 'nonsense' for '--listen <HOST:PORT>': expected HOST:PORT"),
        ("UNIFAAS_MAX_STARTS", "many", "for '--max-starts <COUNT>'"),
        ("UNIFAAS_LOG_LEVEL", "loud", "[possible values: error"),
    ] {
        let set = (variable.to_owned(), value);
        for arguments in [&["serve", "-r", "x", "--config", &path][..], &["config", "--config", &path], &["ps"]] {
            let output = run(arguments, std::slice::from_ref(&set));
            let said = errors(&output);
            assert_eq!(output.status.code(), Some(2), "{said}");
            assert!(said.starts_with(&format!("unifaas: {variable}: ")) && said.contains(reason), "{said}");
            assert_eq!(said.lines().count(), 1, "{said}");
        }
        // The command line precedes the variable.
        let key = variable.trim_start_matches("UNIFAAS_").to_lowercase().replace('_', "-");
        let output = run(&["config", "-r", "x", &format!("--{key}"), "wrong"], &[set]);
        assert!(errors(&output).starts_with("error: invalid value 'wrong'"), "{}", errors(&output));
    }
    let set = ("UNIFAAS_LISTEN".to_owned(), "127.0.0.1:0");
    let output = run(&["dev", "--listen", "wrong"], &[set]);
    assert!(errors(&output).starts_with("error: invalid value 'wrong'"), "another command's: {}", errors(&output));
}

#[tokio::test]
async fn daemon_serves_what_its_file_says() {
    let home = Home::new();
    home.put(&Function::new("f"));
    let path = file(&home, &format!("registry = {:?}\nmax-connections = 77\n", home.registry()));
    let setup = Setup::at(&home).without("--registry").variable("UNIFAAS_CONFIG", &path);
    let daemon = setup.run_by(["env", "UNIFAAS_MAX_STARTS=5"]).start().await;
    daemon.get("/invoke/f/pid").await.ok();
    let settings = daemon.debug().await["daemon"]["settings"].take();
    assert_eq!((&settings["max_connections"], &settings["max_starts"]), (&77.into(), &5.into()));
    assert_eq!(settings["config"], path);
}

#[tokio::test]
async fn check_takes_the_registry_of_the_settings() {
    let home = Home::new();
    home.put(&Function::new("f"));
    let path = file(&home, &format!("registry = {:?}\n", home.registry()));
    let output = run(&["check"], &[("UNIFAAS_CONFIG".to_owned(), &path)]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "f: ok\n", "{output:?}");
    let output = run(&["check", "-r", "/no/such/registry"], &[("UNIFAAS_CONFIG".to_owned(), &path)]);
    assert!(errors(&output).contains("/no/such/registry"), "{output:?}");
}

/// Runs the binary where `/etc/unifaas` has what `prepare`, a shell script, puts there.
fn with_etc(home: &Home, prepare: &str, arguments: &[&str]) -> Command {
    let script = format!(
        "cp -a /etc \"$ETC\" && rm -rf \"$ETC/unifaas\" && mkdir \"$ETC/unifaas\" && mount --bind \"$ETC\" /etc && \
         {prepare} && exec \"$0\" \"$@\""
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation=private", "--", "sh", "-c", &script]).arg(unifaas()).args(arguments);
    command.env("ETC", home.path("etc")).env_remove("UNIFAAS_CONFIG");
    command
}

#[test]
fn file_and_registry_of_the_package_are_found() {
    if !geteuid().is_root() {
        eprintln!("skipped: only root may mount");
        return;
    }
    let home = Home::new();
    let prepare = "mkdir /etc/unifaas/registry && echo 'tap-pool = 9' >/etc/unifaas/unifaas.toml";
    let output = with_etc(&home, prepare, &["config"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = |start: &str| text.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("{output:?}"));
    assert!(line("tap-pool = 9 ").ends_with("# /etc/unifaas/unifaas.toml:1"), "{text}");
    assert!(line("registry = \"/etc/unifaas/registry\" ").ends_with("# default"), "{text}");
}

#[tokio::test]
async fn without_a_registry_it_says_how_to_begin_and_that_works() {
    let home = Home::new();
    let output = if geteuid().is_root() {
        with_etc(&home, "true", &[]).output().unwrap()
    } else if Path::new("/etc/unifaas").exists() {
        eprintln!("skipped: this host has a registry");
        return;
    } else {
        run(&[], &[])
    };
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let text = errors(&output);
    let commands: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("    ")).collect();
    let [new, "unifaas --registry functions", invoke] = commands[..] else { panic!("{text}") };
    let words = |command: &str| command.split(' ').skip(1).map(str::to_owned).collect::<Vec<_>>();
    let place = home.path("beginning");
    fs::create_dir(&place).unwrap();
    let made = cli::bare(&[]).args(words(new)).current_dir(&place).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let daemon = Setup::at(&home).option("--registry", place.join("functions")).start().await;
    let mut invoke = daemon.command(&words(invoke).iter().map(String::as_str).collect::<Vec<_>>());
    let answer = tokio::task::spawn_blocking(move || invoke.output()).await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&answer.stdout).starts_with("Hello from hello"), "{answer:?}");
}

#[tokio::test]
async fn registry_without_functions_is_a_warning() {
    let warning = async |registry: &Path, words: &str| {
        let daemon = Setup::default().option("--registry", registry).start().await;
        let log = daemon.logged("\"serving\"").await;
        assert!(log.lines().any(|line| line.contains("\"warning\"") && line.contains(words)), "{log}");
    };
    let home = Home::new();
    warning(&home.registry(), "the registry has no function").await;
    home.put(&Function::new("f"));
    warning(&home.registry().join("f"), "the registry is itself a function").await;
    let daemon = Setup::default().option("--registry", shipped("registry")).start().await;
    assert!(!daemon.logged("\"serving\"").await.contains("the registry "), "{}", daemon.log());
}

/// Starts a daemon without a controlling terminal, with a configuration file.
async fn service(home: &std::sync::Arc<Home>, text: &str) -> Daemon {
    let path = file(home, text);
    let setup = Setup::at(home).variable("UNIFAAS_CONFIG", path);
    setup.run_by(["setsid", "env", "--default-signal=HUP"]).start().await
}

async fn logged(daemon: &Daemon, words: &str) -> String {
    let log = daemon.logged(words).await;
    log.lines().find(|line| line.contains(words)).unwrap().to_owned()
}

#[tokio::test]
async fn sighup_makes_a_service_read_its_file_again() {
    let home = Home::new();
    home.put(&Function::new("f"));
    let mut daemon = service(&home, "drain-grace = 9\n").await;
    let grace = async || daemon.debug().await["daemon"]["settings"]["drain_grace_seconds"].as_f64();
    assert_eq!(grace().await, Some(9.0));
    daemon.get("/invoke/f/pid").await.ok();
    assert!(!daemon.log().contains("\"debug\""), "{}", daemon.log());

    file(&home, "drain-grace = 1\nlog-level = \"debug\"\naccess-log = \"all\"\ntap-pool = 7\nupgrade-grace = 5\n");
    daemon.signal(Signal::SIGHUP);
    let line = logged(&daemon, "read configuration and registry again").await;
    assert!(line.contains("drain-grace upgrade-grace access-log log-level"), "{line}");
    let line = logged(&daemon, "take effect at the next start").await;
    assert!(line.contains("\"warning\"") && line.contains("tap-pool"), "{line}");
    assert_eq!(grace().await, Some(1.0));
    assert!(!daemon.log().contains("request ended"), "{}", daemon.log());
    daemon.get("/invoke/f/pid").await.ok();
    logged(&daemon, "request ended").await;
    // An instance that ends changes its state, which is a message of that level.
    daemon.post("/invoke/f/exit", "").await.problem(502, "instance_failed");
    logged(&daemon, "\"debug\"").await;

    file(&home, "drain-grace = -1\n");
    daemon.signal(Signal::SIGHUP);
    let line = logged(&daemon, "the configuration is wrong").await;
    assert!(line.contains("unifaas.toml:1: ") && line.contains("zero or more"), "{line}");
    assert_eq!(grace().await, Some(1.0));

    // The new grace is in force.
    let mut connection = daemon.connect().await;
    let endless = tokio::spawn(async move {
        connection.send(integration::request("GET", "/invoke/f/sleep?ms=60000", integration::empty())).await
    });
    daemon.until("f", "busy", 1).await;
    let ending = daemon.end().await;
    assert!(ending.took < ms(5000), "{ending:?}");
    assert_eq!(ending.status.code(), Some(0));
    endless.abort();
}

#[tokio::test]
async fn sighup_makes_a_service_read_its_registry_again() {
    if !geteuid().is_root() {
        eprintln!("skipped: only root may mount");
        return;
    }
    let home = Home::new();
    home.put(&Function::new("f"));
    let setup = Setup::at(&home).run_by(["setsid", "env", "--default-signal=HUP"]);
    let daemon = setup.run_by(["unshare", "--mount", "--propagation=private", "--"]).start().await;
    daemon.get("/invoke/f/pid").await.ok();
    // The scan at the start is over then. A mount is a change that the kernel does not report.
    let other = home.path("other");
    fs::create_dir(&other).unwrap();
    Function::new("g").write(&other, &home);
    tokio::time::sleep(ms(500)).await;
    let namespace = format!("--mount=/proc/{}/ns/mnt", daemon.pid);
    let mut mount = Command::new("nsenter");
    mount.args([&namespace, "mount", "--bind"]).arg(&other).arg(home.registry());
    assert!(mount.status().unwrap().success());
    tokio::time::sleep(ms(500)).await;
    assert_eq!(daemon.get("/invoke/g/pid").await.status, 404);
    daemon.signal(Signal::SIGHUP);
    daemon.answers("/invoke/g/pid", 200).await;
}
