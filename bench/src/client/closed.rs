//! A closed loop: each connection sends its next request as soon as the one before is answered.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use futures::future::join_all;
use hyper::Method;
use tokio::time::sleep;

use super::Connection;
use crate::clock;

/// Time limit of a request.
const LIMIT: Duration = Duration::from_secs(10);
/// Pause after a failure, so that a server that refuses is not flooded.
const PAUSE: Duration = Duration::from_millis(5);

/// The answers in a window of time.
#[derive(Debug, Default)]
pub struct Window {
    /// Length of the window in seconds.
    pub seconds: f64,
    /// Latencies of the answers with 200, from the first write to the first byte, in milliseconds.
    pub latencies: Vec<f64>,
    /// Answers with other statuses; 0: no answer.
    pub failures: BTreeMap<u16, u64>,
}

impl Window {
    /// Returns the answers with 200 per second.
    pub fn rate(&self) -> f64 {
        self.latencies.len() as f64 / self.seconds
    }
}

/// Sends requests over so many connections from now on, and counts those that are answered from `begin` to `end`.
pub async fn closed(server: SocketAddr, target: &str, connections: u32, (begin, end): (u64, u64)) -> Window {
    let loops = (0..connections).map(|_| requests(server, target, begin, end));
    let mut window = Window { seconds: end.saturating_sub(begin) as f64 / 1e9, ..Window::default() };
    for one in join_all(loops).await {
        window.latencies.extend(one.latencies);
        for (status, count) in one.failures {
            *window.failures.entry(status).or_default() += count;
        }
    }
    window
}

async fn requests(server: SocketAddr, target: &str, begin: u64, end: u64) -> Window {
    let (mut window, mut connection) = (Window::default(), None);
    while clock::now() < end {
        let status = match exchange(server, target, &mut connection).await {
            Some((200, latency)) => {
                if (begin..end).contains(&clock::now()) {
                    window.latencies.push(latency);
                }
                continue;
            }
            Some((status, _)) => status,
            None => 0,
        };
        if (begin..end).contains(&clock::now()) {
            *window.failures.entry(status).or_default() += 1;
        }
        sleep(PAUSE).await;
    }
    window
}

/// Returns status and latency of a request. After a failure, the next one has a new connection.
async fn exchange(server: SocketAddr, target: &str, connection: &mut Option<Connection>) -> Option<(u16, f64)> {
    let mut open = match connection.take() {
        Some(open) => open,
        None => Connection::open(server).await.ok()?,
    };
    let response = open.send(Method::GET, target, LIMIT).await.ok()?;
    *connection = Some(open);
    Some((response.status, response.times.first_byte.saturating_sub(response.times.sent) as f64 / 1e6))
}
