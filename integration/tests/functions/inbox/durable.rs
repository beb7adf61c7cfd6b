//! What was accepted survives the daemon: kills, orderly ends and upgrades.

use std::{
    collections::{HashMap, HashSet},
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use integration::{Connection, Function, Home, Setup, body_of, eventually, ms, request, within};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::{
    sync::oneshot,
    task::JoinSet,
    time::{Instant, interval, sleep},
};

/// Kills without `UNIFAAS_KILLS`.
const KILLS: u32 = 50;
/// Attempts of the function at the same time.
const CONCURRENCY: usize = 4;
/// New requests per second, while fewer than so many wait.
const RATE: u64 = 50;
const MAX_WAITING: usize = 200;

/// A file to which functions, as any user, add a line for each run.
fn record_file(home: &Home) -> PathBuf {
    let file = home.path("runs");
    fs::write(&file, "").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    file
}

/// Clients at a steady rate, however long each has to wait. Each repeats its request until it is accepted, with the same
/// idempotency key, wherever the daemon listens at the moment.
struct Clients {
    task: tokio::task::JoinHandle<()>,
    stop: oneshot::Sender<()>,
    accepted: Arc<Mutex<Vec<Accepted>>>,
}

/// An answer of 202.
struct Accepted {
    id: String,
    /// An earlier request with the key had been stored, and its answer was lost.
    is_repeat: bool,
}

impl Clients {
    fn start(listen: std::net::SocketAddr, path: String) -> Self {
        let accepted = Arc::<Mutex<Vec<Accepted>>>::default();
        let (stop, mut stopped) = oneshot::channel();
        let all = accepted.clone();
        let task = tokio::spawn(async move {
            let mut ticks = interval(Duration::from_millis(1000 / RATE));
            let mut clients = JoinSet::new();
            for number in 0_u64.. {
                tokio::select! {
                    _ = ticks.tick() => {}
                    _ = &mut stopped => break,
                }
                while let Some(ended) = clients.try_join_next() {
                    ended.unwrap();
                }
                // A machine that is too busy for the rate would get ever more clients.
                if clients.len() >= MAX_WAITING {
                    continue;
                }
                let (path, all) = (path.clone(), all.clone());
                clients.spawn(async move {
                    let one = accepted_in_the_end(listen, &path, number).await;
                    all.lock().unwrap().push(one);
                });
            }
            drop(clients.join_all().await);
        });
        Self { task, stop, accepted }
    }

    /// Begins no more requests, and returns the answers when each has one.
    async fn stop(self) -> Vec<Accepted> {
        self.stop.send(()).unwrap();
        within(ms(60_000), "each request is accepted", self.task).await.unwrap();
        std::mem::take(&mut *self.accepted.lock().unwrap())
    }
}

async fn accepted_in_the_end(listen: std::net::SocketAddr, path: &str, number: u64) -> Accepted {
    loop {
        let mut request = request("POST", &format!("/async{path}"), body_of("x".repeat(1024)));
        request.headers_mut().insert("idempotency-key", format!("key-{number}").parse().unwrap());
        let answer = async { Connection::open(listen).await.ok()?.send(request).await.ok() };
        match answer.await {
            Some(reply) if reply.status == 202 => {
                let is_repeat = reply.header("x-unifaas-duplicate").is_some();
                return Accepted { id: reply.header("x-unifaas-invocation").unwrap(), is_repeat };
            }
            // It ends, or another one begins.
            Some(reply) => assert_eq!(reply.status, 503, "{}", reply.text()),
            None => {}
        }
        sleep(ms(20)).await;
    }
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
    let clients = Clients::start(daemon.listen, path);
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
    let clients = Clients::start(daemon.listen, format!("/f/record?ms=1&file={}", file.display()));
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
