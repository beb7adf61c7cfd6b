//! What tests of paused instances of every kind have in common.

use std::{env, time::Duration};

use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::{Daemon, body_of, empty, median, number, request};

/// Pauses under load without `UNIFAAS_PAUSES`.
const PAUSES: u64 = 300;
/// Clients of that load, each with a request at a time.
const CLIENTS: u64 = 3;
/// Requests after which a client asks how often instances were paused.
const REQUESTS_PER_LOOK: u64 = 50;
/// What a resumption may add to the time of an answer, beside other tests. On an idle machine it adds one or two milliseconds.
pub const MAX_RESUMPTION: Duration = Duration::from_millis(250);
/// Answers of each kind that are timed.
const TIMED: usize = 21;

/// Returns how often the instances of a function were paused, by the changes of state of those that exist.
fn pauses_of(page: &Value) -> u64 {
    let instances = page["instances"].as_array().into_iter().flatten();
    // To be ready takes two or three changes, each pause with its end four.
    instances.map(|instance| number(instance, "epoch").saturating_sub(3) / 4).sum()
}

/// Sends requests to a function with a keepalive of a millisecond and at most as many instances as there are clients, until
/// these were paused `UNIFAAS_PAUSES` times.
///
/// # Panics
/// When a request fails, an instance does not survive its pauses, or there are no pauses.
pub async fn pause_under_load(daemon: &Daemon, name: &str, [get, post]: [&str; 2]) {
    let wanted = env::var("UNIFAAS_PAUSES").map_or(PAUSES, |text| text.parse().expect("UNIFAAS_PAUSES is a number"));
    let [get, post] = &[get, post].map(|path| format!("/invoke/{name}{path}"));
    let clients = (0..CLIENTS).map(async |client| {
        let mut connection = daemon.connect().await;
        let mut count = 0_u64;
        while count < wanted * 100 {
            let request = if count.is_multiple_of(2) {
                request("GET", get, empty())
            } else {
                request("POST", post, body_of("x".to_owned()))
            };
            let reply = connection.send(request).await.expect("an answer");
            assert_eq!(reply.status, 200, "{}", reply.text());
            // As when a guest has answered before the daemon has read the end of the request.
            if reply.header("connection").as_deref() == Some("close") {
                connection = daemon.connect().await;
            }
            count += 1;
            if count.is_multiple_of(REQUESTS_PER_LOOK) && pauses_of(&daemon.function(name).await) >= wanted {
                break;
            }
            // About as long as the keepalive, so that requests meet each state.
            sleep(Duration::from_micros(1_000 + (count * 37 + client * 211) % 2_500)).await;
        }
    });
    futures::future::join_all(clients).await;
    let page = daemon.function(name).await;
    eprintln!("{name}: {} pauses, {} requests", pauses_of(&page), page["counters"]["ok"]);
    assert!(pauses_of(&page) >= wanted && number(&page, "instances_started") <= CLIENTS, "{page}");
}

/// Checks that the only instance of the daemon, which declares 128 MiB, is charged less while it is paused.
///
/// # Panics
/// When it is charged more.
pub async fn is_charged_less(daemon: &Daemon, name: &str) {
    let charged = number(&daemon.function(name).await["instances"][0], "memory_charged");
    let taken = number(&daemon.get("/debug").await.ok().json()["daemon"], "memory_taken");
    assert!((1..100).contains(&charged) && taken == charged, "{charged} of {taken} MiB");
}

/// Returns the median times until the response of a paused instance and of the same one when it runs.
///
/// # Panics
/// When another instance answers, or none.
pub async fn answer_times(daemon: &Daemon, name: &str, path: &str) -> (Duration, Duration) {
    let path = format!("/invoke/{name}{path}");
    let first = daemon.get(&path).await.ok().text();
    let (mut warm, mut resumed) = (Vec::new(), Vec::new());
    for _ in 0..TIMED {
        daemon.until(name, "paused", 1).await;
        let mut connection = daemon.connect().await;
        for times in [&mut resumed, &mut warm] {
            let since = Instant::now();
            let reply = connection.send(request("GET", &path, empty())).await.expect("an answer");
            times.push(since.elapsed());
            assert_eq!(reply.ok().text(), first);
        }
    }
    assert_eq!(number(&daemon.function(name).await, "instances_started"), 1);
    let medians = (median(resumed), median(warm));
    eprintln!("{name}: medians: resumed {:?}, warm {:?}", medians.0, medians.1);
    medians
}
