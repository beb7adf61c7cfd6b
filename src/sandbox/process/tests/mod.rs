//! Real processes, started, looked at and given back. As root they run unprivileged and in cgroups, where there are any.

mod rig;

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use futures::future::join_all;
use tokio::time::{Duration, timeout};
use unifaas_actors::ReadyToken;

use super::*;
use rig::{Ended, Rig, cgroups, eventually, held, members, root, runs, world};

/// Takes 128 MiB.
const HOG: &str = "x=xxxxxxxx; for i in $(seq 24); do x=$x$x; done";

#[tokio::test]
async fn the_environment_is_the_functions_and_nothing_of_the_daemons() {
    world(async || {
        let mut rig = Rig::new();
        rig.env = [("SECRET", "a b\nc"), ("HOME", "/srv"), ("INSTANCE_ID", "mine")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into();
        let lines = rig.output_of("cat /proc/$$/environ | tr '\\0' '\\n'").await;
        let names: Vec<_> = lines.iter().filter_map(|line| Some(line.split_once('=')?.0)).collect();
        let mut sorted = names.clone();
        sorted.sort_unstable();
        let expected = ["CALLBACK_URL", "FUNCTION_NAME", "HOME", "HOST", "INSTANCE_ID", "PATH", "PORT", "SECRET"];
        assert_eq!(sorted, expected);
        assert!(lines.contains(&"HOME=/srv".to_owned()) && lines.contains(&"SECRET=a b".to_owned()));
        assert!(!lines.contains(&"INSTANCE_ID=mine".to_owned()), "it could not be found again");
        assert!(lines.contains(&"FUNCTION_NAME=f".to_owned()) && lines.contains(&"HOST=127.0.0.1".to_owned()));
    })
    .await;
}

#[tokio::test]
async fn words_are_replaced_in_arguments_and_the_address_is_the_leased_port() {
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
        assert!(ReadyToken::parse(url.strip_prefix("http://127.0.0.1:3000/ready/").unwrap()).is_some());
        assert_eq!(resources[0], format!("port 127.0.0.1:{leased}"));
    })
    .await;
}

#[tokio::test]
async fn the_daemons_own_program_can_be_the_function() {
    world(async || {
        let rig = Rig::new();
        let ended = rig.run(&["%unifaas", "--list", "--exact", "no such test"]).await.end().await;
        assert_eq!(ended.exit, SandboxExit::Code(0));
        assert!(ended.lines.iter().any(|line| line.starts_with("0 tests")), "{:?}", ended.lines);
    })
    .await;
}

#[tokio::test]
async fn a_function_below_a_private_directory_starts_without_privileges() {
    world(async || {
        let rig = Rig::new();
        let program = rig.function.join("program");
        fs::write(&program, "#!/bin/sh\nid -u\nid -G\npwd\numask\nulimit -c\n").unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let Ended { exit, lines, .. } = rig.run(&["./program"]).await.end().await;
        assert_eq!(exit, SandboxExit::Code(0));
        let nobody = Credentials::of(None, Uid::effective()).unwrap();
        assert_eq!(nobody.is_some(), root());
        if let Some(nobody) = nobody {
            assert_eq!(lines[..2], [nobody.uid.to_string(), nobody.gid.to_string()]);
        } else {
            assert_eq!(lines[0], Uid::effective().to_string());
        }
        assert_eq!(lines[2..], [rig.function.display().to_string(), "0022".to_owned(), "0".to_owned()]);
    })
    .await;
}

#[tokio::test]
async fn a_failure_below_a_private_directory_is_explained() {
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
async fn the_functions_own_path_is_searched() {
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
async fn a_crowd_of_processes_is_bounded_and_ends_with_its_instance() {
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
async fn the_user_can_be_chosen() {
    world(async || {
        let mut rig = Rig::new();
        rig.user = Some(if root() { "12345".to_owned() } else { Uid::effective().to_string() });
        assert_eq!(rig.output_of("id -u").await, [rig.user.clone().unwrap()]);
    })
    .await;
}

#[tokio::test]
async fn nothing_of_the_daemon_can_be_reached_and_nothing_gained() {
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
        assert!(lines[1].starts_with("pipe:") && lines[1] == lines[2], "{lines:?}");
        for (name, value) in [("NoNewPrivs", "1"), ("CapEff", "0000000000000000"), ("SigBlk", "0000000000000000")] {
            assert!(lines.contains(&format!("{name}:\t{value}")), "{name} in {lines:?}");
        }
        drop(leak);
    })
    .await;
}

#[tokio::test]
async fn the_output_keeps_its_order_up_to_the_last_line_before_the_exit() {
    world(async || {
        let rig = Rig::new();
        let running = rig
            .sh("for i in 1 2 3; do echo out $i; echo err $i >&2; done; echo dev > /dev/stdout; printf last; exit 7")
            .await;
        let Ended { exit, lines, .. } = running.end().await;
        assert_eq!(exit, SandboxExit::Code(7));
        assert_eq!(lines[..8], ["out 1", "err 1", "out 2", "err 2", "out 3", "err 3", "dev", "last"]);
    })
    .await;
}

#[tokio::test]
async fn endless_output_is_taken_and_the_child_never_waits_for_it() {
    world(async || {
        let rig = Rig::new();
        let Ended { exit, lines, .. } = rig.sh("head -c 20000000 /dev/zero; echo; echo done").await.end().await;
        assert_eq!(exit, SandboxExit::Code(0));
        assert_eq!(lines.last().map(String::as_str), Some("done"));
    })
    .await;
}

#[tokio::test]
async fn a_request_to_stop_can_be_obeyed_or_ignored_but_not_a_kill() {
    world(async || {
        let rig = Rig::new();
        let mut obeys = rig.sh("trap 'exit 3' TERM; echo up; while :; do sleep 0.01; done").await;
        obeys.line().await;
        obeys.guest.terminate();
        assert_eq!(obeys.end().await.exit, SandboxExit::Code(3));

        let mut ignores = rig.sh("trap '' TERM; echo up; while :; do sleep 0.01; done").await;
        ignores.line().await;
        ignores.guest.terminate();
        assert!(timeout(Duration::from_millis(100), &mut ignores.exited).await.is_err());
        assert_eq!(ignores.kill().await.exit, SandboxExit::Signal(9));
    })
    .await;
}

#[tokio::test]
async fn descendants_end_with_the_first_process_even_in_a_session_of_their_own() {
    world(async || {
        let rig = Rig::new();
        descendants_end(&rig).await;
    })
    .await;
}

#[tokio::test]
async fn they_end_without_a_cgroup_too() {
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
    let pids: Vec<i32> = running.output.tail(3).iter().map(|line| line.parse().unwrap()).collect();
    assert_eq!(pids.len(), 3);
    assert_eq!(rig.written_down(), 1);
    running.guest.reclaim().await.unwrap();
    assert_eq!(pids.into_iter().filter(|pid| runs(*pid)).count(), 0);
    assert_eq!(rig.written_down(), 0);
}

#[tokio::test]
async fn dropping_the_hold_kills() {
    world(async || {
        let rig = Rig::new();
        let running = rig.sh("echo up; exec sleep 1000").await;
        running.line().await;
        assert!(runs(running.pid));
        drop(running.guest);
        eventually(|| (!runs(running.pid)).then_some(())).await;
    })
    .await;
}

#[tokio::test]
async fn memory_is_limited_where_there_are_cgroups_and_else_one_warning_says_so() {
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
async fn a_command_that_cannot_run_says_why_and_leaves_nothing() {
    world(async || {
        let mut rig = Rig::new();
        // A directory that the function's user cannot enter would make it another error.
        rig.env.insert("PATH".to_owned(), "/usr/bin:/bin".to_owned());
        let write = |name: &str, text: &str, mode| {
            fs::write(rig.function.join(name), text).unwrap();
            fs::set_permissions(rig.function.join(name), fs::Permissions::from_mode(mode)).unwrap();
        };
        write("text", "#!/bin/sh\n", 0o644);
        write("script", "#!/no/such/interpreter\n", 0o755);
        let before = held();
        for (program, why) in [
            ("./missing", "cannot start ./missing: No such file or directory (os error 2)"),
            (
                "no-such-program",
                "cannot start no-such-program: No such file or directory (os error 2), looked for in PATH",
            ),
            ("./text", "cannot start ./text: Permission denied (os error 13)"),
            (
                "./script",
                "cannot start ./script: No such file or directory (os error 2), its interpreter or loader is missing",
            ),
        ] {
            let refusal = rig.try_run(&[program]).await.err().unwrap();
            assert_eq!(refusal, LaunchError::Refused(why.to_owned()));
            assert_eq!(rig.written_down(), 0);
        }
        assert_eq!(held(), before);
        assert_eq!(cgroups(&rig), 0);
        fs::remove_dir_all(&rig.function).unwrap();
        let refusal = rig.try_run(&["sh"]).await.err().unwrap().to_string();
        assert!(refusal.ends_with("the function's directory is gone"), "{refusal}");
    })
    .await;
}

#[tokio::test]
async fn a_cgroup_is_used_again_if_nothing_of_the_one_before_is_left_in_it() {
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
        // What is left in memory is charged to it.
        let shared = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
        fs::set_permissions(shared.path(), fs::Permissions::from_mode(0o666)).unwrap();
        let fill = format!("head -c 16M /dev/zero > {}", shared.path().display());
        assert_eq!(cgroup_after(&rig, &fill).await, (first.clone(), 0));
        let (second, kept) = cgroup_after(&rig, "true").await;
        assert!(second != first && kept == 1);
        // Whoever had to be killed in it may have been about to make more.
        assert_eq!(cgroup_after(&rig, "setsid sleep 1000 & sleep 0.1").await, (second, 0));
        // Another limits is another cgroup.
        cgroup_after(&rig, "true").await;
        rig.memory = 64;
        assert_eq!(cgroup_after(&rig, "true").await.1, 2);
        // The daemon's own user could have changed it.
        rig.user = Some("root".to_owned());
        assert_eq!(cgroup_after(&rig, "true").await.1, 1);
        // The one after one that ran out of memory has not, however it fails.
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
async fn cgroups_that_an_instance_has_made_end_with_it() {
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
async fn whoever_stops_a_child_before_it_is_a_program_does_not_stop_the_next() {
    world(async || {
        let mut rig = Rig::new();
        if !root() {
            return;
        }
        rig.user = Some("54321".to_owned());
        let attacker = rig.sh("while :; do kill -STOP -1; done 2>/dev/null").await;
        let starts = (0..30).map(async |_| rig.try_run(&["true"]).await);
        // Each is over, one way or the other, and none waits for another one's.
        let started = timeout(Duration::from_secs(20), join_all(starts)).await.expect("starts are bounded");
        for running in started.into_iter().flatten() {
            running.kill().await;
        }
        attacker.kill().await;
        assert_eq!(rig.output_of("echo fine").await, ["fine"]);
        assert_eq!((members(&rig), cgroups(&rig), rig.written_down()), (0, 0, 0));
    })
    .await;
}

#[tokio::test]
async fn a_hundred_launches_leave_nothing() {
    world(async || {
        let rig = Rig::new();
        rig.output_of("true").await;
        let before = held();
        let mut pids = Vec::new();
        for round in 0..100 {
            let mut running = rig.sh("sleep 1000 & echo up; wait").await;
            running.line().await;
            pids.push(running.pid);
            if round % 2 == 0 {
                running.guest.kill();
                assert_eq!(running.exit().await, SandboxExit::Signal(9));
            }
            running.guest.reclaim().await.unwrap();
        }
        assert_eq!(held(), before);
        assert_eq!((cgroups(&rig), rig.written_down()), (0, 0));
        assert!(!pids.iter().any(|pid| Path::new(&format!("/proc/{pid}")).exists()), "some are not even reaped");
        let parents: Vec<_> = rig.engine.runtime.cgroups.parents().map(Path::to_owned).collect();
        assert!(parents.iter().all(|parent| parent.exists()));
        drop(rig);
        assert!(!parents.iter().any(|parent| parent.exists()));
    })
    .await;
}
