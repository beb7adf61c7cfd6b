//! Whether the client's clock agrees with a known delay.

use std::time::Duration;

use hyper::Method;
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use super::{Session, stop};
use crate::{client::Connection, daemon::Daemon, error::BenchError, stats::median};

/// The function of the calibration, in its own registry.
const DELAYED: &str = "calibration";
const FUNCTION: &str = "process.command = [\"%unifaas\", \"bench-function\", \"%callback\"]\n";
const DELAY_US: u32 = 10_000;
const SAMPLES: u32 = 50;
const LIMIT: Duration = Duration::from_secs(60);
/// What the client's median may exceed that of the function's own clock by.
const MAX_EXCESS_US: f64 = 200.0;

/// The client beside a delay of known length.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Requests.
    pub count: usize,
    /// The delay that was asked for, in microseconds.
    pub delay_us: f64,
    /// The median by the clock of the function.
    pub function_us: f64,
    /// The median by the clock of the client.
    pub client_us: f64,
    /// Whether they agree.
    pub is_reliable: bool,
}

/// Measures a delay of known length in a process.
///
/// # Errors
/// When the daemon ends, or a signal does.
pub async fn calibrate(session: &Session) -> Result<Calibration, BenchError> {
    let mut registries = session.registries(DELAYED)?;
    registries.truncate(1);
    let table = FUNCTION.parse().map_err(|error: toml::de::Error| BenchError::Usage(error.to_string()))?;
    registries.iter().try_for_each(|registry| registry.add_table(DELAYED, &table))?;
    let lanes = session.lanes(registries, &[]).await?;
    let mut result = Err(BenchError::Daemon("was not started".to_owned()));
    for lane in &lanes {
        result = delays(session, &lane.daemon).await;
    }
    let ended = stop(lanes).await;
    let (client, function) = result?;
    ended?;
    let (client_us, function_us) = (median(&client).unwrap_or(f64::NAN), median(&function).unwrap_or(f64::NAN));
    let is_reliable = client_us - function_us <= MAX_EXCESS_US;
    Ok(Calibration { count: client.len(), delay_us: DELAY_US.into(), function_us, client_us, is_reliable })
}

/// Returns the times of each request by the client's clock and by that of the function, in microseconds.
async fn delays(session: &Session, daemon: &Daemon) -> Result<(Vec<f64>, Vec<f64>), BenchError> {
    let (mut client, mut function) = (Vec::new(), Vec::new());
    let failed = |error: String| BenchError::Daemon(format!("does not serve the calibration: {error}"));
    let target = format!("/delay?us={DELAY_US}");
    // Starts the instance. It is reached directly then, as the daemon is not what is calibrated.
    daemon.invoke(DELAYED, &target, LIMIT).await.map_err(|error| failed(error.to_string()))?;
    let instances = daemon.instances(DELAYED).await?;
    let address = instances.first().and_then(|instance| instance["address"].as_str()?.parse().ok());
    let address = address.ok_or_else(|| failed("there is no instance".to_owned()))?;
    let mut connection = Connection::open(address).await.map_err(|error| failed(error.to_string()))?;
    for _ in 0..SAMPLES {
        session.interrupt.check()?;
        let response = connection.send(Method::GET, &target, LIMIT).await;
        let response = response.map_err(|error| failed(error.to_string()))?;
        let Some(function_us) = response.function_us.filter(|_| response.status == 200) else {
            return Err(failed(String::from_utf8_lossy(&response.body).into_owned()));
        };
        client.push((response.times.first_byte - response.times.sent) as f64 / 1000.0);
        function.push(function_us);
        sleep(Duration::from_millis(1)).await;
    }
    Ok((client, function))
}
