//! An open loop: requests are sent at given times, whether or not earlier ones are answered.
//!
//! Latencies count from the time at which a request should have been sent. A server that stops is then seen by all requests
//! of that time, and not by one alone (coordinated omission).

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hyper::Method;
use tokio::{sync::Semaphore, task::JoinSet};

use super::{ClientError, Connection, Response, timer::Timer};
use crate::clock;

/// Connections at most. Further requests wait for one, which counts as latency.
const MAX_CONNECTIONS: usize = 2000;

/// A request that is to be sent.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// When, in nanoseconds of the monotonic clock.
    pub at: u64,
    /// Its target.
    pub target: Arc<str>,
}

/// How a request ended.
#[derive(Debug)]
pub struct Outcome {
    /// Its place among the arrivals.
    pub index: usize,
    /// The response.
    pub response: Result<Response, ClientError>,
}

/// Connections without a request in progress.
#[derive(Debug, Default)]
struct Pool(Mutex<Vec<Connection>>);

impl Pool {
    /// Takes the connection that was used last: the server may have closed the others.
    fn take(&self) -> Option<Connection> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn put(&self, connection: Connection) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
    }
}

/// Sends requests at their times, and returns how each has ended, within `limit` of its sending. `arrivals` are in ascending
/// order; `ready` connections are opened before the first one.
///
/// # Errors
/// When there is no timer.
pub async fn open(server: SocketAddr, arrivals: &[Arrival], ready: usize, limit: Duration) -> io::Result<Vec<Outcome>> {
    let (timer, pool, permits) = (Timer::new()?, Arc::<Pool>::default(), Arc::new(Semaphore::new(MAX_CONNECTIONS)));
    for _ in 0..ready {
        // A server that refuses is seen by the requests.
        Connection::open(server).await.into_iter().for_each(|connection| pool.put(connection));
    }
    let mut requests = JoinSet::new();
    let mut outcomes = Vec::with_capacity(arrivals.len());
    for (index, arrival) in arrivals.iter().enumerate() {
        timer.until(arrival.at).await?;
        let (pool, permits, target) = (pool.clone(), permits.clone(), arrival.target.clone());
        requests.spawn(async move {
            // It is never closed.
            let _permit = permits.acquire().await;
            Outcome { index, response: send(server, &pool, &target, limit).await }
        });
        while let Some(done) = requests.try_join_next() {
            outcomes.extend(done);
        }
    }
    while let Some(done) = requests.join_next().await {
        outcomes.extend(done);
    }
    outcomes.sort_by_key(|outcome| outcome.index);
    Ok(outcomes)
}

async fn send(server: SocketAddr, pool: &Pool, target: &str, limit: Duration) -> Result<Response, ClientError> {
    let since = clock::now();
    if let Some(mut connection) = pool.take() {
        match connection.send(Method::GET, target, limit).await {
            // The server has closed it meanwhile: the request was not sent.
            Err(ClientError::Exchange(error)) if error.is_canceled() || error.is_closed() => {}
            answered => {
                if answered.is_ok() {
                    pool.put(connection);
                }
                return answered;
            }
        }
    }
    let mut connection = Connection::open(server).await?;
    let spent = Duration::from_nanos(clock::now().saturating_sub(since));
    let response = connection.send(Method::GET, target, limit.saturating_sub(spent)).await?;
    pool.put(connection);
    Ok(response)
}
