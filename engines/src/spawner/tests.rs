//! Tests with real processes.

use std::{
    ffi::CString,
    fs::{self, File},
    io::{self, Write},
    net::TcpListener,
    ops::Deref,
    os::unix::{
        ffi::OsStrExt,
        fs::{OpenOptionsExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    pin::pin,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::executor::block_on;
use nix::{
    sys::{
        signal::{Signal, kill},
        stat::Mode,
    },
    unistd::{Pid, mkfifo},
};
use slog::Logger;
use tokio::{
    runtime::Builder,
    task::{self, LocalSet},
    time::{self, timeout},
};

use super::*;
use crate::{
    state::{Resource, State, kill_process_trees, recorded},
    syscalls::{Confinement, Launch, Program},
};

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

struct Rig {
    spawner: Spawner,
    state: State,
    home: tempfile::TempDir,
}

impl Deref for Rig {
    type Target = Spawner;

    fn deref(&self) -> &Spawner {
        &self.spawner
    }
}

fn spawner() -> Rig {
    let home = tempfile::tempdir().unwrap();
    let (state, _) = State::open(&home.path().join("state")).unwrap();
    let spawner = Spawner::new(&state, &Logger::root(slog::Discard, slog::o!())).unwrap();
    Rig { spawner, state, home }
}

/// Returns the children of a process, which has one thread.
fn children(pid: i32) -> Vec<i32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    children.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

fn start(spawner: &Spawner, script: &str, confinement: Option<Confinement>) -> Child {
    let invocation = Invocation {
        program: "/bin/sh".into(),
        name: "sh".to_owned(),
        arguments: vec!["-c".to_owned(), script.to_owned()],
        env: Vec::new(),
    };
    let null = || File::options().read(true).write(true).open("/dev/null").unwrap().into();
    let launch = Launch { program: Program::try_from(&invocation).unwrap(), directory: c"/".to_owned(), confinement };
    spawner.start(launch, [null(), null(), null()])
}

async fn succeeds(spawner: &Spawner, script: &str) -> bool {
    let mut child = start(spawner, script, None);
    child.started().await.unwrap();
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
    let (rig, done) = (spawner(), Arc::new(AtomicBool::new(false)));
    let children = (0..4).map(|_| {
        let (spawner, done) = (rig.spawner.clone(), done.clone());
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
    let cgroups = vec![c"/no/such/cgroup/tasks".to_owned()];
    let spawner = spawner();
    let mut child = start(&spawner, ":", Some(Confinement { cgroups, ..Confinement::default() }));
    let failure = block_on(child.started()).unwrap_err();
    assert_eq!(failure.to_string(), "cgroup: No such file or directory (os error 2)");
}

#[tokio::test]
async fn programs_of_the_host_run_to_their_end() {
    let spawner = spawner();
    let output = spawner.output("cat", &[], b"input").await.unwrap();
    assert_eq!((output.status.success(), output.stdout), (true, b"input".to_vec()));
    let missing = spawner.output("no-such-program", &[], b"").await.unwrap_err();
    assert_eq!(missing.kind(), io::ErrorKind::NotFound);
}

#[tokio::test]
async fn program_of_the_host_that_does_not_end_is_killed() {
    let spawner = spawner();
    let file = spawner.home.path().join("pid");
    let script = format!("echo $$ > {0}.new; mv {0}.new {0}; exec sleep 1000", file.display());
    let arguments = ["-c", &script];
    let mut output = pin!(spawner.output("sh", &arguments, b""));
    while !file.exists() {
        assert!(timeout(Duration::from_millis(1), &mut output).await.is_err());
    }
    time::pause();
    assert_eq!(output.await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    let pid = fs::read_to_string(file).unwrap().trim().parse().unwrap();
    while is_running(pid) {
        std::thread::yield_now();
    }
}

#[test]
fn dropped_child_is_killed() {
    let spawner = spawner();
    let mut child = start(&spawner, "sleep 1000", None);
    let pid = block_on(child.started()).unwrap().pid;
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
    let pid = block_on(child.started()).unwrap().pid;
    let process = parent(pid);
    let Rig { spawner, state, home } = spawner;
    drop(spawner);
    assert!(!is_running(pid) && !is_running(process));
    assert!(block_on(child.wait()).is_err());
    drop(state);
    assert_eq!(recorded(&home.path().join("state")), []);
}

/// Starts a child that waits before it executes its program, until the returned pipe is read. Returns its PID.
fn start_waiting(rig: &Rig) -> (Child, PathBuf, i32) {
    let pipe = rig.home.path().join("tasks");
    mkfifo(&pipe, Mode::S_IRWXU).unwrap();
    let mut sleeping = start(rig, "sleep 1000", None);
    let process = parent(block_on(sleeping.started()).unwrap().pid);
    let known = children(process);
    // Its first step after the start of a session.
    let cgroups = vec![CString::new(pipe.as_os_str().as_bytes()).unwrap()];
    let child = start(rig, ":", Some(Confinement { cgroups, ..Confinement::default() }));
    let new = || children(process).into_iter().find(|pid| !known.contains(pid));
    let pid = std::iter::repeat_with(new).flatten().next().unwrap();
    while nix::unistd::getsid(Some(Pid::from_raw(pid))).unwrap().as_raw() != pid {
        std::thread::yield_now();
    }
    (child, pipe, pid)
}

#[test]
fn waiting_child_delays_no_other_and_is_continued_when_stopped() {
    let rig = spawner();
    let (mut child, pipe, pid) = start_waiting(&rig);
    for _ in 0..3 {
        kill(Pid::from_raw(pid), Signal::SIGSTOP).unwrap();
        assert!(block_on(succeeds(&rig, ":")));
    }
    assert_eq!(fs::read(&pipe).unwrap(), b"0");
    assert_eq!(block_on(child.started()).unwrap().pid, pid);
    assert!(block_on(child.wait()).unwrap().success());
}

#[test]
fn child_that_is_stopped_again_and_again_is_killed() {
    let rig = spawner();
    let (mut child, _, pid) = start_waiting(&rig);
    while is_running(pid) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGSTOP);
    }
    let failure = block_on(child.started()).unwrap_err();
    assert_eq!(failure.to_string(), "other processes stopped it 10 times before it executed its program");
    assert!(block_on(succeeds(&rig, ":")));
}

#[test]
fn next_daemon_finds_children_that_have_not_executed_their_program() {
    let rig = spawner();
    let (mut child, _, pid) = start_waiting(&rig);
    let [Resource::Process(tree)] = &recorded(rig.state.directory())[..] else { panic!("one record") };
    // As if the daemon was killed after another process has stopped the child.
    let (killed, result) = kill_process_trees(std::slice::from_ref(tree));
    result.unwrap();
    assert!(killed.contains(&pid) && !is_running(pid), "{killed:?}");
    assert_eq!(block_on(child.started()), Err(Failure::SpawnerEnded));
}

#[test]
fn next_start_replaces_an_ended_spawner_process() {
    let spawner = spawner();
    let mut child = start(&spawner, "sleep 1000", None);
    let pid = block_on(child.started()).unwrap().pid;
    kill(Pid::from_raw(parent(pid)), Signal::SIGKILL).unwrap();
    assert!(block_on(child.wait()).is_err());
    while is_running(pid) {
        std::thread::yield_now();
    }
    assert!(block_on(succeeds(&spawner, ":")));
}
