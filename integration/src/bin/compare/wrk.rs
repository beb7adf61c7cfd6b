//! wrk, which generates the load: its command line and its output.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use crate::stats::microseconds;

/// The result of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outcome {
    /// Requests per second.
    pub rate: f64,
    /// Median latency in microseconds.
    pub p50: f64,
    /// 99th percentile of the latency in microseconds.
    pub p99: f64,
}

/// Parameters of a load.
#[derive(Debug, Clone)]
pub struct Load {
    /// Kept connections, each with one request in flight.
    pub connections: usize,
    /// Whole seconds, as wrk requires.
    pub seconds: u64,
    /// A Lua script, for other requests than GET.
    pub script: Option<PathBuf>,
}

/// POSTs of 1 MiB.
pub const POST_MIB: &str = "wrk.method = \"POST\"\nwrk.body = string.rep(\"x\", 1048576)\n";

/// Returns a script that requests the functions `f0`, `f1` and so on in turn.
pub fn in_turn(functions: usize) -> String {
    format!(
        "local requests, last = {{}}, 0\n\
         function init(args)\n\
         \x20 for n = 1, {functions} do requests[n] = wrk.format(\"GET\", \"/invoke/f\" .. n - 1 .. \"/\") end\n\
         end\n\
         function request()\n\
         \x20 last = last % {functions} + 1\n\
         \x20 return requests[last]\n\
         end\n"
    )
}

/// Writes a script to a directory that wrk can read.
pub fn script(directory: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = directory.path().join(name);
    fs::write(&path, text).expect("a script can be written");
    path
}

/// Runs wrk to its end.
///
/// # Panics
/// When wrk fails, or a response is an error: such figures are not comparable.
pub fn run(load: &Load, url: &str) -> Outcome {
    // One connection has no use for a second thread; for many, one thread is a bottleneck.
    let threads = load.connections.min(2);
    let mut command = Command::new("wrk");
    command.arg(format!("-t{threads}")).arg(format!("-c{}", load.connections)).arg(format!("-d{}s", load.seconds));
    command.args(["--latency", "--timeout", "10s"]);
    if let Some(script) = &load.script {
        command.arg("--script").arg(AsRef::<Path>::as_ref(script));
    }
    let output = command.arg(url).output().expect("wrk can be run");
    let text = String::from_utf8_lossy(&output.stdout);
    parse(&text).unwrap_or_else(|why| panic!("wrk, {url}: {why}\n{text}{}", String::from_utf8_lossy(&output.stderr)))
}

/// Parses the output of `wrk --latency`. Connection errors and statuses other than 2xx and 3xx are errors.
fn parse(text: &str) -> Result<Outcome, String> {
    let value = |prefix: &str| text.lines().find_map(|line| line.trim().strip_prefix(prefix)).map(str::trim);
    if let Some(errors) = value("Socket errors:") {
        return Err(format!("socket errors: {errors}"));
    }
    if let Some(count) = value("Non-2xx or 3xx responses:") {
        return Err(format!("{count} refusals"));
    }
    let rate = value("Requests/sec:").and_then(|rate| rate.parse().ok()).ok_or("no rate")?;
    let latency = |percent| value(percent).and_then(microseconds).ok_or(format!("no latency for {percent}"));
    Ok(Outcome { rate, p50: latency("50%")?, p99: latency("99%")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
Running 2s test @ http://127.0.0.1:8080/
  2 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.50ms  812.00us  15.05ms   71.13%
    Req/Sec    29.60k     1.50k   32.10k    68.00%
  Latency Distribution
     50%    1.08ms
     75%    1.52ms
     90%    2.20ms
     99%   12.04ms
  118311 requests in 2.00s, 6.77MB read
Requests/sec:  59012.34
Transfer/sec:      3.38MB
";

    #[test]
    fn parses_rate_and_percentiles() {
        assert_eq!(parse(OUTPUT), Ok(Outcome { rate: 59_012.34, p50: 1080.0, p99: 12_040.0 }));
    }

    #[test]
    fn run_with_errors_is_error() {
        let errors = format!("{OUTPUT}  Socket errors: connect 0, read 3, write 0, timeout 0\n");
        assert!(parse(&errors).unwrap_err().contains("read 3"));
        let refused = format!("{OUTPUT}  Non-2xx or 3xx responses: 17\n");
        assert!(parse(&refused).unwrap_err().contains("17"));
    }

    #[test]
    fn missing_value_is_named() {
        assert_eq!(parse("unable to connect"), Err("no rate".to_owned()));
        let cut = OUTPUT.replace("99%", "98%");
        assert!(parse(&cut).unwrap_err().contains("99%"));
    }
}
