//! The state directory: exclusive use, damaged content, failing writes.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
};

use integration::{
    Daemon, Function, Home, SOON, Setup, cgroups_are_usable, eventually, processes, refusal, unifaas, vm::skip,
};
use nix::{
    sched::{CloneFlags, unshare},
    unistd::geteuid,
};
use serde_json::Value;

fn only_root() -> bool {
    let root = geteuid().is_root();
    if !root {
        skip("only root can mount a file system");
    }
    root
}

#[tokio::test]
async fn second_daemon_on_state_directory_refuses_to_start() {
    let home = Home::new();
    home.put(&Function::new("f").set("min-instances", 1));
    let mut first = Setup::at(&home).start().await;
    first.until("f", "idle", 1).await;
    let before = home.processes();
    for _ in 0..3 {
        let line = refusal(Setup::at(&home).command()).await;
        assert!(line.contains(&*home.path("state").to_string_lossy()), "{line}");
        assert!(line.contains("in use") && line.contains(&format!("process {}", first.pid)), "{line}");
    }
    assert_eq!(home.processes(), before);
    first.get("/invoke/f/pid").await.ok();
    first.end().await;
    Setup::at(&home).start().await.get("/invoke/f/pid").await.ok();
}

#[tokio::test]
async fn daemons_with_own_state_directories_are_independent() {
    let home = Home::new();
    home.put(&Function::new("f").set("min-instances", 1).flag("--descendant").flag("own-session"));
    let first = Setup::at(&home).start().await;
    first.until("f", "idle", 1).await;
    let before = home.processes();
    let other = Home::new();
    let second = Setup::at(&other).start().await;
    second.killed().await;
    let _second = Setup::at(&other).start().await;
    assert_eq!(home.processes(), before);
}

/// Returns the number of removed resources of a kind; the log has one line per kind.
#[track_caller]
fn removed(daemon: &Daemon, kind: &str) -> Option<u64> {
    let lines = daemon.log().lines().map(|line| serde_json::from_str(line).expect(line)).collect::<Vec<Value>>();
    let of_kind = |line: &&Value| line["msg"] == "removed leftovers of an earlier daemon" && line["kind"] == kind;
    let counts: Vec<_> = lines.iter().filter(of_kind).map(|line| line["count"].as_u64()).collect();
    assert!(counts.len() < 2, "{kind} are removed more than once: {counts:?}");
    counts.first().copied().flatten()
}

#[tokio::test]
async fn removed_leftovers_are_logged_by_kind() {
    let home = Home::new();
    home.put(&Function::new("f").set("min-instances", 2).flag("--descendant").flag("own-session"));
    let daemon = Setup::at(&home).start().await;
    daemon.until("f", "idle", 2).await;
    let cgroups = daemon.instances("f").await[0]["resources"].to_string().contains("cgroup");
    daemon.killed().await;
    home.remove("f");
    fs::create_dir(home.path("state/instances/0123456789abcdef")).unwrap();
    fs::write(home.path("log"), "").unwrap();
    // Only the descendants.
    home.left(2).await;
    let daemon = Setup::at(&home).start().await;
    home.left(0).await;
    let counts = async || ["directories", "processes", "cgroups"].map(|kind| removed(&daemon, kind));
    // Each hierarchy has a directory per instance and one for all.
    let is_all = |counts: &[Option<u64>; 3]| {
        counts[..2] == [Some(1), Some(2)] && counts[2].is_some_and(|count| count >= 3) == cgroups
    };
    eventually(SOON, "the removals are logged", counts, is_all).await;
}

#[tokio::test]
async fn without_records_the_next_daemon_removes_cgroups_and_what_is_in_them() {
    if !geteuid().is_root() || !cgroups_are_usable().await {
        return;
    }
    let home = Home::new();
    home.put(&Function::new("f").set("min-instances", 1).flag("--descendant").flag("own-session"));
    let daemon = Setup::at(&home).start().await;
    daemon.until("f", "idle", 1).await;
    fs::remove_dir_all(home.path("state/resources")).unwrap();
    daemon.killed().await;
    home.remove("f");
    let daemon = Setup::at(&home).start().await;
    home.left(0).await;
    daemon.logged("journal of an earlier daemon is damaged").await;
    let ended = async || removed(&daemon, "processes");
    let ended = eventually(SOON, "the removal of processes is logged", ended, Option::is_some).await.unwrap();
    assert!((1..=2).contains(&ended), "its descendant, and itself unless it had ended with the daemon: {ended}");
}

/// A session leader that belongs to no daemon.
struct Foreigner(Child);

impl Foreigner {
    fn new() -> Self {
        Self(Command::new("setsid").args(["sleep", "1000"]).stdin(Stdio::null()).spawn().unwrap())
    }

    /// Returns its start time in clock ticks.
    fn start(&self) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap();
        stat.rsplit(')').next().unwrap().split_whitespace().nth(19).unwrap().parse().unwrap()
    }

    fn is_alive(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Foreigner {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a daemon with a record of such a process, in the journal of an earlier version or in a file of its own. Returns
/// whether the process survives.
async fn survives(legacy: bool, foreigner: &mut Foreigner, origin: &str, after: u64, before: u64) -> bool {
    let home = Home::new();
    fs::create_dir(home.path("state")).unwrap();
    let leader = format!("{{\"pid\":{},\"after\":{after},\"before\":{before}}}", foreigner.0.id());
    let thing = format!("{{\"process\":{{\"instance\":\"0123456789abcdef\",\"leader\":{leader}}}}}");
    if legacy {
        let text = format!("{{\"daemon\":{origin}}}\n{{\"enter\":{{\"number\":3,\"thing\":{thing}}}}}\n");
        fs::write(home.path("state/journal"), text).unwrap();
    } else {
        fs::create_dir(home.path("state/resources")).unwrap();
        let text = format!("{{\"origin\":{origin},\"resource\":{thing}}}\n");
        fs::write(home.path("state/resources/3.json"), text).unwrap();
    }
    let mut daemon = Setup::at(&home).start().await;
    daemon.end().await;
    assert!(!home.path("state/journal").exists());
    assert_eq!(fs::read_dir(home.path("state/resources")).unwrap().count(), 0, "it is still recorded");
    foreigner.is_alive()
}

#[tokio::test]
async fn process_is_killed_only_if_it_is_the_recorded_one() {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().trim().to_owned();
    let namespace =
        |kind: &str| std::os::unix::fs::MetadataExt::ino(&fs::metadata(format!("/proc/self/ns/{kind}")).unwrap());
    let origin =
        |boot: &str, pids: u64| format!("{{\"boot\":\"{boot}\",\"pids\":{pids},\"network\":{}}}", namespace("net"));
    let here = origin(&boot, namespace("pid"));
    for legacy in [true, false] {
        let mut foreigner = Foreigner::new();
        let start = foreigner.start();
        // The PID was reused.
        assert!(survives(legacy, &mut foreigner, &here, start - 200, start - 1).await);
        assert!(survives(legacy, &mut foreigner, &here, start + 1, start + 200).await);
        // The host was rebooted, or the daemon runs in another container.
        assert!(survives(legacy, &mut foreigner, &origin("another", namespace("pid")), start, start).await);
        assert!(survives(legacy, &mut foreigner, &origin(&boot, 1), start, start).await);
        assert!(!survives(legacy, &mut foreigner, &here, start, start).await, "the test is wrong: this is the one");
    }
}

/// Runs as `nobody`, without the right to create cgroups and processes of other users.
const UNPRIVILEGED: [&str; 4] = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];

/// Returns settings of a daemon without cgroups, as root or as `nobody`.
fn without_cgroups(home: &Arc<Home>, root: bool) -> Option<Setup> {
    let user = 65_534;
    fs::create_dir_all(home.path("state")).unwrap();
    if root {
        return Some(Setup::at(home).without_cgroups());
    }
    let (program, arguments) = UNPRIVILEGED.split_first().unwrap();
    let may_run = Command::new(program).args(arguments).arg(unifaas()).arg("--version").stdout(Stdio::null()).status();
    if !may_run.is_ok_and(|status| status.success()) {
        skip("`nobody` cannot execute the daemon");
        return None;
    }
    std::os::unix::fs::chown(home.path("state"), Some(user), Some(user)).unwrap();
    Some(Setup::at(home).run_by(UNPRIVILEGED))
}

#[tokio::test]
async fn descendants_in_own_session_end_without_cgroups() {
    if !only_root() {
        return;
    }
    for root in [true, false] {
        let home = Home::new();
        let Some(setup) = without_cgroups(&home, root) else { return };
        let own_session = |name: &str| Function::new(name).flag("--descendant").flag("own-session");
        home.put(&own_session("once").set("single-use", true));
        home.put(&own_session("kept").set("min-instances", 1));
        let daemon = setup.start().await;
        daemon.until("kept", "idle", 1).await;
        daemon.get("/invoke/once/pid").await.ok();
        // The kept one and its descendant.
        home.left(2).await;
        assert!(!daemon.instances("kept").await[0]["resources"].to_string().contains("cgroup"));
        daemon.killed().await;
        home.remove("kept");
        let _daemon = without_cgroups(&home, root).unwrap().start().await;
        home.left(0).await;
    }
}

#[tokio::test]
async fn damaged_records_do_not_keep_the_daemon_from_serving() {
    let home = Home::new();
    home.put(&Function::new("f").set("min-instances", 1).flag("--descendant").flag("own-session"));
    let daemon = Setup::at(&home).start().await;
    daemon.until("f", "idle", 1).await;
    daemon.killed().await;
    for (name, text) in
        [("900.json", b"\0\0\0\xff\xfe{\n".as_slice()), ("901.json", b""), ("902.new", b"{"), ("x", b"")]
    {
        fs::write(home.path("state/resources").join(name), text).unwrap();
    }
    home.put(&Function::new("f"));
    let daemon = Setup::at(&home).start().await;
    home.left(0).await;
    let log = daemon.logged("damaged").await;
    let named = log.contains("900.json") && log.contains("901.json") && log.contains("state/resources/x\"");
    assert!(named, "{log}");
    daemon.get("/invoke/f/pid").await.ok();
    daemon.killed().await;
    fs::write(home.path("log"), "").unwrap();
    let daemon = Setup::at(&home).start().await;
    assert!(!daemon.log().contains("damaged"), "it is reported once: {}", daemon.log());
}

#[tokio::test]
async fn full_disk_refuses_new_instances_only() {
    if !only_root() {
        return;
    }
    let home = Home::new();
    home.put(&Function::new("warm").set("min-instances", 1));
    home.put(&Function::new("f").set("single-use", true));
    let daemon = Setup::at(&home).on_a_small_disk("200k").start().await;
    daemon.until("warm", "idle", 1).await;
    fs::write(daemon.inside("state/filler"), vec![0; 1 << 20]).unwrap_err();
    let full = daemon.answers("/invoke/f/pid", 503).await;
    let problem = full.problem(503, "host_saturated").to_string();
    assert!(problem.contains("state/resources/") && problem.contains("No space left"), "{problem}");
    assert!(full.retry_after() >= 1);
    daemon.get("/invoke/warm/pid").await.ok();
    daemon.settled("f", "nothing is left of it", |function| function["instances"] == serde_json::json!([])).await;
    assert_eq!(home.processes().len(), 1);

    fs::remove_file(daemon.inside("state/filler")).unwrap();
    daemon.answers("/invoke/f/pid", 200).await;
    daemon.settled("f", "it has ended", |function| function["instances"] == serde_json::json!([])).await;
    fs::write(daemon.inside("state/filler"), vec![0; 1 << 20]).unwrap_err();
    // The file of a removed record has space for another one.
    daemon.get("/invoke/f/pid").await.ok();
}

/// Forbids or allows changes of a directory. Returns whether that can be done here.
fn set_immutable(path: &Path, how: &str) -> bool {
    Command::new("chattr").arg(how).arg(path).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

#[tokio::test]
async fn journal_that_cannot_be_written_refuses_new_instances_only() {
    let home = Home::new();
    home.put(&Function::new("warm").set("min-instances", 1));
    home.put(&Function::new("f").set("single-use", true));
    let daemon = Setup::at(&home).start().await;
    daemon.until("warm", "idle", 1).await;
    let journal = home.path("state/resources");
    if !set_immutable(&journal, "+i") {
        return skip("no directory can be made immutable here");
    }
    let reply = daemon.get("/invoke/f/pid").await;
    let served = daemon.get("/invoke/warm/pid").await;
    let processes = home.processes();
    assert!(set_immutable(&journal, "-i"), "it cannot even be removed");
    let problem = reply.problem(502, "start_failed").to_string();
    assert!(problem.contains(&*journal.to_string_lossy()) && problem.contains("not permitted"), "{problem}");
    served.ok();
    assert_eq!(processes.len(), 1);
    daemon.answers("/invoke/f/pid", 200).await;
}

#[tokio::test]
async fn full_or_read_only_state_directory_is_one_error_line() {
    if !only_root() {
        return;
    }
    let home = Home::new();
    home.put(&Function::new("f").set("min-instances", 1));
    let state = home.path("state").to_string_lossy().into_owned();
    fs::create_dir(home.path("state")).unwrap();
    let broken = |mount: &str| {
        let script = format!("{mount} && exec \"$0\" \"$@\"");
        let wrapper = ["unshare", "--mount", "--propagation=private", "sh", "-c", &script];
        Setup::at(&home).run_by(wrapper).variable("STATE", &state)
    };
    let read_only = refusal(broken("mount -t tmpfs -o ro,mode=755 none \"$STATE\"").command()).await;
    assert!(read_only.contains(&state) && read_only.contains("Read-only"), "{read_only}");
    let fill = "mount -t tmpfs -o size=64k,mode=755 none \"$STATE\" && { cat /dev/zero >\"$STATE/filler\" 2>/dev/null || true; }";
    let full = refusal(broken(fill).command()).await;
    assert!(full.contains(&state) && full.contains("No space left"), "{full}");
    assert!(processes::with_token(home.token()).is_empty());
}

#[test]
fn leftover_disk_copies_are_removed_before_first_write() {
    if !only_root() {
        return;
    }
    let run = || {
        // A mount made here must be visible to child processes and disappear with this thread.
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let home = Home::new();
            home.put(&Function::new("f").set("min-instances", 1));
            let state = home.path("state");
            fs::create_dir(&state).unwrap();
            let mount = |arguments: &[&str]| {
                assert!(Command::new("mount").args(arguments).status().unwrap().success());
            };
            mount(&["--make-rprivate", "/"]);
            mount(&["-t", "tmpfs", "-o", "size=200k,mode=755", "none", &state.to_string_lossy()]);
            let daemon = Setup::at(&home).start().await;
            daemon.until("f", "idle", 1).await;
            daemon.killed().await;
            let copy = state.join("instances/0123456789abcdef");
            fs::create_dir(&copy).unwrap();
            fs::write(copy.join("rootfs"), vec![7; 1 << 20]).unwrap_err();
            let daemon = Setup::at(&home).start().await;
            daemon.get("/invoke/f/pid").await.ok();
            assert!(!copy.exists());
        });
    };
    if let Err(panic) = std::thread::spawn(run).join() {
        std::panic::resume_unwind(panic);
    }
}
