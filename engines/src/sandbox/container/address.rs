//! Waits for the address of a started container. A container without one is never reached at another.

use std::time::Duration;

use bollard::Docker;
use tokio::time::{self, Instant};
use unifaas_actors::sandbox::LaunchError;

use super::{engine::QUICK_CALL_TIMEOUT, engine_error::EngineError, inspection::Inspection, launch::Launcher};

/// How long a running container may be without an address: its engine may not have noticed its exit yet.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(1);
const INSPECT_INTERVAL: Duration = Duration::from_millis(50);

impl Launcher {
    /// Inspects a started container until it has an address or has exited.
    pub async fn inspect(&self, id: &str) -> Result<Inspection, LaunchError> {
        let deadline = Instant::now() + ADDRESS_TIMEOUT;
        loop {
            let inspect = async |docker: Docker| docker.inspect_container(id, None).await;
            let found = match self.engine.ask("inspect", QUICK_CALL_TIMEOUT, inspect).await {
                Ok(found) => Some(Inspection::of(&found)),
                // It was removed, which the watcher reports.
                Err(error) if error.is_not_found() => return Ok(Inspection::exited()),
                // Podman has states of its own for a container that has just exited. The watcher reports that.
                Err(EngineError::Unexpected(_)) => None,
                Err(error) => return Err(error.into()),
            };
            match found {
                Some(found) if found.has_exited => return Ok(Inspection { address: None, ..found }),
                Some(found) if found.address.is_some() => return Ok(found),
                None if Instant::now() >= deadline => return Ok(Inspection::exited()),
                Some(_) if Instant::now() >= deadline => {
                    return Err(LaunchError::Refused(
                        "the container runs, but its engine reports no address for it, so it cannot be reached: a \
                         function needs a network in which each container has an address that this host reaches"
                            .to_owned(),
                    ));
                }
                Some(_) | None => time::sleep(INSPECT_INTERVAL).await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use slog::{Discard, Logger, o};
    use tokio::task::LocalSet;

    use super::{
        super::mock_engine::{OLD, mock_engine},
        *,
    };
    use crate::{host::function_peers::FunctionPeers, state::State};

    /// Returns what the inspection of a started container comes to, with these answers of the engine.
    async fn inspected(answers: &'static [&'static str]) -> Result<Inspection, LaunchError> {
        let inspect = async {
            let (_directory, engine, _) = mock_engine(answers);
            let home = tempfile::tempdir().unwrap();
            let (state, _) = State::open(home.path()).unwrap();
            let log = Logger::root(Discard, o!());
            let callback = "0.0.0.0:3000".parse().unwrap();
            Launcher::new(engine, callback, &state, FunctionPeers::default(), &log).inspect("c").await
        };
        LocalSet::new().run_until(inspect).await
    }

    const RUNS: &str =
        r#"200 {"State":{"Status":"running","Pid":7},"NetworkSettings":{"Networks":{"n":{"IPAddress":""}}}}"#;
    const EXITED: &str = r#"200 {"State":{"Status":"exited"},"NetworkSettings":{"Networks":{"n":{"IPAddress":""}}}}"#;
    const HAS_ADDRESS: &str =
        r#"200 {"State":{"Status":"running"},"NetworkSettings":{"Networks":{"n":{"IPAddress":"10.9.0.2"}}}}"#;

    #[tokio::test]
    async fn running_container_without_address_is_a_failed_start() {
        let since = Instant::now();
        let error = inspected(&[OLD, RUNS]).await.unwrap_err();
        assert!(matches!(&error, LaunchError::Refused(why) if why.contains("reports no address")), "{error}");
        assert!((ADDRESS_TIMEOUT..ADDRESS_TIMEOUT * 3).contains(&since.elapsed()), "{:?}", since.elapsed());
    }

    #[tokio::test]
    async fn exited_or_removed_container_has_no_address() {
        const REMOVED: &str = "404 {\"message\":\"No such container: c\"}";
        for answers in [&[OLD, EXITED][..], &[OLD, RUNS, EXITED], &[OLD, REMOVED], &[OLD, "200 {\"State\":7}"]] {
            assert_eq!(inspected(answers).await, Ok(Inspection::exited()), "{answers:?}");
        }
    }

    #[tokio::test]
    async fn waits_for_an_address() {
        let found = inspected(&[OLD, RUNS, RUNS, HAS_ADDRESS]).await.unwrap();
        assert_eq!(found.address, Some("10.9.0.2".parse().unwrap()));
    }
}
