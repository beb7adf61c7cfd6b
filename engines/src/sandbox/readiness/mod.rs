//! Finds out whether an instance accepts requests, and why not. Ready callbacks arrive over HTTP, in `src/http/`.
//!
//! `attempt.rs` makes one attempt, `sockets.rs` finds where an instance listens, and `report.rs` words the result.

mod attempt;
mod report;
mod sockets;

use std::{
    cell::{Cell, RefCell},
    net::{IpAddr, SocketAddr},
    rc::Rc,
    time::Duration,
};

use futures::future::{self, LocalBoxFuture};
use tokio::{
    net::TcpStream,
    task,
    time::{self, Instant},
};
use unifaas_actors::{
    sandbox::{Prober, Reached, Route},
    spec::Readiness,
};

use attempt::Seen;
pub use report::Place;
use report::Report;
pub use sockets::Sockets;

/// The pause between the first two attempts.
const MIN_INTERVAL: Duration = Duration::from_millis(2);
/// The longest pause between two attempts.
const MAX_INTERVAL: Duration = Duration::from_millis(50);
/// How long an instance that has called back may refuse connections: some call back before they listen.
const REFUSED_LIMIT: Duration = Duration::from_secs(1);
/// How long it may leave connections unanswered.
const UNANSWERED_LIMIT: Duration = Duration::from_secs(5);
/// How long a connection to an instance that is not ready in time may take.
const LAST_ATTEMPT_TIMEOUT: Duration = Duration::from_millis(250);
/// How soon the VMM closes a connection that the guest has refused.
const FORWARDED_REFUSAL: Duration = Duration::from_millis(30);

/// What a probe needs to know of an instance.
#[derive(Debug, Clone)]
pub struct Target {
    /// How the function is to be reached.
    pub route: Route,
    /// Where it may listen as well.
    pub alternative: Option<SocketAddr>,
    pub readiness: Readiness,
    pub place: Place,
    pub sockets: Sockets,
}

/// Probes one instance.
#[derive(Debug)]
pub struct Probe {
    target: Target,
    /// What the last attempt has seen.
    seen: RefCell<Option<Seen>>,
    called_back: Cell<bool>,
}

impl Probe {
    pub fn new(target: Target) -> Rc<Self> {
        Rc::new(Self { target, seen: RefCell::default(), called_back: Cell::new(false) })
    }

    /// Opens a connection to an address at which the instance listens.
    async fn open(&self) -> Result<(Route, TcpStream), Seen> {
        let Target { route, alternative, .. } = &self.target;
        match (attempt::connect(route).await, alternative) {
            (Ok(stream), _) => Ok((route.clone(), stream)),
            (Err(Seen::Refused), Some(other)) => {
                let other = Route::from(*other);
                attempt::connect(&other).await.map(|stream| (other, stream)).map_err(|_| Seen::Refused)
            }
            (Err(seen), _) => Err(seen),
        }
    }

    async fn open_after_callback(&self) -> Result<Reached, Seen> {
        let (route, stream) = self.open().await?;
        if matches!(self.target.place, Place::ForwardedGuest { .. }) {
            let closed = time::timeout(FORWARDED_REFUSAL, stream.peek(&mut [0])).await;
            if matches!(closed, Ok(Ok(0) | Err(_))) {
                return Err(Seen::Closed);
            }
        }
        Ok(reached(route, stream))
    }

    /// Makes one attempt as `readiness` says.
    async fn attempt(&self) -> Result<Reached, Seen> {
        let (route, stream) = self.open().await?;
        match &self.target.readiness {
            Readiness::Callback | Readiness::Tcp => Ok(reached(route, stream)),
            Readiness::Http(path) => match attempt::get(stream, route.address, path).await? {
                200..400 => Ok(route.into()),
                status => Err(Seen::Status(status)),
            },
        }
    }

    async fn report(&self) -> Report<'_> {
        let sockets = self.target.sockets.clone();
        let listening = task::spawn_blocking(move || sockets.listening()).await.ok().flatten();
        Report { address: self.target.route.address, place: &self.target.place, listening }
    }

    async fn describe(&self, seen: &Seen) -> String {
        self.report().await.of_attempt(seen, &self.target.readiness)
    }
}

impl Prober for Probe {
    fn ready(self: Rc<Self>) -> LocalBoxFuture<'static, Reached> {
        if self.target.readiness == Readiness::Callback {
            return Box::pin(future::pending());
        }
        Box::pin(async move {
            let mut pause = MIN_INTERVAL;
            loop {
                match self.attempt().await {
                    Ok(reached) => return reached,
                    Err(seen) => *self.seen.borrow_mut() = Some(seen),
                }
                time::sleep(pause).await;
                pause = (pause * 3 / 2).min(MAX_INTERVAL);
            }
        })
    }

    fn connect(self: Rc<Self>) -> LocalBoxFuture<'static, Result<Reached, String>> {
        self.called_back.set(true);
        *self.seen.borrow_mut() = None;
        Box::pin(async move {
            let since = Instant::now();
            let mut pause = MIN_INTERVAL;
            loop {
                let seen = match self.open_after_callback().await {
                    Ok(reached) => return Ok(reached),
                    Err(seen) => seen,
                };
                let limit = if seen == Seen::Unanswered { UNANSWERED_LIMIT } else { REFUSED_LIMIT };
                if since.elapsed() >= limit {
                    return Err(self.describe(&seen).await);
                }
                *self.seen.borrow_mut() = Some(seen);
                time::sleep(pause).await;
                pause = (pause * 3 / 2).min(MAX_INTERVAL);
            }
        })
    }

    fn explain(self: Rc<Self>, refused: Option<IpAddr>) -> LocalBoxFuture<'static, String> {
        Box::pin(async move {
            let seen = self.seen.borrow().clone();
            match (seen, &self.target.readiness) {
                (Some(seen), _) if self.called_back.get() => {
                    format!("it called back, but {}", self.describe(&seen).await)
                }
                (Some(seen), _) => format!("it {}", self.describe(&seen).await),
                (None, Readiness::Callback) if !self.called_back.get() => {
                    // A VMM would accept for a guest that does not listen.
                    let is_forwarded = matches!(self.target.place, Place::ForwardedGuest { .. });
                    let opened = time::timeout(LAST_ATTEMPT_TIMEOUT, self.open());
                    let is_open = !is_forwarded && matches!(opened.await, Ok(Ok(_)));
                    self.report().await.of_missing_callback(is_open, refused)
                }
                (None, _) => format!("the first attempt to reach it at {} had not finished", self.target.route.address),
            }
        })
    }
}

/// Sends a POST with a body of JSON to an instance, and returns the status of the response. `None`: there is none in time.
///
/// # Errors
/// Says why there is none.
pub async fn post(route: &Route, path: &str, body: &str) -> Result<Option<u16>, &'static str> {
    let answered = async { attempt::post(attempt::connect(route).await?, route.address, path, body).await };
    match answered.await {
        Ok(status) | Err(Seen::Status(status)) => Ok(Some(status)),
        Err(Seen::Unanswered | Seen::Silent) => Ok(None),
        Err(Seen::Refused | Seen::Failed(_)) => Err("the connection was refused"),
        Err(Seen::Closed) => Err("the connection was closed without an answer"),
        Err(Seen::NotHttp) => Err("the answer is not HTTP"),
    }
}

fn reached(route: Route, stream: TcpStream) -> Reached {
    Reached { route, connection: stream.into_std().ok().map(Into::into) }
}

#[cfg(test)]
mod tests;
