//! Runs that are cut short leave valid results, and nothing else.

use std::{
    fs,
    process::{Command, Stdio},
};

use integration::{
    Function,
    bench::{ended, ended_by},
    cli, eventually, processes, unifaas,
};
use nix::sys::signal::Signal;

use super::{Bench, TIMEOUT};

#[tokio::test]
async fn an_interrupted_run_leaves_its_samples_and_nothing_else() {
    let bench = Bench::of([Function::new("f")]);
    let child = bench.start(&["cold", "--rounds", "100000", "--path", "/pid"]);
    bench.has_samples(6).await;
    let other = Bench { home: bench.home.clone(), out: bench.home.path("other") };
    let refused = cli::run(other.command(&["cold", "--path", "/pid"])).await;
    assert!(refused.status == Some(2) && refused.err.contains("another `unifaas bench`"), "{refused:?}");
    assert!(refused.err.contains("--state-dir") && !other.out.exists(), "it says what to do, and leaves no folder");
    assert_eq!(ended_by(Signal::SIGINT, child).await, Some(130));
    assert!(bench.home.processes().is_empty(), "{:?}", bench.home.described());
    assert_eq!(bench.results()["complete"], false);
    assert!(fs::read_to_string(bench.out.join("report.md")).unwrap().contains("The run was cut short"));
}

#[tokio::test]
async fn a_killed_run_leaves_its_samples_and_nothing_else() {
    let bench = Bench::of([Function::new("f")]);
    let mut child = bench.start(&["cold", "--rounds", "100000", "--path", "/pid"]);
    bench.has_samples(6).await;
    child.kill().unwrap();
    assert_eq!(ended(child).await, None);
    bench.home.left(0).await;
    let daemons = || {
        let state = bench.home.path("state").display().to_string();
        let all = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        all.filter(|pid| processes::arguments(*pid).contains(&state)).collect::<Vec<u32>>()
    };
    eventually(TIMEOUT, "the daemon ends with its parent", async || daemons(), Vec::is_empty).await;
    let report = bench.report().await;
    assert!(report.contains("The run was cut short") && report.contains("| f "), "{report}");
}

#[tokio::test]
async fn a_full_disk_ends_a_run_with_what_there_is() {
    let bench = Bench::of([Function::new("f")]);
    fs::create_dir(&bench.out).unwrap();
    let (disk, arguments) = (&bench.out, bench.arguments(&["cold", "--rounds", "100000", "--path", "/pid"]));
    let words: Vec<_> = arguments.iter().map(|word| format!("'{word}'")).collect();
    let words = words.join(" ").replace(&format!("'{}'", disk.display()), &format!("'{}/run'", disk.display()));
    // The last words see the file system that only this shell has.
    let script = format!(
        "mount -t tmpfs -o size=900k none {disk} && head -c 780k /dev/zero >{disk}/filler && \
         {{ \"$0\" {words} >&2; echo status $?; rm {disk}/filler; \"$0\" bench report {disk}/run && cat {disk}/run/report.md; }}",
        disk = disk.display()
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation=private", "--", "sh", "-c", &script]).arg(unifaas());
    command.env("UNIFAAS_CONFIG", "/dev/null").stdin(Stdio::null());
    let ran = cli::run(command).await;
    assert!(ran.out.contains("status 1\n") && ran.err.contains("cannot write"), "{ran:?}");
    assert!(ran.out.contains("The run was cut short") && ran.out.contains("| f "), "{ran:?}");
    assert!(bench.home.processes().is_empty(), "{:?}", bench.home.described());
}
