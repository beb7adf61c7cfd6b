//! The benchmark function of `unifaas bench`. Each path does work of a known size, checks its result and says by
//! `x-bench-us` how long the work took by the clock of the instance. Work with a wrong result is answered with 500.
//!
//! `work/` has the work, `files.rs` the files that `/read` and `/unzip` need. The HTTP server is that of `hello`.

mod files;
mod query;
mod work;

#[cfg(test)]
mod tests;

use std::{borrow::Cow, env, ffi::OsString, fs, io, path::Path, thread, time::Instant};

pub use files::write_files;

use hello::Reply;
use query::Query;

/// Largest size that a request can ask for, in MiB.
const MAX_MIB: u64 = 4096;
/// Longest wait or work that a request can ask for, in microseconds.
const MAX_MICROS: u64 = 60_000_000;

/// Serves, or writes the files: the arguments are a callback URL, or `files` and a directory.
///
/// # Errors
/// As [`run`] and [`write_files`].
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> io::Result<()> {
    let mut arguments = arguments.into_iter();
    match (arguments.next(), arguments.next()) {
        (Some(word), Some(directory)) if word == "files" => write_files(Path::new(&directory)),
        (callback, _) => run(callback.map(|url| url.to_string_lossy().into_owned())),
    }
}

/// Listens as `hello` does, and serves until the process is ended.
///
/// # Errors
/// As `hello::run`.
pub fn run(callback: Option<String>) -> io::Result<()> {
    hello::run_handler(callback, answer)
}

/// Why a request was not answered with 200.
#[derive(Debug, PartialEq)]
enum Problem {
    /// A value of the query is missing or out of range.
    Usage(String),
    /// There is no such path, or this instance lacks what it needs.
    Unsupported(String),
    /// The result of the work was wrong.
    Wrong(String),
}

fn answer(_method: &str, target: &str) -> Reply {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    #[allow(clippy::disallowed_methods, reason = "this is a program of its own, without tokio")]
    let began = Instant::now();
    let done = perform(path, &Query(query));
    let took = began.elapsed().as_micros();
    let (status, body) = match done {
        Ok(body) => ("200 OK", body),
        Err(Problem::Usage(why)) => ("400 Bad Request", Cow::Owned(format!("{why}\n").into_bytes())),
        Err(Problem::Unsupported(why)) => ("404 Not Found", Cow::Owned(format!("{why}\n").into_bytes())),
        Err(Problem::Wrong(why)) => ("500 Internal Server Error", Cow::Owned(format!("{why}\n").into_bytes())),
    };
    Reply { status, headers: format!("x-bench-us: {took}\r\n"), body }
}

fn perform(path: &str, query: &Query<'_>) -> Result<Cow<'static, [u8]>, Problem> {
    let text = |text: String| Ok(Cow::Owned(text.into_bytes()));
    match path {
        "/" | "/hello" => Ok(Cow::Borrowed(b"Hello\n")),
        "/info" => text(info()),
        "/delay" => {
            work::wait(query.number("us", None, MAX_MICROS)?);
            text("ok\n".to_owned())
        }
        "/burn" => text(format!("{}\n", work::burn(query.number("us", None, MAX_MICROS)?))),
        "/hold" => text(format!("{} MiB\n", work::hold(query.number("mib", None, MAX_MIB)?))),
        "/fib" => text(format!("{}\n", work::fib(query.number("n", Some(1_000_000_000), 100_000_000_000)?)?)),
        "/fft" => text(format!("{}\n", work::fft(query.number("n", Some(1 << 20), 1 << 24)?)?)),
        "/matrix" => text(format!("{}\n", work::matrix(query.number("n", Some(1024), 8192)?)?)),
        "/alloc" => text(format!("{} pages\n", work::alloc(query.number("mib", Some(50), MAX_MIB)?)?)),
        "/read" => text(format!("{} bytes\n", files::read()?)),
        "/unzip" => text(format!("{} bytes\n", files::unzip()?)),
        "/static" => Ok(work::content(query.number("mib", Some(50), MAX_MIB)?)),
        _ => Err(Problem::Unsupported(format!("there is no path {path}"))),
    }
}

/// Returns what this instance is, as JSON.
fn info() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().replace(['"', '\\'], "");
    let processors = thread::available_parallelism().map_or(0, usize::from);
    let clock = read("/sys/devices/system/clocksource/clocksource0/current_clocksource");
    let kernel = read("/proc/sys/kernel/osrelease");
    let version = env!("CARGO_PKG_VERSION");
    let files = files::directory().is_some();
    format!(
        "{{\"version\":\"{version}\",\"arch\":\"{}\",\"processors\":{processors},\"clock_source\":\"{clock}\",\
         \"kernel\":\"{kernel}\",\"files\":{files}}}\n",
        env::consts::ARCH
    )
}
