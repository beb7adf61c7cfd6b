//! A closed loop: each connection sends its next request as soon as the one before is answered.

use std::{net::SocketAddr, time::Duration};

use futures::future::join_all;
use hyper::Method;
use tokio::time::sleep;

use super::{ClientError, Connection, Failures, Response};
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
    /// The other requests.
    pub failures: Failures,
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
        window.failures.extend(one.failures);
    }
    window
}

async fn requests(server: SocketAddr, target: &str, begin: u64, end: u64) -> Window {
    let (mut window, mut connection) = (Window::default(), None);
    while clock::now() < end {
        let answered = exchange(server, target, &mut connection).await;
        let is_counted = (begin..end).contains(&clock::now());
        match answered {
            Ok(response) if response.status == 200 => {
                let latency = response.times.first_byte.saturating_sub(response.times.sent) as f64 / 1e6;
                window.latencies.extend(is_counted.then_some(latency));
            }
            failed => {
                if is_counted {
                    window.failures.note(&failed);
                }
                sleep(PAUSE).await;
            }
        }
    }
    window
}

/// Returns the response to a request. After a failure, the next one has a new connection.
async fn exchange(
    server: SocketAddr,
    target: &str,
    connection: &mut Option<Connection>,
) -> Result<Response, ClientError> {
    let mut open = match connection.take() {
        Some(open) => open,
        None => Connection::open(server).await?,
    };
    let response = open.send(Method::GET, target, LIMIT).await?;
    *connection = Some(open);
    Ok(response)
}
