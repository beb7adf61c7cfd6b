//! Kills in the middle of a capture and of restores: nothing is left, the next request is served by a cold start, and the
//! reason is shown.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use futures::future::join_all;
use integration::{
    Daemon, Home, SOON, Setup, eventually, ms, number, processes,
    vm::{Kind, Vm, isolated, prepared, processes as all_processes, setup, taps, traces},
};
use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::time::interval;

use super::{
    clone_taps,
    snapshots::{counts, hello, instances_of, made, snapshots, stop, until_snapshot},
};

/// Clones that are killed at once.
const CLONES: usize = 20;
/// After a capture that failed, the next one begins after a minute.
const RETRY: Duration = Duration::from_secs(180);
const LIMIT: Duration = Duration::from_secs(60);

/// A function whose template is left alone for so long that each test ends before its capture does.
fn slow(network: &str) -> Vm {
    let vm = Vm::new("f", Kind::Microvm).vm("network", format!("{network:?}")).set("boot-timeout", 60);
    vm.vm("snapshot", "{ settle = 600 }")
}

/// Removes taps as soon as their guests have ended.
fn poolless(setup: Setup) -> Setup {
    setup.option("--tap-pool", "0")
}

/// Returns all paths below a directory.
fn paths(directory: &Path) -> BTreeSet<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    paths.flat_map(|path| paths_of(&path)).collect()
}

fn paths_of(path: &Path) -> BTreeSet<PathBuf> {
    let mut all = if path.is_dir() { paths(path) } else { BTreeSet::new() };
    all.insert(path.to_owned());
    all
}

/// Returns what instances hold: processes, files of the state directory, taps and memory.
async fn held(daemon: &Daemon) -> (usize, BTreeSet<PathBuf>, Vec<String>, u64) {
    let summary = daemon.get("/debug/summary").await.ok().json();
    (all_processes().len(), paths(&daemon.home.path("state")), taps(), number(&summary["daemon"], "memory_taken"))
}

/// Waits until the template is being captured, and returns its process id.
async fn capturing(daemon: &Daemon) -> u32 {
    let look = async || daemon.function("f").await;
    let is_capturing = |it: &&Value| it["state"] == "capturing";
    let begun = |function: &Value| instances_of(function).any(|it| is_capturing(&it));
    let function = eventually(LIMIT, "a capture has begun", look, begun).await;
    let written = async || snapshots(&daemon.home);
    eventually(LIMIT, "the snapshot has a directory", written, |now| now.len() == 1).await;
    u32::try_from(number(instances_of(&function).find(is_capturing).unwrap(), "pid")).unwrap()
}

async fn ran(daemon: &Daemon, arguments: &[&str]) -> String {
    let ran = daemon.cli(arguments).await;
    assert_eq!(ran.status, Some(0), "{arguments:?}: {ran:?}");
    ran.out
}

#[test]
fn vmm_that_is_killed_during_a_capture_leaves_nothing() {
    isolated(async || {
        for network in ["user", "tap"] {
            let mut daemon = poolless(setup()).function(slow(network).into()).start().await;
            let mut before = None;
            // The first one prepares what the network needs.
            for _ in 0..2 {
                ran(&daemon, &["snapshot", "make", "f"]).await;
                let pid = capturing(&daemon).await;
                assert!(processes::signal(pid, Signal::SIGKILL), "{network}: the VMM is there");
                let function = until_snapshot(&daemon, "failing").await;
                assert_eq!(function["snapshot"]["error"], "the template ended: killed by signal 9");
                eventually(LIMIT, "nothing is left", async || daemon.instances("f").await, Vec::is_empty).await;
                let look = async || held(&daemon).await;
                let is_as_before = |now: &(usize, _, Vec<String>, u64)| {
                    let is_free = now.2.is_empty() && now.3 == 0;
                    is_free && before.as_ref().is_none_or(|before| before == now)
                };
                before = Some(eventually(LIMIT, "all is given back", look, is_as_before).await);
                assert_eq!(snapshots(&daemon.home), Vec::<PathBuf>::new());
            }
            for arguments in [&["describe", "f"][..], &["snapshot", "ls"]] {
                let shown = ran(&daemon, arguments).await;
                assert!(shown.contains("failing") && shown.contains("killed by signal 9"), "{arguments:?}: {shown}");
            }
            let line = daemon.logged_line("snapshot could not be taken").await;
            assert!(line.to_string().contains("killed by signal 9"), "{line}");
            hello(&daemon).await;
            let function = daemon.function("f").await;
            assert_eq!((counts(&function), &function["state"]), ([1, 0, 0], &Value::from("serving")));
            if network == "user" {
                let look = async || daemon.function("f").await["snapshot"]["state"].clone();
                eventually(RETRY, "the capture is tried again", look, |state| state == "making").await;
                capturing(&daemon).await;
            }
            assert_eq!(daemon.end().await.status.code(), Some(0));
            assert_eq!(traces(), Vec::<String>::new());
        }
    });
}

#[test]
fn daemon_that_is_killed_during_a_capture_leaves_nothing_to_the_next_one() {
    isolated(async || {
        let home = Home::new();
        home.put(&slow("tap").into());
        let daemon = poolless(prepared(Setup::at(&home))).start().await;
        ran(&daemon, &["snapshot", "make", "f"]).await;
        let pid = capturing(&daemon).await;
        daemon.killed().await;
        processes::gone(pid).await;
        assert_eq!((taps().len(), snapshots(&home).len()), (1, 1), "they outlive their daemon");
        let mut next = poolless(prepared(Setup::at(&home))).start().await;
        eventually(
            LIMIT,
            "they are removed",
            async || (taps(), snapshots(&home)),
            |(taps, snapshots)| taps.is_empty() && snapshots.is_empty(),
        )
        .await;
        hello(&next).await;
        assert_eq!(counts(&next.function("f").await), [1, 0, 0]);
        assert_eq!(next.end().await.status.code(), Some(0));
        eventually(SOON, "nothing is left", async || traces(), Vec::is_empty).await;
    });
}

/// Makes QEMU keep clones from running once their state has been read, while a file exists. Returns both paths.
fn holding_qemu(home: &Home) -> (PathBuf, PathBuf) {
    let (wrapper, hold) = (home.path("qemu"), home.path("hold"));
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in *\"-incoming defer\"*) [ ! -e {} ] || set -- \"$@\" -S;; esac\n\
         exec qemu-system-x86_64 \"$@\"\n",
        hold.display()
    );
    fs::write(&wrapper, script).unwrap();
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).unwrap();
    (wrapper, hold)
}

/// Kills each clone of a daemon that is being restored, as soon as it is seen. Never ends.
async fn kill_clones(daemon: &Daemon, killed: &mut BTreeSet<u32>) {
    let mut turns = interval(ms(2));
    loop {
        turns.tick().await;
        for pid in processes::family(daemon.pid) {
            let arguments = processes::arguments(pid);
            // The last one is there once QEMU runs.
            let is_held = ["-incoming", "-S"].iter().all(|wanted| arguments.iter().any(|it| it == wanted));
            if is_held && processes::signal(pid, Signal::SIGKILL) {
                killed.insert(pid);
            }
        }
    }
}

#[test]
fn clones_that_are_killed_while_they_are_restored_become_cold_starts() {
    isolated(async || {
        let home = Home::new();
        let (qemu, hold) = holding_qemu(&home);
        home.put(&clone_taps::cloned(Kind::Microvm).set("single-use", true).into());
        let setup = poolless(prepared(Setup::at(&home))).option("--max-starts", CLONES.to_string());
        let mut daemon = setup.option("--memory-budget", "10000").variable("QEMU_EXE", qemu).start().await;
        made(&daemon).await;
        fs::write(&hold, "").unwrap();
        let mut killed = BTreeSet::new();
        let requests = join_all((0..CLONES).map(|_| daemon.get("/invoke/f/hello")));
        let answers = tokio::select! {
            answers = requests => answers,
            () = kill_clones(&daemon, &mut killed) => unreachable!("it never ends"),
        };
        answers.into_iter().for_each(|answer| drop(answer.ok()));
        // Those that start after the second failure find no snapshot any more.
        let function = daemon.function("f").await;
        let [started, restores, failures] = counts(&function);
        assert_eq!((started - failures, restores), (1 + CLONES as u64, 0), "{function}");
        eprintln!("{} of {CLONES} clones were killed, {failures} could not be restored", killed.len());
        // Those of a busy host may be given up before they are seen.
        assert!(!killed.is_empty() && failures >= killed.len() as u64, "{killed:?}: {function}");
        daemon.logged("QEMU has ended: killed by signal 9").await;

        // All of them were of one snapshot, which is made anew.
        fs::remove_file(&hold).unwrap();
        until_snapshot(&daemon, "ready").await;
        stop(&daemon).await;
        hello(&daemon).await;
        assert_eq!(counts(&daemon.function("f").await), [started + 1, 1, failures]);
        stop(&daemon).await;
        let look = async || held(&daemon).await;
        eventually(LIMIT, "all is given back", look, |now| now.2.is_empty() && now.3 == 0).await;
        assert_eq!(daemon.end().await.status.code(), Some(0));
        assert_eq!(traces(), Vec::<String>::new());
    });
}
