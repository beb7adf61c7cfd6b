//! Guests that are restored from a snapshot of a template, in user-mode networks. `clone_taps.rs` has those on taps,
//! `restore_times.rs` times both.

use std::{
    collections::BTreeSet,
    env, fs,
    net::SocketAddr,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use futures::{channel::mpsc::unbounded, future::join_all, join};
use integration::{
    Daemon, Home, Setup, eventually, ms, number, processes, request, streamed,
    vm::{self, Kind, Vm, isolated, prepared, setup, traces, unikernel},
};
use serde_json::{Value, json};

/// The name of a damage, and what does it to a file.
type Damage = (&'static str, fn(&Path));

/// The machine types that have snapshots.
pub(super) const KINDS: [Kind; 2] = [Kind::Microvm, Kind::Qemu];
/// Clones at once, unless `UNIFAAS_CLONES` says otherwise.
pub(super) const CLONES: usize = 50;
/// Attempts to take a snapshot.
const ATTEMPTS: usize = 5;
const LIMIT: Duration = Duration::from_secs(60);

pub(super) fn cloned(kind: Kind) -> Vm {
    cloned_with(kind, "true")
}

fn cloned_with(kind: Kind, snapshot: &str) -> Vm {
    Vm::new("f", kind).vm("network", "\"user\"").vm("snapshot", snapshot).set("boot-timeout", 60)
}

pub(super) fn count_of(variable: &str, default: usize) -> usize {
    env::var(variable).ok().and_then(|count| count.parse().ok()).unwrap_or(default)
}

/// Waits until the snapshot is in this state, and returns the function.
pub(super) async fn until_snapshot(daemon: &Daemon, state: &str) -> Value {
    let look = async || daemon.function("f").await;
    eventually(LIMIT, format!("the snapshot is {state}"), look, |function| function["snapshot"]["state"] == state).await
}

/// Ends all instances, and waits until nothing is left of them.
pub(super) async fn stop(daemon: &Daemon) {
    let stopped = daemon.cli(&["stop", "f"]).await;
    assert_eq!(stopped.status, Some(0), "{stopped:?}");
    let look = async || daemon.instances("f").await;
    eventually(LIMIT, "no instance is left", look, Vec::is_empty).await;
}

/// Makes the snapshot by a first request, and ends the instance.
pub(super) async fn made(daemon: &Daemon) {
    hello(daemon).await;
    for _ in 0..ATTEMPTS {
        let look = async || daemon.function("f").await["snapshot"]["state"].clone();
        let is_over = |state: &Value| state == "ready" || state == "failing";
        if eventually(LIMIT, "a snapshot was tried", look, is_over).await == "ready" {
            break;
        }
        // A guest on a busy host may not answer in time.
        daemon.cli(&["snapshot", "make", "f"]).await;
        eventually(LIMIT, "another attempt", look, |state| state != "failing").await;
    }
    until_snapshot(daemon, "ready").await;
    stop(daemon).await;
}

pub(super) async fn hello(daemon: &Daemon) {
    let text = daemon.get("/invoke/f/hello").await.ok().text();
    assert!(text.starts_with("Hello from the unikernel at 10."), "{text}");
}

pub(super) fn instances_of(function: &Value) -> impl Iterator<Item = &Value> {
    function["instances"].as_array().into_iter().flatten()
}

/// Returns the instances with a request in service. A template that is started beside them is none.
pub(super) fn busy(function: &Value) -> impl Iterator<Item = &Value> {
    instances_of(function).filter(|it| it["state"] == "busy")
}

pub(super) fn counts(function: &Value) -> [u64; 3] {
    let snapshot = &function["snapshot"];
    [number(function, "instances_started"), number(snapshot, "restores"), number(snapshot, "failures")]
}

pub(super) fn snapshots(home: &Home) -> Vec<PathBuf> {
    let entries = fs::read_dir(home.path("state").join("snapshots")).unwrap().flatten();
    entries.map(|entry| entry.path()).collect()
}

#[test]
fn instances_are_restored_also_by_the_next_daemon() {
    isolated(async || {
        for kind in KINDS {
            let home = Home::new();
            home.put(&cloned(kind).into());
            let mut daemon = prepared(Setup::at(&home)).start().await;
            made(&daemon).await;
            assert_eq!(counts(&daemon.function("f").await), [1, 0, 0]);
            for restores in 1..=2 {
                hello(&daemon).await;
                let body = "x".repeat(100_000);
                assert_eq!(daemon.post("/invoke/f/echo", &body).await.ok().text(), body);
                let function = daemon.function("f").await;
                assert_eq!(counts(&function), [1 + restores, restores, 0], "{function}");
                assert_eq!(function["snapshot"]["state"], "ready");
                stop(&daemon).await;
            }
            let page = daemon.get("/debug").await.ok().json();
            let bytes = number(&daemon.function("f").await["snapshot"], "bytes");
            assert!(bytes > 0 && number(&page["daemon"], "snapshot_bytes") == bytes, "{page}");
            let metrics = daemon.get("/metrics").await.ok().text();
            let expected = [
                format!("unifaas_snapshot_bytes {bytes}\n"),
                "unifaas_restores_total{function=\"f\",result=\"ok\"} 2\n".to_owned(),
            ];
            assert!(expected.iter().all(|line| metrics.contains(line)), "{metrics}");
            daemon.end().await;

            let next = prepared(Setup::at(&home)).start().await;
            assert_eq!(next.function("f").await["snapshot"]["state"], "ready");
            hello(&next).await;
            assert_eq!(counts(&next.function("f").await), [1, 1, 0]);
            drop(next);
            assert_eq!(traces(), Vec::<String>::new(), "{kind:?} left something behind");
        }
    });
}

/// Has so many clones answer requests at the same time, and returns the function as it was meanwhile.
pub(super) async fn used_at_once(daemon: &Daemon, count: usize) -> Value {
    let piece = |number: usize| format!("{number} ").repeat(20_000);
    let (pieces, requests): (Vec<_>, Vec<_>) = (0..count)
        .map(|number| {
            let (pieces, body) = unbounded();
            pieces.unbounded_send(Bytes::from(piece(number))).unwrap();
            (pieces, daemon.send(request("POST", "/invoke/f/echo", streamed(body))))
        })
        .unzip();
    // No request ends before each has a clone of its own.
    let begun = async {
        let look = async || daemon.function("f").await;
        let all = |function: &Value| busy(function).count() == count;
        let function = eventually(LIMIT, "each request has a clone", look, all).await;
        for (number, pieces) in pieces.into_iter().enumerate() {
            pieces.unbounded_send(Bytes::from(piece(number))).unwrap();
        }
        function
    };
    let (answers, function) = join!(join_all(requests), begun);
    for (number, answer) in answers.into_iter().enumerate() {
        assert!(answer.unwrap().ok().text() == piece(number).repeat(2), "the answer to {number} was mixed up");
    }
    function
}

#[test]
fn clones_are_apart_from_each_other() {
    isolated(async || {
        let count = count_of("UNIFAAS_CLONES", CLONES);
        let vm = cloned(Kind::Microvm).set("queue-timeout", 120);
        let daemon = setup().option("--memory-budget", "8000").function(vm.into()).start().await;
        made(&daemon).await;
        let function = used_at_once(&daemon, count).await;
        let instances: Vec<_> = busy(&function).collect();
        let distinct = |member: &str| instances.iter().map(|it| it[member].to_string()).collect::<BTreeSet<_>>().len();
        assert_eq!((distinct("address"), distinct("pid")), (count, count), "{function}");
        assert!(instances.iter().all(|it| number(it, "served") == 1), "{function}");
        // A restore that takes too long, beside other tests, becomes a cold start.
        let restored = instances.iter().filter(|it| it["origin"] == "restored").count();
        let [started, restores, failures] = counts(&function);
        assert_eq!((restores, started - failures), (restored as u64, 1 + count as u64), "{function}");
        assert!(restored > 0, "{function}");

        // Only the clone ends whose own address was requested.
        let address: SocketAddr = instances[0]["address"].as_str().unwrap().parse().unwrap();
        let pid = u32::try_from(number(instances[0], "pid")).unwrap();
        let _ = tokio::io::AsyncWriteExt::write_all(
            &mut tokio::net::TcpStream::connect(address).await.unwrap(),
            b"POST /exit HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n",
        )
        .await;
        processes::gone(pid).await;
        let others = instances[1..].iter().map(|it| u32::try_from(number(it, "pid")).unwrap());
        assert!(others.into_iter().all(processes::exists));
        hello(&daemon).await;
    });
}

#[test]
fn damaged_snapshots_become_cold_starts() {
    isolated(async || {
        let damages: [Damage; 3] = [
            ("flipped", |state| {
                let file = fs::File::options().read(true).write(true).open(state).unwrap();
                let (mut byte, middle) = ([0], file.metadata().unwrap().len() / 2);
                file.read_exact_at(&mut byte, middle).unwrap();
                file.write_all_at(&[byte[0] ^ 1], middle).unwrap();
            }),
            ("cut", |state| {
                let file = fs::File::options().write(true).open(state).unwrap();
                file.set_len(file.metadata().unwrap().len() - 1000).unwrap();
            }),
            ("swapped", |state| {
                fs::remove_file(state).unwrap();
                fs::copy(unikernel(), state).unwrap();
            }),
        ];
        for (what, damage) in damages {
            let daemon = setup().function(cloned(Kind::Microvm).into()).start().await;
            made(&daemon).await;
            let state = snapshots(&daemon.home)[0].join("state");
            damage(&state);
            hello(&daemon).await;
            let function = daemon.function("f").await;
            assert_eq!(counts(&function), [3, 0, 1], "{what}: {function}");
            assert_eq!(function["state"], "serving");
            until_snapshot(&daemon, "ready").await;
            stop(&daemon).await;
            hello(&daemon).await;
            assert_eq!(counts(&daemon.function("f").await), [4, 1, 1], "{what}");
        }
    });
}

#[test]
fn changed_files_have_another_snapshot() {
    isolated(async || {
        let home = Home::new();
        let kernel = home.path("kernel");
        let replace = || {
            let new = home.path("kernel.new");
            fs::copy(unikernel(), &new).unwrap();
            fs::rename(new, &kernel).unwrap();
        };
        replace();
        home.put(&cloned(Kind::Microvm).kernel(&kernel).into());
        let daemon = prepared(Setup::at(&home)).start().await;
        made(&daemon).await;
        let first = snapshots(&home);
        replace();
        hello(&daemon).await;
        assert_eq!(counts(&daemon.function("f").await), [2, 0, 0]);
        let look = async || snapshots(&home);
        let changed = |now: &Vec<PathBuf>| now.len() == 1 && *now != first && now[0].join("manifest.json").exists();
        eventually(LIMIT, "there is another snapshot, and no more", look, changed).await;
        stop(&daemon).await;
        hello(&daemon).await;
        assert_eq!(counts(&daemon.function("f").await), [3, 1, 0]);
        home.put(&Vm::new("f", Kind::Microvm).kernel(&kernel).vm("network", "\"user\"").into());
        eventually(LIMIT, "it is removed with the key", async || snapshots(&home), Vec::is_empty).await;
    });
}

#[test]
fn next_daemon_removes_what_a_killed_one_was_writing() {
    isolated(async || {
        let home = Home::new();
        home.put(&cloned_with(Kind::Microvm, "{ settle = 600 }").into());
        let daemon = prepared(Setup::at(&home)).start().await;
        hello(&daemon).await;
        let incomplete = |now: &Vec<PathBuf>| now.len() == 1 && now[0].extension().is_some_and(|it| it == "new");
        eventually(LIMIT, "a snapshot is begun", async || snapshots(&home), incomplete).await;
        let states: BTreeSet<_> = daemon.instances("f").await.iter().map(|it| it["state"].to_string()).collect();
        assert!(states.contains("\"capturing\""), "{states:?}");
        daemon.killed().await;
        let mut next = prepared(Setup::at(&home)).start().await;
        assert_eq!(snapshots(&home), Vec::<PathBuf>::new());
        hello(&next).await;
        next.end().await;
        assert_eq!(snapshots(&home), Vec::<PathBuf>::new(), "given up in order");
        eventually(ms(5_000), "nothing is left", async || traces(), Vec::is_empty).await;
    });
}

#[test]
fn guests_are_requested_before_their_snapshot_and_after_it() {
    isolated(async || {
        let hooked = |hooks: &str| cloned_with(Kind::Microvm, hooks);
        let daemon = vm::daemon(hooked("{ prepare = \"/echo\", restored = \"/echo\" }")).await;
        made(&daemon).await;
        hello(&daemon).await;
        assert_eq!(counts(&daemon.function("f").await), [2, 1, 0]);
        drop(daemon);

        let daemon = vm::daemon(hooked("{ prepare = \"/nothing\" }")).await;
        hello(&daemon).await;
        let function = until_snapshot(&daemon, "failing").await;
        // On a busy host the guest does not answer within the second that it has.
        let causes = ["POST /nothing was answered with status 404", "POST /nothing was not answered within 1s"];
        assert!(causes.contains(&function["snapshot"]["error"].as_str().unwrap()), "{function}");
        assert_eq!((&function["state"], snapshots(&daemon.home).len()), (&json!("serving"), 0));
        drop(daemon);

        let daemon = vm::daemon(hooked("{ restored = \"/nothing\" }")).await;
        made(&daemon).await;
        hello(&daemon).await;
        let function = daemon.function("f").await;
        assert_eq!(counts(&function), [3, 0, 1], "{function}");
        drop(daemon);
        assert_eq!(traces(), Vec::<String>::new());
    });
}

#[test]
fn operators_list_take_and_remove_snapshots() {
    isolated(async || {
        let plain = Vm::new("plain", Kind::Microvm).vm("network", "\"user\"");
        let daemon = setup().function(cloned(Kind::Microvm).into()).function(plain.into()).start().await;
        let ran = async |arguments: &[&str]| {
            let ran = daemon.cli(arguments).await;
            (ran.status, ran.out + &ran.err)
        };
        assert!(ran(&["snapshot", "ls"]).await.1.starts_with("no snapshots"));
        assert_eq!(ran(&["snapshot", "make", "f"]).await.0, Some(0));
        until_snapshot(&daemon, "ready").await;
        let (status, list) = ran(&["snapshot", "ls"]).await;
        assert!(status == Some(0) && list.lines().count() == 2 && list.contains("\nf "), "{list}");
        assert_eq!(number(&daemon.function("f").await, "instances_started"), 0);
        assert_eq!(ran(&["snapshot", "rm", "f"]).await.0, Some(0));
        let (status, said) = ran(&["snapshot", "rm", "f"]).await;
        assert!(status == Some(1) && said.contains("f has no snapshot"), "{said}");
        eventually(LIMIT, "its files are removed", async || snapshots(&daemon.home), Vec::is_empty).await;
        let (status, said) = ran(&["snapshot", "make", "plain"]).await;
        assert!(status == Some(1) && said.contains("wants no snapshot"), "{said}");
    });
}

#[test]
fn without_a_budget_there_are_no_snapshots() {
    isolated(async || {
        let daemon = setup().option("--snapshot-budget", "0").function(cloned(Kind::Microvm).into()).start().await;
        hello(&daemon).await;
        let function = until_snapshot(&daemon, "failing").await;
        assert_eq!(function["snapshot"]["error"], "no snapshots are kept (--snapshot-budget)");
    });
}
