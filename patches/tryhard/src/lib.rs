//! Repeats futures until one succeeds: what async-nats uses of the published crate of this name.
//!
//! Release 0.5.2 of that crate enables tokio's `test-util` in every program that contains it. With this feature, runtimes
//! lock the clock that tests can stop, whenever they wait.

use std::time::Duration;

use tokio::time::sleep;

/// Returns what makes attempts.
pub fn retry_fn<F>(attempt: F) -> Attempts<F> {
    Attempts { attempt, retries: 0 }
}

/// Makes attempts.
pub struct Attempts<F> {
    attempt: F,
    retries: u32,
}

impl<F> Attempts<F> {
    /// Sets how many attempts may follow the first one.
    #[must_use]
    pub fn retries(self, retries: u32) -> Self {
        Self { retries, ..self }
    }

    /// Makes the attempts. Before each retry, `backoff` gets its number and the last error, and returns how long to wait.
    ///
    /// # Errors
    /// That of the last attempt.
    pub async fn custom_backoff<T, E, Fut>(mut self, mut backoff: impl FnMut(u32, &E) -> Duration) -> Result<T, E>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        let mut retry = 0;
        loop {
            let pause = match (self.attempt)().await {
                Err(error) if retry < self.retries => {
                    retry += 1;
                    backoff(retry, &error)
                }
                outcome => return outcome,
            };
            sleep(pause).await;
        }
    }
}
