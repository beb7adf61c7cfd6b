//! h2load, which drives HTTP/2: its command line, and its output turned into numbers.

use std::process::Command;

use crate::stats::microseconds;

/// The result of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outcome {
    /// Requests per second.
    pub rate: f64,
    /// The mean time of a request, in microseconds. h2load prints no percentiles.
    pub mean: f64,
}

/// Streams of a run: one connection that always has so many open.
pub const STREAMS: usize = 64;

/// Runs h2load against `url` for so many seconds. An `http:` URL is reached by HTTP/2 with prior knowledge.
///
/// # Errors
/// When it cannot be run, or a request is not answered as it should be.
pub fn run(seconds: u64, url: &str) -> Result<Outcome, String> {
    let mut command = Command::new("h2load");
    command.args(["--threads=1", "--clients=1"]).arg(format!("--max-concurrent-streams={STREAMS}"));
    command.arg(format!("--duration={seconds}")).arg(url);
    let output = command.output().map_err(|error| format!("h2load: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    parse(&text).map_err(|why| format!("h2load, {url}: {why}"))
}

/// Reads what h2load prints. A request that failed, or that was answered with a status other than 2xx, is an error.
fn parse(text: &str) -> Result<Outcome, String> {
    let value = |prefix: &str| text.lines().find_map(|line| line.strip_prefix(prefix)).map(str::trim);
    let rate = value("finished in").and_then(|line| line.split(", ").nth(1)?.strip_suffix(" req/s")?.parse().ok());
    let rate = rate.ok_or_else(|| format!("no rate: {}", text.lines().last().unwrap_or_default()))?;
    if rate == 0.0 {
        return Err("no request was answered".to_owned());
    }
    let requests = value("requests:").ok_or("no count of requests")?;
    for failures in ["failed", "errored", "timeout"] {
        let count = requests.split(", ").find_map(|part| part.strip_suffix(failures)).ok_or("no count of failures")?;
        if count.trim() != "0" {
            return Err(format!("requests: {requests}"));
        }
    }
    let statuses = value("status codes:").ok_or("no statuses")?;
    if !statuses.ends_with("2xx, 0 3xx, 0 4xx, 0 5xx") {
        return Err(format!("statuses: {statuses}"));
    }
    let times = value("time for request:").ok_or("no times")?;
    let mean = times.split_whitespace().nth(2).and_then(microseconds).ok_or("no mean time")?;
    Ok(Outcome { rate, mean })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
starting benchmark...
spawning thread #0: 1 total client(s). Timing-based test with 0s of warm-up time and 2s of main duration for measurements.
finished in 2.00s, 61234.50 req/s, 3.80MB/s
requests: 122469 total, 122533 started, 122469 done, 122469 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 122469 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 7.59MB (7959913) total, 1.64MB (1714602) headers (space savings 90.67%), 1.40MB (1469628) data
                     min         max         mean         sd        +/- sd
time for request:      402us      6.82ms      1.04ms       301us    81.42%
time for connect:       71us        71us        71us         0us   100.00%
";

    #[test]
    fn reads_rate_and_mean_time() {
        assert_eq!(parse(OUTPUT), Ok(Outcome { rate: 61_234.5, mean: 1040.0 }));
    }

    #[test]
    fn rejects_runs_with_failed_requests() {
        let failed = OUTPUT.replace("0 failed", "3 failed");
        assert!(parse(&failed).unwrap_err().contains("3 failed"));
        let refused = OUTPUT.replace("0 5xx", "17 5xx");
        assert!(parse(&refused).unwrap_err().contains("17 5xx"));
        assert_eq!(parse(&OUTPUT.replace("61234.50", "0.00")), Err("no request was answered".to_owned()));
    }

    #[test]
    fn names_what_is_missing() {
        assert!(parse("could not connect\n").unwrap_err().contains("could not connect"));
        assert_eq!(parse(&OUTPUT.replace("time for request", "time")), Err("no times".to_owned()));
    }
}
