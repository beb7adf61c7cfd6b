//! A full disk, and a database that is damaged: nothing is lost, and synchronous requests are served.

use std::{fs, os::unix::fs::FileExt as _};

use integration::{AT_ONCE, Daemon, Function, Home, Setup, eventually, fill_disk, ms};
use tokio::time::Instant;

#[tokio::test]
async fn a_full_disk_refuses_new_work_and_loses_none() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root mounts a small disk");
        return;
    }
    let home = Home::new();
    home.put(&Function::new("f").set("concurrent-requests", 16));
    let daemon = Setup::at(&home).on_a_small_disk("100m").start().await;
    let before = daemon.accepted("/f/pid", "", &[("x-unifaas-delay", "3")]).await;
    let running = daemon.accepted("/f/sleep?ms=1500", "", &[]).await;
    let begun = async || daemon.invocation(&running).await["state"].clone();
    eventually(ms(20_000), "it has begun", begun, |state| state != "queued").await;
    let ballast = daemon.inside("state/ballast");
    fill_disk(&ballast, 60 << 20);
    let mut times = Vec::new();
    for _ in 0..20 {
        let asked = Instant::now();
        assert_eq!(daemon.enqueue("/f/pid", "", &[]).await.status, 503);
        times.push(asked.elapsed());
    }
    times.sort();
    println!("503 on a full disk after {:?}, {:?} and {:?}: least, median, most", times[0], times[10], times[19]);
    // The others may have waited for a busy processor.
    assert!(times[0] < ms(100), "{times:?}");
    let refused = daemon.enqueue("/f/pid", "", &[]).await;
    let problem = refused.problem(503, "inbox_unavailable");
    assert!(refused.retry_after() >= 1 && problem["detail"].as_str().unwrap().contains("64 MiB"), "{problem}");
    assert_eq!(daemon.ended_invocation(&running).await["state"], "done", "the reserve takes what ends");
    // Nothing at all is left.
    fill_disk(&ballast, 0);
    daemon.get("/invoke/f/pid").await.ok();
    daemon.enqueue("/f/pid", "", &[]).await.problem(503, "inbox_unavailable");
    fs::remove_file(&ballast).unwrap();
    let accepts = async || daemon.enqueue("/f/pid", "", &[]).await.status;
    eventually(AT_ONCE, "work is accepted again", accepts, |status| *status == 202).await;
    assert_eq!(daemon.ended_invocation(&before).await["state"], "done");
}

#[tokio::test]
async fn a_damaged_database_costs_no_synchronous_request() {
    let home = Home::new();
    home.put(&Function::new("f"));
    let mut daemon = Setup::at(&home).start().await;
    let id = daemon.accepted("/f/pid", "", &[]).await;
    daemon.ended_invocation(&id).await;
    daemon.end().await;
    let database = home.path("state/inbox.db");
    let whole = fs::read(&database).unwrap();
    fs::write(&database, vec![b'x'; whole.len()]).unwrap();
    let mut daemon = Setup::at(&home).start().await;
    daemon.logged("the inbox cannot be opened").await;
    for _ in 0..20 {
        daemon.get("/invoke/f/pid").await.ok();
    }
    daemon.enqueue("/f/pid", "", &[]).await.problem(503, "inbox_unavailable");
    daemon.get(&format!("/invocations/{id}")).await.problem(503, "inbox_unavailable");
    daemon.end().await;
    assert_eq!(fs::read(&database).unwrap(), vec![b'x'; whole.len()], "the file is left as it is");
    fs::write(&database, whole).unwrap();
    let daemon = Setup::at(&home).start().await;
    assert_eq!(daemon.invocation(&id).await["state"], "done");
}

#[tokio::test]
async fn a_damaged_database_is_set_aside_when_an_operator_says_so() {
    let home = Home::new();
    home.put(&Function::new("f"));
    let mut daemon = Setup::at(&home).start().await;
    let lost = daemon.accepted("/f/pid", "", &[("x-unifaas-delay", "600")]).await;
    let refused = daemon.cli(&["inbox", "reset"]).await.failed(1);
    assert!(refused.contains("not damaged"), "{refused}");
    assert_eq!(daemon.invocation(&lost).await["state"], "queued");
    daemon.end().await;
    let database = home.path("state/inbox.db");
    fs::write(&database, "damaged".repeat(1000)).unwrap();
    let daemon = Setup::at(&home).start().await;
    daemon.logged("the inbox cannot be opened").await;
    let problem = daemon.debug().await["daemon"]["inbox"]["problem"].clone();
    assert!(problem.as_str().unwrap().contains("damaged"), "{problem}");
    assert!(daemon.get("/ui/").await.ok().text().contains("asynchronous invocations are refused"));
    let done = daemon.cli(&["inbox", "reset", "--json"]).await.json();
    let aside = home.path("state").join(done["damaged"].as_str().unwrap());
    assert_eq!(fs::read_to_string(aside).unwrap(), "damaged".repeat(1000));
    daemon.get(&format!("/invocations/{lost}")).await.problem(404, "no_such_invocation");
    let id = daemon.accepted("/f/pid", "", &[]).await;
    assert_eq!(daemon.ended_invocation(&id).await["state"], "done");
    daemon.cli(&["inbox", "reset"]).await.failed(1);
    assert_eq!(daemon.invocation(&id).await["state"], "done");
}

#[tokio::test]
async fn a_store_that_fails_while_it_serves_costs_no_synchronous_request() {
    let daemon = Daemon::with(Function::new("f")).await;
    let id = daemon.accepted("/f/pid", "", &[]).await;
    daemon.ended_invocation(&id).await;
    // The daemon has checked its size when it wrote last: reads of what is cut off fail.
    let database = fs::OpenOptions::new().write(true).open(daemon.home.path("state/inbox.db")).unwrap();
    let log = fs::OpenOptions::new().write(true).open(daemon.home.path("state/inbox.db-wal")).unwrap();
    log.set_len(0).unwrap();
    database.write_all_at(&vec![b'x'; 1 << 20], 0).unwrap();
    for _ in 0..20 {
        daemon.get("/invoke/f/pid").await.ok();
        let reply = daemon.enqueue("/f/pid", "", &[]).await;
        assert!([202, 503].contains(&reply.status), "{} {}", reply.status, reply.text());
    }
}
