//! What was accepted survives the daemon: kills, orderly ends and upgrades.

use std::{
    collections::{HashMap, HashSet},
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
};

use integration::{AsyncLoad, Function, Home, Setup, eventually, ms};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::time::{Instant, sleep};

/// Kills without `UNIFAAS_KILLS`.
const KILLS: u32 = 50;
/// Attempts of the function at the same time.
const CONCURRENCY: usize = 4;

/// A file to which functions, as any user, add a line for each run.
fn record_file(home: &Home) -> PathBuf {
    let file = home.path("runs");
    fs::write(&file, "").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    file
}

#[tokio::test]
async fn killed_daemons_lose_nothing_that_they_have_accepted() {
    let kills = env::var("UNIFAAS_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(KILLS);
    let home = Home::new();
    let file = record_file(&home);
    let function = Function::new("f").set("concurrent-requests", 16).set("min-instances", 1);
    let function = function.asynchronous("concurrency", CONCURRENCY).asynchronous("attempts", 1000);
    home.put(&function.asynchronous("backoff", 0.1).asynchronous("queue", 100_000));
    let mut daemon = Setup::at(&home).start().await;
    let listen = daemon.listen.to_string();
    let path = format!("/f/record?ms=5&file={}", file.display());
    let clients = AsyncLoad::start(&[daemon.listen], path);
    let mut random = StdRng::seed_from_u64(7);
    let (began, mut away) = (Instant::now(), Vec::new());
    for _ in 0..kills {
        sleep(ms(random.random_range(50..600))).await;
        let killed = Instant::now();
        daemon.killed().await;
        daemon = Setup::at(&home).option("--listen", &*listen).start().await;
        away.push(killed.elapsed());
    }
    let took = began.elapsed();
    away.sort();
    let answers = clients.stop().await;
    let repeats = answers.iter().filter(|it| it.is_repeat).count();
    let accepted: Vec<_> = answers.into_iter().map(|it| it.id).collect();
    assert_eq!(accepted.iter().collect::<HashSet<_>>().len(), accepted.len(), "each key has an invocation of its own");
    let mut states = HashMap::<String, usize>::new();
    for id in &accepted {
        let ended = daemon.ended_invocation(id).await;
        *states.entry(ended["state"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    let rate = accepted.len() as f64 / took.as_secs_f64();
    println!("{kills} kills in {took:.0?}, away for {:.0?} each; {rate:.0} accepted a second", away[away.len() / 2]);
    println!("{} accepted, {repeats} after a lost answer: {states:?}", accepted.len());
    assert_eq!(states.get("done"), Some(&accepted.len()), "{states:?}");
    let text = fs::read_to_string(&file).unwrap();
    let runs: Vec<_> = text.lines().collect();
    let distinct: HashSet<_> = runs.iter().copied().collect();
    assert!(accepted.iter().all(|id| distinct.contains(id.as_str())), "each has run");
    let repeated = runs.len() - distinct.len();
    println!("{} runs, {repeated} beyond one", runs.len());
    assert!(repeated <= kills as usize * CONCURRENCY, "{repeated}");
    assert_eq!(distinct.len(), accepted.len(), "nothing has run without an answer of 202");
    daemon.end().await;
    home.left(0).await;
}

#[tokio::test]
async fn work_waits_for_the_next_daemon() {
    let home = Home::new();
    home.put(&Function::new("f"));
    let mut daemon = Setup::at(&home).start().await;
    let id = daemon.accepted("/f/pid", "", &[("x-unifaas-delay", "2")]).await;
    let long = daemon.accepted("/f/sleep?ms=500", "", &[]).await;
    let running = async || daemon.invocation(&long).await["state"].clone();
    eventually(ms(20_000), "it has begun", running, |state| state != "queued").await;
    daemon.end().await;
    let daemon = Setup::at(&home).start().await;
    let ended = daemon.ended_invocation(&long).await;
    assert_eq!((ended["state"].as_str(), ended["attempts"].as_u64()), (Some("done"), Some(1)), "it ended in the drain");
    assert_eq!(daemon.ended_invocation(&id).await["state"], "done");
}

#[tokio::test]
async fn an_upgrade_hands_the_inbox_over() {
    let home = Home::new();
    let file = record_file(&home);
    home.put(&Function::new("f").set("concurrent-requests", 16).asynchronous("backoff", 0.1));
    let daemon = Setup::at(&home).start().await;
    let long = daemon.accepted(&format!("/f/record?ms=1500&file={}", file.display()), "", &[]).await;
    let running = async || daemon.invocation(&long).await["state"].clone();
    eventually(ms(20_000), "it runs", running, |state| state == "running").await;
    let clients = AsyncLoad::start(&[daemon.listen], format!("/f/record?ms=1&file={}", file.display()));
    let successor = daemon.upgrade().await;
    let accepts = async || daemon.enqueue("/f/pid", "", &[]).await.status;
    eventually(ms(30_000), "the new daemon accepts", accepts, |status| *status == 202).await;
    let mut accepted: Vec<_> = clients.stop().await.into_iter().map(|it| it.id).collect();
    accepted.push(long.clone());
    for id in &accepted {
        let ended = daemon.ended_invocation(id).await;
        assert_eq!((ended["state"].as_str(), ended["attempts"].as_u64()), (Some("done"), Some(1)), "{ended}");
    }
    let runs = fs::read_to_string(&file).unwrap();
    assert_eq!(runs.lines().filter(|id| *id == long).count(), 1, "what ran has ended before the inbox was handed over");
    drop(successor);
}
