//! The container engine of this host: how it is reached, how long it may take, and what it says when it refuses.
//!
//! A connection is made when it is first needed. An engine that is absent, restarts or hangs is found out by each call
//! on its own, and the next call finds the engine that is there by then.

use std::{cell::RefCell, env, time::Duration};

use bollard::{Docker, errors::Error};
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;
use unifaas_actors::sandbox::LaunchError;

/// Where Docker listens unless `DOCKER_HOST` says otherwise.
const DEFAULT_HOST: &str = "unix:///var/run/docker.sock";
/// For calls that only read or deliver a signal.
pub const QUICK: Duration = Duration::from_secs(5);
/// How long an engine may say nothing when the daemon ends: one that is restarted takes some seconds. And the pause between two
/// questions whether it is there.
const LAST_PATIENCE: Duration = Duration::from_secs(5);
const LAST_PAUSE: Duration = Duration::from_millis(200);
/// Bollard's own limit until the head of an answer. Every call here has a shorter one; only streams last.
const STREAM: Duration = Duration::from_secs(24 * 60 * 60);

/// Why the engine did not do what it was asked to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// Nobody is there, or is gone in the middle of a call.
    #[error("the container engine at {host} cannot be reached: {why}")]
    Absent { host: String, why: String },
    /// It takes connections and says nothing.
    #[error("the container engine at {host} did not answer within {} s ({call})", limit.as_secs())]
    TimedOut { host: String, call: &'static str, limit: Duration },
    /// Its own words.
    #[error("the container engine refused: {words}")]
    Refused { status: u16, words: String },
    /// It is no engine, or one of a kind that is not understood.
    #[error("the container engine's answer was not understood: {0}")]
    Unexpected(String),
}

impl EngineError {
    /// Whether the engine does not know what the call was about.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { status: 404, .. })
    }

    /// Whether it is busy with what the call was about, or the call comes too late.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Refused { status: 409, .. })
    }
}

impl From<EngineError> for LaunchError {
    fn from(error: EngineError) -> Self {
        match &error {
            EngineError::Absent { .. } => LaunchError::Missing(error.to_string()),
            // What Docker and Podman say when a network has no address left.
            EngineError::Refused { words, .. }
                if words.contains("no available IP") || words.contains("no available ip") =>
            {
                LaunchError::Exhausted(error.to_string())
            }
            _ => LaunchError::Refused(error.to_string()),
        }
    }
}

/// The engine at one place.
#[derive(Debug)]
pub struct Engine {
    host: String,
    connected: RefCell<Option<Docker>>,
    given_up: CancellationToken,
}

impl Engine {
    /// The engine that `DOCKER_HOST` names, or Docker's default. Does not look whether it is there.
    pub fn from_environment() -> Self {
        let host = env::var("DOCKER_HOST").ok().filter(|host| !host.is_empty());
        Self::at(host.unwrap_or_else(|| DEFAULT_HOST.to_owned()))
    }

    /// The engine at `unix://PATH`, `tcp://HOST:PORT` or `http://HOST:PORT`.
    pub fn at(host: String) -> Self {
        Self { host, connected: RefCell::new(None), given_up: CancellationToken::new() }
    }

    /// Where it is.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Gives up on an engine that is away or hangs: from then on all calls fail at once. Resolves when that is so, never for
    /// one that answers, however long it takes for what it has to do.
    pub async fn give_up_if_lost(&self) {
        let mut answered = Instant::now();
        while answered.elapsed() < LAST_PATIENCE {
            let ping = self.ask("ping", LAST_PATIENCE, async |docker| docker.ping().await);
            if let Ok(Ok(_)) = time::timeout(LAST_PATIENCE, ping).await {
                answered = Instant::now();
            }
            time::sleep(LAST_PAUSE).await;
        }
        self.given_up.cancel();
    }

    /// Whether nothing is expected of it any more.
    pub fn is_given_up(&self) -> bool {
        self.given_up.is_cancelled()
    }

    /// Makes one call, which is named in errors. A call that is given up on may still be carried out.
    ///
    /// # Errors
    /// When the engine is not there, says no, or takes longer than `limit`.
    pub async fn ask<T>(
        &self,
        call: &'static str,
        limit: Duration,
        ask: impl AsyncFnOnce(Docker) -> Result<T, Error>,
    ) -> Result<T, EngineError> {
        let docker = self.client().await?;
        self.limited(call, limit, ask(docker)).await
    }

    /// A client that speaks the engine's version of the protocol, for calls that last: its answers have no limit.
    ///
    /// # Errors
    /// When the engine is not there or does not say its version.
    pub async fn client(&self) -> Result<Docker, EngineError> {
        if let Some(docker) = self.connected.borrow().as_ref() {
            return Ok(docker.clone());
        }
        let docker = Docker::connect_with_host(&self.host).map_err(|error| self.explain(&error))?.with_timeout(STREAM);
        let docker = versioned(self.limited("version", QUICK, docker.negotiate_version()).await?);
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

    /// What has happened, in words. After a lost connection the version is negotiated anew: the engine that comes back
    /// can be another one.
    pub fn explain(&self, error: &Error) -> EngineError {
        let absent = |why: String| {
            *self.connected.borrow_mut() = None;
            EngineError::Absent { host: self.host.clone(), why }
        };
        match error {
            Error::DockerResponseServerError { status_code, message } => {
                EngineError::Refused { status: *status_code, words: message.trim().to_owned() }
            }
            Error::DockerStreamError { error } => EngineError::Refused { status: 500, words: error.trim().to_owned() },
            Error::SocketNotFoundError(path) => absent(format!("there is no socket {path}")),
            Error::UnsupportedURISchemeError { .. } => {
                EngineError::Unexpected("DOCKER_HOST must start with unix://, tcp:// or http://".to_owned())
            }
            Error::HyperLegacyError { .. } | Error::HyperResponseError { .. } | Error::IOError { .. } => {
                absent(innermost(error))
            }
            other => EngineError::Unexpected(other.to_string()),
        }
    }
}

/// The client with the negotiated version in each request: Bollard negotiates one but leaves it out, and an engine takes
/// a request without one for its newest.
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

/// The first cause: what wraps it only says that something failed.
fn innermost(error: &Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use tokio::{net::UnixListener, task::LocalSet};

    use super::{
        super::mock_engine::{OLD, mock_engine},
        *,
    };

    async fn version(host: &str) -> EngineError {
        Engine::at(host.to_owned()).client().await.expect_err("no engine is there")
    }

    #[tokio::test]
    async fn an_engine_that_is_not_there_is_absent_and_says_where() {
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
    async fn other_ways_to_reach_an_engine_are_not_understood() {
        for host in ["ssh://host", "https://host:2376", "docker.sock", ""] {
            let said = version(host).await;
            assert!(matches!(&said, EngineError::Unexpected(why) if why.contains("unix://")), "{host}: {said:?}");
        }
    }

    #[tokio::test]
    async fn the_version_is_negotiated_once_and_again_after_a_lost_connection() {
        LocalSet::new()
            .run_until(async {
                let (_directory, engine, _) = mock_engine(&[OLD, "", "200 {\"ApiVersion\":\"1.44\"}"]);
                for _ in 0..2 {
                    assert_eq!(engine.client().await.unwrap().client_version().minor_version, 41);
                }
                let lost = engine.ask("ping", QUICK, async |docker| docker.ping().await).await;
                assert!(matches!(lost, Err(EngineError::Absent { .. })), "{lost:?}");
                assert_eq!(engine.client().await.unwrap().client_version().minor_version, 44);
            })
            .await;
    }

    #[tokio::test]
    async fn a_refusal_is_in_the_engines_words() {
        LocalSet::new()
            .run_until(async {
                let (_directory, engine, _) = mock_engine(&[OLD, "404 {\"message\":\"No such container: x\"}"]);
                let refused = engine.ask("ping", QUICK, async |docker| docker.ping().await).await.unwrap_err();
                assert!(refused.is_not_found() && !refused.is_conflict());
                assert_eq!(refused.to_string(), "the container engine refused: No such container: x");
                assert!(matches!(LaunchError::from(refused), LaunchError::Refused(_)));
            })
            .await;
    }

    #[tokio::test]
    async fn what_is_no_engine_is_not_understood() {
        LocalSet::new()
            .run_until(async {
                let (_directory, engine, _) = mock_engine(&["200 <html>"]);
                let said = engine.client().await.unwrap_err();
                assert!(matches!(said, EngineError::Unexpected(_)), "{said:?}");
            })
            .await;
    }

    #[tokio::test]
    async fn an_engine_that_hangs_is_given_up_on() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("engine.sock");
        let _listener = UnixListener::bind(&path).unwrap();
        let docker = Docker::connect_with_host(&format!("unix://{}", path.display())).unwrap();
        let engine = Engine::at("unix:///x".to_owned());
        let said = engine.limited("ping", Duration::from_millis(30), docker.ping()).await.unwrap_err();
        assert!(matches!(said, EngineError::TimedOut { call: "ping", .. }), "{said:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_away_at_the_end_is_given_up_on_and_not_asked_any_more() {
        let (engine, since) = (Engine::at("unix:///nowhere/docker.sock".to_owned()), Instant::now());
        assert!(!engine.is_given_up());
        engine.give_up_if_lost().await;
        assert!(engine.is_given_up() && since.elapsed() < LAST_PATIENCE * 2, "{:?}", since.elapsed());
        let never = engine.limited::<()>("wait", QUICK, std::future::pending()).await;
        assert!(matches!(never, Err(EngineError::Absent { .. })), "{never:?}");
    }

    #[tokio::test]
    async fn one_that_answers_is_not_given_up_on() {
        LocalSet::new()
            .run_until(async {
                let (_directory, engine, asked) = mock_engine(&[OLD, "200 OK"]);
                let patience = LAST_PATIENCE + Duration::from_secs(1);
                assert!(time::timeout(patience, engine.give_up_if_lost()).await.is_err());
                assert!(!engine.is_given_up() && asked.borrow().len() > 3);
            })
            .await;
    }

    #[test]
    fn a_network_without_addresses_means_that_the_host_is_full() {
        let words =
            "failed to set up container networking: no available IPv4 addresses on this network's address pools";
        let full = EngineError::Refused { status: 403, words: words.to_owned() };
        assert!(matches!(LaunchError::from(full), LaunchError::Exhausted(_)));
    }
}
