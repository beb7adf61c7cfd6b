//! Tests with real processes.

use std::{
    fs::{self, File},
    io::{self, Write},
    net::TcpListener,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use futures::executor::block_on;
use slog::Logger;
use tokio::{
    runtime::Builder,
    task::{self, LocalSet},
};

use super::*;

const ATTEMPTS: usize = 1000;

/// Unit tests start the spawner process from the test program.
#[ctor::ctor(unsafe)]
fn spawner_process() {
    // A filter of tests may have the same name.
    if std::env::args().take(2).eq(["unifaas", ARGUMENT]) {
        run();
        #[expect(clippy::disallowed_methods, reason = "this process has nothing to tear down")]
        std::process::exit(1);
    }
}

fn spawner() -> Spawner {
    Spawner::new(&Logger::root(slog::Discard, slog::o!())).unwrap()
}

fn start(spawner: &Spawner, script: &str, confinement: Option<Confinement>) -> Child {
    let invocation = Invocation {
        program: "/bin/sh".into(),
        name: "sh".to_owned(),
        arguments: vec!["-c".to_owned(), script.to_owned()],
        env: Vec::new(),
    };
    let null = || File::options().read(true).write(true).open("/dev/null").unwrap().into();
    spawner.start(Launch { invocation, directory: "/".into(), confinement }, [null(), null(), null()])
}

async fn succeeds(spawner: &Spawner, script: &str) -> bool {
    let mut child = start(spawner, script, None);
    child.created().await.unwrap();
    child.executed().await.unwrap();
    child.wait().await.unwrap().success()
}

fn is_running(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn parent(pid: i32) -> i32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().parse().unwrap()
}

/// Counts what cannot be used right after its last descriptor was closed: a lock, a port, a program.
fn busy(directory: &Path) -> [usize; 3] {
    let (lock, program) = (directory.join("lock"), directory.join("program"));
    let take = || {
        let file = File::create(&lock).unwrap();
        file.try_lock().map(|()| file)
    };
    let mut busy = [0; 3];
    for _ in 0..ATTEMPTS {
        drop(take());
        busy[0] += usize::from(take().is_err());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        busy[1] += usize::from(TcpListener::bind(address).is_err());
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o755).open(&program).unwrap();
        file.write_all(b"#!/bin/true\n").unwrap();
        drop(file);
        let execute = Command::new(&program).status();
        busy[2] += usize::from(execute.is_err_and(|error| error.kind() == io::ErrorKind::ExecutableFileBusy));
        fs::remove_file(&program).unwrap();
    }
    busy
}

#[test]
fn children_hold_no_descriptors_of_the_daemon() {
    const ALONE: &str = "UNIFAAS_TEST_ALONE";
    // Other tests of this process create children in its own table.
    if std::env::var_os(ALONE).is_none() {
        let name = "spawner::tests::children_hold_no_descriptors_of_the_daemon";
        let mut alone = Command::new(std::env::current_exe().unwrap());
        let output = alone.args(["--exact", name]).env(ALONE, "1").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        return;
    }
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, check_descriptors_of_children());
}

async fn check_descriptors_of_children() {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let (spawner, done) = (spawner(), Arc::new(AtomicBool::new(false)));
    let children = (0..4).map(|_| {
        let (spawner, done) = (spawner.clone(), done.clone());
        task::spawn_local(async move {
            let mut count = 0;
            while !done.load(Ordering::Relaxed) {
                assert!(succeeds(&spawner, ":").await);
                count += 1;
            }
            count
        })
    });
    let children: Vec<_> = children.collect();
    let busy = task::spawn_blocking(move || busy(directory.path())).await.unwrap();
    done.store(true, Ordering::Relaxed);
    let started: usize = futures::future::join_all(children).await.into_iter().map(Result::unwrap).sum();
    assert_eq!(busy, [0; 3], "of {ATTEMPTS} each, beside {started} children");
}

#[test]
fn failure_names_its_step() {
    let confinement = Confinement {
        user: None,
        capabilities: None,
        file_size: None,
        open_files: None,
        cgroups: vec![PathBuf::from("/no/such/cgroup/tasks")],
    };
    let spawner = spawner();
    let mut child = start(&spawner, ":", Some(confinement));
    block_on(child.created()).unwrap();
    let expected = Failure { step: "cgroup".into(), errno: nix::libc::ENOENT };
    assert_eq!(block_on(child.executed()), Err(expected));
}

#[test]
fn programs_of_the_host_run_to_their_end() {
    let spawner = spawner();
    let output = spawner.output_blocking("cat", &[], b"input").unwrap();
    assert_eq!((output.status.success(), output.stdout), (true, b"input".to_vec()));
    let missing = spawner.output_blocking("no-such-program", &[], b"").unwrap_err();
    assert_eq!(missing.kind(), io::ErrorKind::NotFound);
}

#[test]
fn dropped_child_is_killed() {
    let spawner = spawner();
    let mut child = start(&spawner, "sleep 1000", None);
    let pid = block_on(child.created()).unwrap().pid;
    assert!(is_running(pid));
    drop(child);
    while is_running(pid) {
        std::thread::yield_now();
    }
}

#[test]
fn last_clone_kills_children_and_ends_the_process() {
    let spawner = spawner();
    let mut child = start(&spawner, "sleep 1000", None);
    let pid = block_on(child.created()).unwrap().pid;
    block_on(child.executed()).unwrap();
    let process = parent(pid);
    drop(spawner);
    assert!(!is_running(pid) && !is_running(process));
    assert!(block_on(child.wait()).is_err());
}

#[test]
fn next_start_replaces_an_ended_spawner_process() {
    let spawner = spawner();
    let mut child = start(&spawner, "sleep 1000", None);
    let pid = block_on(child.created()).unwrap().pid;
    block_on(child.executed()).unwrap();
    let process = nix::unistd::Pid::from_raw(parent(pid));
    nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGKILL).unwrap();
    assert!(block_on(child.wait()).is_err());
    while is_running(pid) {
        std::thread::yield_now();
    }
    assert!(block_on(succeeds(&spawner, ":")));
}
