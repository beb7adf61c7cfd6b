//! The client of the host's container engine: where the engine listens, and how long each call may take.
//!
//! The connection is made at the first call. Each call finds out by itself that the engine is absent, restarts or
//! hangs, and the next call uses the engine that is there by then. Errors are in `engine_error.rs`.

use std::{
    cell::{Cell, RefCell},
    env,
    time::Duration,
};

use bollard::{Docker, errors::Error};
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;

use super::engine_error::EngineError;

/// Where Docker listens unless `DOCKER_HOST` says otherwise.
pub const DEFAULT_HOST: &str = "unix:///var/run/docker.sock";
/// For calls that only read or deliver a signal.
pub const QUICK_CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an engine may be silent during shutdown: a restart takes some seconds.
const GIVE_UP_TIMEOUT: Duration = Duration::from_secs(5);
const PING_INTERVAL: Duration = Duration::from_millis(200);
/// Bollard's own limit until the head of a response. Every call here has a shorter one; only streams last.
const STREAM_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// The client of one engine.
#[derive(Debug)]
pub struct Engine {
    host: String,
    connected: RefCell<Option<Docker>>,
    session: Cell<Session>,
    given_up: CancellationToken,
}

/// The time between two losses of the engine. After a kill, an engine may not know what it has just started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session(u64);

impl Engine {
    /// Returns a client of the engine that `DOCKER_HOST` names, or of Docker's default. Does not connect.
    pub fn from_environment() -> Self {
        let host = env::var("DOCKER_HOST").ok().filter(|host| !host.is_empty());
        Self::at(host.unwrap_or_else(|| DEFAULT_HOST.to_owned()))
    }

    /// Returns a client of the engine at `unix://PATH`, `tcp://HOST:PORT` or `http://HOST:PORT`. Does not connect.
    pub fn at(host: String) -> Self {
        Self { host, connected: RefCell::new(None), session: Cell::new(Session(0)), given_up: CancellationToken::new() }
    }

    /// Returns the engine's URL.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Returns the present session.
    pub fn session(&self) -> Session {
        self.session.get()
    }

    /// Gives up on an engine that is away or hangs: all calls fail at once from then on. Resolves when that is so;
    /// never for an engine that answers, however long its work takes.
    pub async fn give_up_if_lost(&self) {
        let mut answered = Instant::now();
        while answered.elapsed() < GIVE_UP_TIMEOUT {
            let ping = self.ask("ping", GIVE_UP_TIMEOUT, async |docker| docker.ping().await);
            if let Ok(Ok(_)) = time::timeout(GIVE_UP_TIMEOUT, ping).await {
                answered = Instant::now();
            }
            time::sleep(PING_INTERVAL).await;
        }
        self.given_up.cancel();
    }

    /// Returns whether all calls fail because the engine was given up.
    pub fn is_given_up(&self) -> bool {
        self.given_up.is_cancelled()
    }

    /// Makes one call, which errors name. The engine may still carry out a call that has timed out.
    ///
    /// # Errors
    /// When the engine is absent, refuses, or takes longer than `limit`.
    pub async fn ask<T>(
        &self,
        call: &'static str,
        limit: Duration,
        ask: impl AsyncFnOnce(Docker) -> Result<T, Error>,
    ) -> Result<T, EngineError> {
        let docker = self.client().await?;
        self.limited(call, limit, ask(docker)).await
    }

    /// Returns a client for streams: it speaks the engine's version of the protocol, and its responses have no time
    /// limit.
    ///
    /// # Errors
    /// When the engine is absent or does not tell its version.
    pub async fn client(&self) -> Result<Docker, EngineError> {
        if let Some(docker) = self.connected.borrow().as_ref() {
            return Ok(docker.clone());
        }
        let docker =
            Docker::connect_with_host(&self.host).map_err(|error| self.explain(&error))?.with_timeout(STREAM_TIMEOUT);
        let docker = versioned(self.limited("version", QUICK_CALL_TIMEOUT, docker.negotiate_version()).await?);
        *self.connected.borrow_mut() = Some(docker.clone());
        Ok(docker)
    }

    async fn limited<T>(
        &self,
        call: &'static str,
        limit: Duration,
        answer: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, EngineError> {
        let host = self.host.clone();
        tokio::select! {
            biased;
            () = self.given_up.cancelled() => Err(EngineError::Absent { host, why: "it was given up on".to_owned() }),
            answer = time::timeout(limit, answer) => match answer {
                Ok(Ok(value)) => Ok(value),
                Ok(Err(error)) => Err(self.explain(&error)),
                Err(_) => Err(EngineError::TimedOut { host, call, limit }),
            },
        }
    }

    /// Translates an error. After a lost connection the next call negotiates the version again: the engine that comes
    /// back can be another one.
    pub fn explain(&self, error: &Error) -> EngineError {
        let error = EngineError::of(error, &self.host);
        if matches!(error, EngineError::Absent { .. }) {
            *self.connected.borrow_mut() = None;
            self.session.set(Session(self.session.get().0 + 1));
        }
        error
    }
}

/// Puts the negotiated version into each request. Bollard leaves it out, and engines read a request without a version
/// as one of their newest.
fn versioned(docker: Docker) -> Docker {
    let version = docker.client_version();
    docker.with_request_modifier(move |mut request| {
        let mut parts = request.uri().clone().into_parts();
        let path = parts.path_and_query.as_ref().map_or("/", |path| path.as_str());
        parts.path_and_query = format!("/v{version}{path}").parse().ok();
        if let Ok(uri) = parts.try_into() {
            *request.uri_mut() = uri;
        }
        request
    })
}

#[cfg(test)]
mod tests {
    use tokio::{net::UnixListener, task::LocalSet};
    use unifaas_actors::sandbox::LaunchError;

    use super::{
        super::mock_engine::{OLD, mock_engine},
        *,
    };

    async fn version(host: &str) -> EngineError {
        Engine::at(host.to_owned()).client().await.expect_err("no engine is there")
    }

    #[tokio::test]
    async fn absent_engine_is_reported_with_its_url() {
        let said = version("unix:///nowhere/docker.sock").await;
        assert!(matches!(said, EngineError::Absent { .. }), "{said:?}");
        let said = said.to_string();
        assert!(said.contains("unix:///nowhere/docker.sock") && said.contains("no socket"), "{said}");

        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("left-behind.sock");
        drop(UnixListener::bind(&path).unwrap());
        let said = version(&format!("unix://{}", path.display())).await;
        assert!(matches!(&said, EngineError::Absent { why, .. } if why.contains("refused")), "{said:?}");
    }

    #[tokio::test]
    async fn refuses_urls_of_other_schemes() {
        for host in ["ssh://host", "https://host:2376", "docker.sock", ""] {
            let said = version(host).await;
            assert!(matches!(&said, EngineError::Unexpected(why) if why.contains("unix://")), "{host}: {said:?}");
        }
    }

    #[tokio::test]
    async fn negotiates_version_once_and_again_after_lost_connection() {
        LocalSet::new()
            .run_until(async {
                let (_directory, engine, _) = mock_engine(&[OLD, "", "200 {\"ApiVersion\":\"1.44\"}"]);
                for _ in 0..2 {
                    assert_eq!(engine.client().await.unwrap().client_version().minor_version, 41);
                }
                let lost = engine.ask("ping", QUICK_CALL_TIMEOUT, async |docker| docker.ping().await).await;
                assert!(matches!(lost, Err(EngineError::Absent { .. })), "{lost:?}");
                assert_eq!(engine.client().await.unwrap().client_version().minor_version, 44);
            })
            .await;
    }

    #[tokio::test]
    async fn refusal_has_the_engines_message() {
        LocalSet::new()
            .run_until(async {
                let (_directory, engine, _) = mock_engine(&[OLD, "404 {\"message\":\"No such container: x\"}"]);
                let refused =
                    engine.ask("ping", QUICK_CALL_TIMEOUT, async |docker| docker.ping().await).await.unwrap_err();
                assert!(refused.is_not_found() && !refused.is_conflict());
                assert_eq!(refused.to_string(), "the container engine refused: No such container: x");
                assert!(matches!(LaunchError::from(refused), LaunchError::Refused(_)));
            })
            .await;
    }

    #[tokio::test]
    async fn refuses_response_of_no_engine() {
        LocalSet::new()
            .run_until(async {
                let (_directory, engine, _) = mock_engine(&["200 <html>"]);
                let said = engine.client().await.unwrap_err();
                assert!(matches!(said, EngineError::Unexpected(_)), "{said:?}");
            })
            .await;
    }

    #[tokio::test]
    async fn call_to_hanging_engine_times_out() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("engine.sock");
        let _listener = UnixListener::bind(&path).unwrap();
        let docker = Docker::connect_with_host(&format!("unix://{}", path.display())).unwrap();
        let engine = Engine::at("unix:///x".to_owned());
        let said = engine.limited("ping", Duration::from_millis(30), docker.ping()).await.unwrap_err();
        assert!(matches!(said, EngineError::TimedOut { call: "ping", .. }), "{said:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn gives_up_absent_engine_and_fails_further_calls() {
        let (engine, since) = (Engine::at("unix:///nowhere/docker.sock".to_owned()), Instant::now());
        assert!(!engine.is_given_up());
        engine.give_up_if_lost().await;
        assert!(engine.is_given_up() && since.elapsed() < GIVE_UP_TIMEOUT * 2, "{:?}", since.elapsed());
        let never = engine.limited::<()>("wait", QUICK_CALL_TIMEOUT, std::future::pending()).await;
        assert!(matches!(never, Err(EngineError::Absent { .. })), "{never:?}");
    }

    #[tokio::test]
    async fn does_not_give_up_engine_that_answers() {
        LocalSet::new()
            .run_until(async {
                let (_directory, engine, asked) = mock_engine(&[OLD, "200 OK"]);
                let limit = GIVE_UP_TIMEOUT + Duration::from_secs(1);
                assert!(time::timeout(limit, engine.give_up_if_lost()).await.is_err());
                assert!(!engine.is_given_up() && asked.borrow().len() > 3);
            })
            .await;
    }
}
