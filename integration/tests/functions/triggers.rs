//! Schedules: they fire on time, and each instant once, whatever happens to the daemon.
//!
//! `UNIFAAS_KILLS=200 cargo test -p integration --test functions triggers::kills` is the long form.

use std::{
    collections::BTreeMap,
    env, fs,
    path::Path,
    time::{Duration, SystemTime},
};

use integration::{
    Daemon, Function, Home, Setup,
    brokers::{own_address, public_file},
    eventually, ms, number,
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::Value;
use tokio::time::sleep;

/// Kills without `UNIFAAS_KILLS`.
const KILLS: u32 = 10;
const PREFIX: &str = "cron/f/0/";

/// Returns a function that is invoked every second, and adds a line to a file for each run: the event and the invocation.
fn recorder(file: &Path) -> Function {
    public_file(file.to_owned());
    let path = format!("/record?ms=0&headers=ce-id,x-unifaas-invocation&file={}", file.display());
    Function::new("f")
        .set("concurrent-requests", 8)
        .asynchronous("attempts", 1000)
        .asynchronous("backoff", 0.1)
        .table(&format!("[[cron]]\nat = \"* * * * * *\"\npath = \"{path}\"\nmissed = \"all\""))
}

/// Returns the invocations of each event.
fn runs(file: &Path) -> BTreeMap<String, Vec<String>> {
    let mut runs = BTreeMap::<_, Vec<_>>::new();
    for line in fs::read_to_string(file).unwrap().lines() {
        let (event, invocation) = line.split_once(' ').unwrap();
        let invocations = runs.entry(event.to_owned()).or_default();
        if !invocations.iter().any(|it| it == invocation) {
            invocations.push(invocation.to_owned());
        }
    }
    runs
}

/// Returns whether every second from the first event to the last has an event.
fn is_complete(runs: &BTreeMap<String, Vec<String>>) -> bool {
    let second = |event: &String| {
        let instant = event.strip_prefix(PREFIX).unwrap_or_else(|| panic!("{event}"));
        let time = humantime::parse_rfc3339(instant).unwrap_or_else(|error| panic!("{event}: {error}"));
        time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
    };
    let seconds: Vec<_> = runs.keys().map(second).collect();
    seconds.windows(2).all(|pair| pair[0] + 1 == pair[1])
}

/// Waits until there are more than `count` events and none between them is missing. Each has one invocation.
async fn complete(file: &Path, count: usize) {
    let is_done = |runs: &BTreeMap<_, _>| runs.len() > count && is_complete(runs);
    let ran = eventually(ms(90_000), "each instant has run", async || runs(file), is_done).await;
    assert!(ran.values().all(|invocations| invocations.len() == 1), "an instant has fired twice: {ran:?}");
}

async fn schedule(daemon: &Daemon) -> Value {
    daemon.get("/debug").await.ok().json()["daemon"]["triggers"]["cron"][0].clone()
}

#[tokio::test]
async fn schedule_fires_at_each_instant_and_shows_the_last_and_the_next_one() {
    let home = Home::new();
    let file = home.path("runs");
    home.put(&recorder(&file));
    let daemon = Setup::at(&home).start().await;
    complete(&file, 2).await;
    let fired = |it: &Value| number(it, "fired") >= 3 && it["state"] == "waiting";
    let shown = eventually(ms(60_000), "it waits", async || schedule(&daemon).await, fired).await;
    assert_eq!((&shown["function"], &shown["index"], &shown["zone"]), (&"f".into(), &0.into(), &"UTC".into()));
    assert!(shown["last"].as_str().unwrap() < shown["next"].as_str().unwrap(), "{shown}");
    // Without the schedule, nothing fires any more.
    home.put(&Function::new("f").set("concurrent-requests", 8));
    let none = |it: &Value| it.is_null();
    eventually(ms(60_000), "the schedule is gone", async || schedule(&daemon).await, none).await;
}

#[tokio::test]
async fn first_run_of_a_schedule_is_made_up_for_if_the_daemon_was_away() {
    let home = Home::new();
    let file = public_file(home.path("runs"));
    // It is away at the first instant.
    let first = SystemTime::now() + Duration::from_secs(15);
    let instant = humantime::format_rfc3339_seconds(first).to_string();
    let (hour, minute, second) = (&instant[11..13], &instant[14..16], &instant[17..19]);
    let path = format!("/record?ms=0&headers=ce-id,x-unifaas-invocation&file={}", file.display());
    let cron = format!("[[cron]]\nat = \"{second} {minute} {hour} * * *\"\npath = \"{path}\"");
    home.put(&Function::new("f").table(&cron));
    let mut daemon = Setup::at(&home).start().await;
    let is_seen = |it: &Value| it["state"] == "waiting";
    let shown = eventually(ms(60_000), "it is seen", async || schedule(&daemon).await, is_seen).await;
    assert!(daemon.end().await.status.success(), "{shown}");
    sleep(first.duration_since(SystemTime::now()).unwrap_or_default() + ms(1000)).await;
    let daemon = Setup::at(&home).start().await;
    let ran = eventually(ms(60_000), "it has run", async || runs(&file), |runs| !runs.is_empty()).await;
    assert_eq!(ran.into_keys().collect::<Vec<_>>(), [format!("{PREFIX}{instant}")]);
    let has_fired = |it: &Value| it["last"].is_string();
    eventually(ms(60_000), "it is shown", async || schedule(&daemon).await, has_fired).await;
}

#[tokio::test]
async fn kills_at_firing_instants_fire_each_instant_once() {
    let kills = env::var("UNIFAAS_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(KILLS);
    let home = Home::new();
    let file = home.path("runs");
    home.put(&recorder(&file));
    let mut daemon = Setup::at(&home).start().await;
    eventually(ms(60_000), "it has fired", async || runs(&file).len(), |count| *count >= 1).await;
    let mut random = StdRng::seed_from_u64(11);
    for _ in 0..kills {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let to_second = 1000 - u64::from(now.subsec_millis());
        sleep(ms((to_second + random.random_range(0..80)).saturating_sub(20))).await;
        daemon.killed().await;
        daemon = Setup::at(&home).start().await;
    }
    complete(&file, runs(&file).len() + 1).await;
}

#[tokio::test]
async fn triggers_are_on_the_dashboard_in_describe_and_in_debug() {
    let triggers = "[[cron]]\nat = \"0 0 1 1 *\"\nzone = \"Asia/Tokyo\"\n\n[[nats]]\nsubject = \"orders.*\"\nstream = \"ORDERS\"\n\n\
                    [[mqtt]]\ntopic = \"home/door\"\n";
    let setup = Setup::default().function(Function::new("f").table(triggers)).function(Function::new("none"));
    let (nats, mqtt) = (own_address(4222), own_address(1883));
    let setup = setup.option("--nats", format!("nats://{nats}")).option("--mqtt", format!("mqtt://me:s3cret@{mqtt}"));
    let daemon = setup.start().await;
    let is_complete = |page: &Value| {
        let triggers = &page["triggers"];
        let [nats, mqtt] = [0, 1].map(|index| &triggers["subscriptions"][index]);
        triggers["cron"][0]["next"].is_string() && nats["error"].is_string() && mqtt["error"].is_string()
    };
    let page = async || daemon.get("/debug/functions/f").await.ok().json();
    let page = eventually(ms(60_000), "all triggers have been tried", page, is_complete).await;
    let next = page["triggers"]["cron"][0]["next"].as_str().unwrap().to_owned();
    assert!(next.contains("-12-31T15:00:00"), "the first hour of a year in Tokyo: {next}");
    let subscriptions = &page["triggers"]["subscriptions"];
    assert_eq!((&subscriptions[0]["stream"], &subscriptions[1]["topic"]), (&"ORDERS".into(), &"home/door".into()));
    assert_eq!((&subscriptions[0]["state"], &subscriptions[1]["state"]), (&"connecting".into(), &"connecting".into()));
    assert!(daemon.get("/debug/functions/none").await.ok().json().get("triggers").is_none());

    let described = daemon.cli(&["describe", "f"]).await.ok();
    for text in ["0 0 1 1 * Asia/Tokyo, waiting, next ", "orders.*, stream ORDERS, connecting", "home/door, connecting"]
    {
        assert!(described.contains(text), "no {text:?} in {described}");
    }
    let shown = daemon.get("/ui/functions/f").await.ok().text();
    for text in ["Next firing", "Asia/Tokyo", &next[..10], "orders.*", "stream ORDERS", "home/door", "connecting"] {
        assert!(shown.contains(text), "no {text:?} in {shown}");
    }
    let noticed = |page: &String| page.contains(&format!("not connected to mqtt://{mqtt}"));
    let overview = async || daemon.get("/ui/").await.ok().text();
    let overview = eventually(ms(60_000), "the connection needs attention", overview, noticed).await;
    for text in ["Triggers", "next firing", &next[..10], &format!("nats://{nats}"), "1 subscription", "connecting"] {
        assert!(overview.contains(text), "no {text:?} in {overview}");
    }
    assert!(!overview.contains("s3cret") && !shown.contains("s3cret"));
    assert!(!daemon.get("/ui/functions/none").await.ok().text().contains("Next firing"));
}
