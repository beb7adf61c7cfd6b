//! wrk, which drives the load: its command line, and its words turned into numbers.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use crate::stats::microseconds;

/// What wrk found out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outcome {
    /// Requests per second.
    pub rate: f64,
    /// Latency that half of the requests kept, in microseconds.
    pub p50: f64,
    /// Latency that all but one percent kept, in microseconds.
    pub p99: f64,
}

/// How to load something.
#[derive(Debug, Clone)]
pub struct Load {
    /// Kept alive, always busy.
    pub connections: usize,
    /// For so many seconds; wrk knows whole ones only.
    pub seconds: u64,
    /// A script in Lua, where GET is not enough.
    pub script: Option<PathBuf>,
}

/// POSTs of 1 MiB.
pub const POST_MIB: &str = "wrk.method = \"POST\"\nwrk.body = string.rep(\"x\", 1048576)\n";

/// Requests that go to so many functions in turn, `f0` and so on.
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

/// Writes a script where wrk can read it.
pub fn script(directory: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = directory.path().join(name);
    fs::write(&path, text).expect("a script can be written");
    path
}

/// Runs it to its end.
///
/// # Panics
/// When wrk fails, or any answer is not what it should be: such figures would compare nothing.
pub fn run(load: &Load, url: &str) -> Outcome {
    // A second thread for one connection would have nothing to do; for many, one is a bottleneck.
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

/// Reads what `wrk --latency` prints. Errors of the connections and statuses other than 2xx and 3xx are failures.
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
    fn the_rate_and_two_percentiles_are_read() {
        assert_eq!(parse(OUTPUT), Ok(Outcome { rate: 59_012.34, p50: 1080.0, p99: 12_040.0 }));
    }

    #[test]
    fn a_run_with_errors_is_no_result() {
        let errors = format!("{OUTPUT}  Socket errors: connect 0, read 3, write 0, timeout 0\n");
        assert!(parse(&errors).unwrap_err().contains("read 3"));
        let refused = format!("{OUTPUT}  Non-2xx or 3xx responses: 17\n");
        assert!(parse(&refused).unwrap_err().contains("17"));
    }

    #[test]
    fn what_is_not_there_is_named() {
        assert_eq!(parse("unable to connect"), Err("no rate".to_owned()));
        let cut = OUTPUT.replace("99%", "98%");
        assert!(parse(&cut).unwrap_err().contains("99%"));
    }
}
