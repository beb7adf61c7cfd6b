//! Tests with real processes. As root they run unprivileged, and in cgroups if available.

mod rig;

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use futures::future::join_all;
use tokio::time::{Duration, timeout};
use unifaas_actors::{OutputStream, ReadyToken};

use super::*;
use rig::{Ended, Rig, cgroups, eventually, held, members, root, runs, world};

/// Takes 128 MiB.
const HOG: &str = "x=xxxxxxxx; for i in $(seq 24); do x=$x$x; done";

#[tokio::test]
async fn environment_contains_nothing_of_the_daemon() {
    world(async || {
        let mut rig = Rig::new();
        rig.env = [("SECRET", "a b\nc"), ("HOME", "/srv"), ("INSTANCE_ID", "mine")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into();
        let lines = rig.output_of("cat /proc/$$/environ | tr '\\0' '\\n'").await;
        let names: Vec<_> = lines.iter().filter_map(|line| Some(line.split_once('=')?.0)).collect();
        let mut sorted = names.clone();
        sorted.sort_unstable();
        let expected = "CALLBACK_URL FUNCTION_NAME HOME HOST INSTANCE_ID PATH PORT PYTHONUNBUFFERED SECRET";
        assert_eq!(sorted.join(" "), expected);
        assert!(lines.contains(&"HOME=/srv".to_owned()) && lines.contains(&"SECRET=a b".to_owned()));
        assert!(!lines.contains(&"INSTANCE_ID=mine".to_owned()), "it could not be found again");
        assert!(lines.contains(&"FUNCTION_NAME=f".to_owned()) && lines.contains(&"HOST=127.0.0.1".to_owned()));
    })
    .await;
}

#[tokio::test]
async fn substitutes_placeholders_and_leased_port() {
    world(async || {
        let rig = Rig::new();
        let running = rig.run(&["sh", "-c", "echo $0 $1 $PORT $CALLBACK_URL", "%ip:%port", "%callback"]).await;
        let leased = running.port;
        let Ended { lines, resources, .. } = running.end().await;
        let line = &lines[0];
        let [address, callback, port, url] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        assert_eq!(address, format!("127.0.0.1:{leased}"));
        assert_eq!(port, leased.to_string());
        assert_eq!(callback, url);
        assert!(ReadyToken::parse(url.strip_prefix("http://127.0.0.1:8124/ready/").unwrap()).is_some());
        assert_eq!(resources[0], format!("port 127.0.0.1:{leased}"));
    })
    .await;
}

#[tokio::test]
async fn daemon_program_can_be_the_function() {
    world(async || {
        let rig = Rig::new();
        let ended = rig.run(&["%unifaas", "--list", "--exact", "no such test"]).await.end().await;
        assert_eq!(ended.exit, SandboxExit::Code(0));
        assert!(ended.lines.iter().any(|line| line.starts_with("0 tests")), "{:?}", ended.lines);
    })
    .await;
}

#[tokio::test]
async fn starts_unprivileged_below_private_directory() {
    world(async || {
        let rig = Rig::new();
        let program = rig.function.join("program");
        fs::write(&program, "#!/bin/sh\nid -u\nid -G\npwd\numask\nulimit -c\n").unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let Ended { exit, lines, .. } = rig.run(&["./program"]).await.end().await;
        assert_eq!(exit, SandboxExit::Code(0));
        if root() {
            let user = Credentials::unprivileged();
            assert_eq!(lines[..2], [user.uid.to_string(), user.gid.to_string()]);
        } else {
            assert_eq!(lines[0], nix::unistd::geteuid().to_string());
        }
        assert_eq!(lines[2..], [rig.function.display().to_string(), "0022".to_owned(), "0".to_owned()]);
    })
    .await;
}

#[tokio::test]
async fn explains_failure_below_private_directory() {
    world(async || {
        let rig = Rig::new();
        fs::write(rig.function.join("file"), "found").unwrap();
        let Ended { exit, lines, .. } = rig.sh("cat \"$(pwd)/file\"").await.end().await;
        if root() {
            let private = rig.function.parent().unwrap().display();
            assert_eq!(exit, SandboxExit::Code(1));
            assert!(lines[0].ends_with("Permission denied"), "{lines:?}");
            assert!(lines[1].contains(&format!("cannot enter {private}:")), "{lines:?}");
        } else {
            assert_eq!((exit, lines), (SandboxExit::Code(0), vec!["found".to_owned()]));
        }
    })
    .await;
}

#[tokio::test]
async fn searches_path_of_the_function() {
    world(async || {
        let mut rig = Rig::new();
        rig.env.insert("PATH".to_owned(), "/nowhere:bin".to_owned());
        let tool = rig.function.join("bin/only-here");
        fs::create_dir(rig.function.join("bin")).unwrap();
        fs::write(&tool, "#!/bin/sh\necho $0 $1\n").unwrap();
        fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).unwrap();
        let ended = rig.run(&["only-here", "100%"]).await.end().await;
        assert_eq!(ended.exit, SandboxExit::Code(0));
        assert_eq!(ended.lines, ["bin/only-here 100%"]);
    })
    .await;
}

#[tokio::test]
async fn limits_process_count_and_kills_all_at_end() {
    world(async || {
        let mut rig = Rig::new();
        rig.memory = 1024;
        let crowd = if rig.has_cgroups() { 300 } else { 1 };
        let script = format!("for j in $(seq {crowd}); do setsid sleep 10 & done 2>/dev/null");
        let running = rig.sh(&format!("for i in 1 2 3; do sh -c '{script}' & done; echo up; exec sleep 1000")).await;
        running.line().await;
        if rig.has_cgroups() {
            eventually(|| (members(&rig) > 400).then_some(())).await;
            assert!(members(&rig) <= 512);
        }
        assert_eq!(running.kill().await.exit, SandboxExit::Signal(9));
        assert_eq!((members(&rig), cgroups(&rig)), (0, 0));
    })
    .await;
}

#[tokio::test]
async fn runs_as_chosen_user() {
    world(async || {
        let mut rig = Rig::new();
        rig.user = Some(if root() { "12345".to_owned() } else { nix::unistd::geteuid().to_string() });
        assert_eq!(rig.output_of("id -u").await, [rig.user.clone().unwrap()]);
    })
    .await;
}

#[tokio::test]
async fn closes_descriptors_and_drops_privileges() {
    world(async || {
        let rig = Rig::new();
        // Open on purpose, and not marked to be closed at exec.
        let leak = fs::File::open("/dev/zero").unwrap();
        nix::fcntl::fcntl(&leak, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
        let lines = rig
            .output_of("readlink /proc/self/fd/*; grep -E 'NoNewPrivs|CapEff|SigBlk|SigIgn' /proc/self/status")
            .await;
        assert!(!lines.iter().any(|line| line.contains("zero")), "{lines:?}");
        assert_eq!(lines[0], "/dev/null");
        assert!(lines[1].starts_with("pipe:") && lines[2].starts_with("pipe:") && lines[1] != lines[2], "{lines:?}");
        for (name, value) in [("NoNewPrivs", "1"), ("CapEff", "0000000000000000"), ("SigBlk", "0000000000000000")] {
            assert!(lines.contains(&format!("{name}:\t{value}")), "{name} in {lines:?}");
        }
        drop(leak);
    })
    .await;
}

#[tokio::test]
async fn keeps_order_of_each_stream_until_exit() {
    world(async || {
        let rig = Rig::new();
        let running = rig
            .sh("for i in 1 2 3; do echo out $i; echo err $i >&2; done; echo dev > /dev/stdout; printf last; exit 7")
            .await;
        let output = running.output.clone();
        assert_eq!(running.end().await.exit, SandboxExit::Code(7));
        let all = output.tail(usize::MAX);
        let of = |stream| all.iter().filter(|line| line.stream == stream).map(|line| &*line.text).collect::<Vec<_>>();
        assert_eq!(of(OutputStream::Out), ["out 1", "out 2", "out 3", "dev", "last"]);
        assert_eq!(of(OutputStream::Err), ["err 1", "err 2", "err 3"]);
    })
    .await;
}

#[tokio::test]
async fn reads_large_output() {
    world(async || {
        let rig = Rig::new();
        let Ended { exit, lines, .. } = rig.sh("head -c 20000000 /dev/zero; echo; echo done").await.end().await;
        assert_eq!(exit, SandboxExit::Code(0));
        assert_eq!(lines.last().map(String::as_str), Some("done"));
    })
    .await;
}

#[tokio::test]
async fn sigterm_can_be_ignored_and_sigkill_cannot() {
    world(async || {
        let rig = Rig::new();
        let mut obeys = rig.sh("trap 'exit 3' TERM; echo up; while :; do sleep 0.01; done").await;
        obeys.line().await;
        obeys.sandbox.terminate();
        assert_eq!(obeys.end().await.exit, SandboxExit::Code(3));

        let mut ignores = rig.sh("trap '' TERM; echo up; while :; do sleep 0.01; done").await;
        ignores.line().await;
        ignores.sandbox.terminate();
        assert!(timeout(Duration::from_millis(100), &mut ignores.exited).await.is_err());
        assert_eq!(ignores.kill().await.exit, SandboxExit::Signal(9));
    })
    .await;
}

#[tokio::test]
async fn kills_descendants_in_other_sessions() {
    world(async || {
        let rig = Rig::new();
        descendants_end(&rig).await;
    })
    .await;
}

#[tokio::test]
async fn kills_descendants_without_cgroup() {
    world(async || {
        let mut rig = Rig::new();
        rig.without_cgroups();
        descendants_end(&rig).await;
    })
    .await;
}

async fn descendants_end(rig: &Rig) {
    let script = "setsid sleep 1000 & echo $!; sleep 1000 & echo $!; sh -c 'sleep 1000 & echo $!'; exit 0";
    let mut running = rig.sh(script).await;
    running.exit().await;
    let pids: Vec<i32> = running.output.texts(3).iter().map(|line| line.parse().unwrap()).collect();
    assert_eq!(pids.len(), 3);
    assert_eq!(rig.journaled(), 1);
    running.sandbox.reclaim().await.unwrap();
    assert_eq!(pids.into_iter().filter(|pid| runs(*pid)).count(), 0);
    assert_eq!(rig.journaled(), 0);
}

#[tokio::test]
async fn drop_kills_process() {
    world(async || {
        let rig = Rig::new();
        let running = rig.sh("echo up; exec sleep 1000").await;
        running.line().await;
        assert!(runs(running.pid));
        drop(running.sandbox);
        eventually(|| (!runs(running.pid)).then_some(())).await;
    })
    .await;
}

#[tokio::test]
async fn limits_memory_or_warns_once() {
    world(async || {
        let mut rig = Rig::new();
        rig.memory = 24;
        let Ended { exit, resources, .. } = rig.sh(HOG).await.end().await;
        if rig.has_cgroups() {
            assert_eq!(exit, SandboxExit::OutOfMemory { limit: 24 });
            assert!(rig.warnings.lock().unwrap().is_empty());
            assert!(resources[1].starts_with("cgroup "), "{resources:?}");
        } else {
            assert_eq!(exit, SandboxExit::Code(0));
            assert_eq!(rig.warnings.lock().unwrap().len(), 1);
        }

        let killed = rig.sh("echo up; sleep 1000").await;
        killed.line().await;
        assert_eq!(killed.kill().await.exit, SandboxExit::Signal(9));
    })
    .await;
}

#[tokio::test]
async fn script_without_interpreter_is_run_by_the_shell() {
    world(async || {
        let rig = Rig::new();
        fs::write(rig.function.join("script"), "echo it runs\n").unwrap();
        fs::set_permissions(rig.function.join("script"), fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(rig.run(&["./script"]).await.end().await.lines, ["it runs"]);
    })
    .await;
}

#[tokio::test]
async fn failed_start_is_explained_and_leaves_nothing() {
    world(async || {
        let mut rig = Rig::new();
        // A directory that the function's user cannot enter would make it another error.
        rig.env.insert("PATH".to_owned(), "/usr/bin:/bin:.".to_owned());
        let write = |name: &str, text: &[u8], mode| {
            fs::write(rig.function.join(name), text).unwrap();
            fs::set_permissions(rig.function.join(name), fs::Permissions::from_mode(mode)).unwrap();
        };
        write("text", b"#!/bin/sh\n", 0o644);
        write("script", b"#!/no/such/interpreter\n", 0o755);
        let elf = |machine: u8| {
            let mut header = [&b"\x7fELF\x02\x01\x01"[..], &[0; 57]].concat();
            (header[16], header[18]) = (2, machine);
            header
        };
        write("foreign", &elf(8), 0o755);
        write("damaged", &elf(if cfg!(target_arch = "aarch64") { 183 } else { 62 }), 0o755);
        let mips = format!("it is built for mips, and this host executes {}", env::consts::ARCH);
        let before = held();
        for (program, why) in [
            ("./missing", "cannot start ./missing: No such file or directory (os error 2)"),
            (
                "no-such-program",
                "cannot start no-such-program: No such file or directory (os error 2), looked for in PATH",
            ),
            ("./text", "cannot start ./text: Permission denied (os error 13)"),
            // Neither is run as a shell script.
            ("./foreign", &format!("cannot start ./foreign: {mips}")),
            ("foreign", &format!("cannot start foreign: {mips}")),
            ("./damaged", "cannot start ./damaged: Exec format error (os error 8)"),
            (
                "./script",
                "cannot start ./script: No such file or directory (os error 2), its interpreter or loader is missing",
            ),
        ] {
            let refusal = rig.try_run(&[program]).await.err().unwrap();
            assert_eq!(refusal, LaunchError::Refused(why.to_owned()));
            assert_eq!(rig.journaled(), 0);
        }
        // The spawner may close what it used for a child after its answer, also that of an earlier test, which then counts in
        // `before`.
        eventually(|| (held() <= before).then_some(())).await;
        assert_eq!(cgroups(&rig), 0);
        fs::remove_dir_all(&rig.function).unwrap();
        let refusal = rig.try_run(&["sh"]).await.err().unwrap().to_string();
        assert!(refusal.ends_with("the function's directory does not exist"), "{refusal}");
    })
    .await;
}

#[tokio::test]
async fn reuses_clean_cgroups_only() {
    world(async || {
        let mut rig = Rig::new();
        if !rig.has_cgroups() || !root() {
            return;
        }
        let cgroup_after = async |rig: &Rig, script: &str| {
            let ended = rig.sh(script).await.end().await;
            let label = ended.resources.into_iter().find(|what| what.starts_with("cgroup "));
            (label.unwrap(), rig.engine.runtime.cgroups.kept())
        };
        let (first, kept) = cgroup_after(&rig, "true").await;
        assert_eq!(kept, 1);
        assert_eq!(cgroup_after(&rig, "true").await, (first.clone(), 1));
        // Files in memory are charged to it.
        let shared = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
        fs::set_permissions(shared.path(), fs::Permissions::from_mode(0o666)).unwrap();
        let fill = format!("head -c 16M /dev/zero > {}", shared.path().display());
        assert_eq!(cgroup_after(&rig, &fill).await, (first.clone(), 0));
        let (second, kept) = cgroup_after(&rig, "true").await;
        assert!(second != first && kept == 1);
        // A killed process may have been about to fork.
        assert_eq!(cgroup_after(&rig, "setsid sleep 1000 & sleep 0.1").await, (second, 0));
        // Other limits need another cgroup.
        cgroup_after(&rig, "true").await;
        rig.memory = 64;
        assert_eq!(cgroup_after(&rig, "true").await.1, 2);
        // A process of the daemon's own user could have changed it.
        rig.user = Some("root".to_owned());
        assert_eq!(cgroup_after(&rig, "true").await.1, 1);
        // An OOM kill counts only for the instance that had it.
        rig.user = None;
        rig.memory = 24;
        for (script, end) in [(HOG, SandboxExit::OutOfMemory { limit: 24 }), ("exit 3", SandboxExit::Code(3))] {
            assert_eq!(rig.sh(script).await.end().await.exit, end);
            assert_eq!(rig.engine.runtime.cgroups.kept(), 2);
        }
    })
    .await;
}

#[tokio::test]
async fn removes_cgroups_created_by_instances() {
    world(async || {
        let mut rig = Rig::new();
        if !rig.has_cgroups() || !root() {
            return;
        }
        rig.user = Some("root".to_owned());
        let script = "for way in memory:/sys/fs/cgroup/memory pids:/sys/fs/cgroup/pids :/sys/fs/cgroup; do
            own=${way#*:}$(sed -n \"s/^[0-9]*:${way%%:*}://p\" /proc/self/cgroup)
            mkdir -p $own/a/b 2>/dev/null || continue
            sh -c \"echo 0 > $own/a/b/cgroup.procs; exec setsid sleep 1000\" & echo $!
        done; sleep 0.3; exit 7";
        let Ended { exit, lines, .. } = rig.sh(script).await.end().await;
        assert_eq!(exit, SandboxExit::Code(7));
        let pids: Vec<i32> = lines.iter().map(|line| line.parse().unwrap()).collect();
        assert!(!pids.is_empty());
        assert_eq!(pids.into_iter().filter(|pid| runs(*pid)).count(), 0);
        assert_eq!(cgroups(&rig), 0);
    })
    .await;
}

#[tokio::test]
async fn stopped_child_does_not_block_other_starts() {
    world(async || {
        let mut rig = Rig::new();
        if !root() {
            return;
        }
        rig.user = Some("54321".to_owned());
        let attacker = rig.sh("while :; do kill -STOP -1; done 2>/dev/null").await;
        let starts = (0..30).map(async |_| rig.try_run(&["true"]).await);
        // Each start returns, and none blocks another one.
        let started = timeout(Duration::from_secs(20), join_all(starts)).await.expect("starts are bounded");
        for running in started.into_iter().flatten() {
            running.kill().await;
        }
        attacker.kill().await;
        assert_eq!(rig.output_of("echo fine").await, ["fine"]);
        assert_eq!((members(&rig), cgroups(&rig), rig.journaled()), (0, 0, 0));
    })
    .await;
}

#[tokio::test]
async fn hundred_starts_leave_nothing() {
    world(async || {
        let rig = Rig::new();
        rig.output_of("true").await;
        let before = held();
        let mut pids = Vec::new();
        for round in 0..100 {
            // The shell may see the end of its child before its own, and must not exit then.
            let mut running = rig.sh("sleep 1000 & echo up; wait; sleep 1000").await;
            running.line().await;
            pids.push(running.pid);
            if round % 2 == 0 {
                running.sandbox.kill();
                assert_eq!(running.exit().await, SandboxExit::Signal(9));
            }
            running.sandbox.reclaim().await.unwrap();
        }
        eventually(|| (held() <= before).then_some(())).await;
        assert_eq!((cgroups(&rig), rig.journaled()), (0, 0));
        assert!(!pids.iter().any(|pid| Path::new(&format!("/proc/{pid}")).exists()), "some are not even reaped");
        let parents: Vec<_> = rig.engine.runtime.cgroups.parents().map(Path::to_owned).collect();
        assert!(parents.iter().all(|parent| parent.exists()));
        drop(rig);
        assert!(!parents.iter().any(|parent| parent.exists()));
    })
    .await;
}
