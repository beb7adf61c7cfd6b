//! Logging: slog to standard error, human, JSON or for the journal, with the panics and the messages of the `log` crate.
//!
//! A slow or stopped reader of standard error costs messages, and never blocks a thread that serves.

mod journal;
mod options;
mod queue;

use std::{
    io::IsTerminal,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use slog::{Drain, FnValue, Logger, error, o};
use tokio::time::Instant;

pub use options::{Format, Level};
pub use queue::lost_lines;
use queue::queued;

/// How long the queued messages may take to be written at the end.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Between two messages about an event that peers can cause at any rate.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Keeps logging set up until it is dropped.
pub struct Logging {
    pub log: Logger,
    pub level: LogLevel,
    writer: Option<slog_async::AsyncGuard>,
    _scope: slog_scope::GlobalLoggerGuard,
}

impl Drop for Logging {
    fn drop(&mut self) {
        let (done, is_done) = mpsc::channel();
        let writer = self.writer.take();
        // The drop blocks until all messages are written, however long that takes.
        let waiter = thread::Builder::new().spawn(move || {
            drop(writer);
            done.send(())
        });
        if waiter.is_ok() {
            let _ = is_done.recv_timeout(FLUSH_TIMEOUT);
        }
    }
}

/// Which requests are logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum AccessLogMode {
    /// None.
    Off,
    /// Those that the platform answered with an error, and those that the function answered with 5xx.
    Failed,
    /// All.
    All,
}

/// The least important messages that are logged. Clones share it.
#[derive(Debug, Clone)]
pub struct LogLevel(Arc<AtomicUsize>);

impl LogLevel {
    fn new(level: Level) -> Self {
        Self(Arc::new(AtomicUsize::new(of_slog(level).as_usize())))
    }

    /// Changes it for all messages from now on.
    pub fn set(&self, level: Level) {
        self.0.store(of_slog(level).as_usize(), Ordering::Relaxed);
        log::set_max_level(bridged(level).to_level_filter());
    }

    fn allows(&self, level: slog::Level) -> bool {
        level.as_usize() <= self.0.load(Ordering::Relaxed)
    }
}

/// Limits the rate of one message, and counts those that were suppressed.
#[derive(Debug, Default)]
pub struct LogThrottle(Mutex<Throttled>);

#[derive(Debug, Default)]
struct Throttled {
    last: Option<Instant>,
    /// Events since then.
    count: u64,
}

impl LogThrottle {
    /// Counts an event. Returns the number of events since the last message if one is due.
    pub fn due(&self) -> Option<u64> {
        let mut throttled = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        throttled.count += 1;
        let now = Instant::now();
        if throttled.last.is_some_and(|last| now - last < LOG_INTERVAL) {
            return None;
        }
        throttled.last = Some(now);
        Some(std::mem::take(&mut throttled.count))
    }
}

/// Sets up logging for the whole process.
pub fn set_up(level: Level, format: Option<Format>) -> Logging {
    let (drain, writer) = match format.unwrap_or_else(default_format) {
        Format::Human => {
            let terminal = slog_term::FullFormat::new(slog_term::TermDecorator::new().stderr().build()).build();
            queued(terminal.filter(log_filter()).fuse())
        }
        Format::Json => {
            // Line-buffered: a message is written in dozens of pieces, each of which would be a system call.
            let json = slog_json::Json::new(std::io::LineWriter::new(std::io::stderr()))
                .add_key_value(o!(
                    "ts" => FnValue(|_| humantime::format_rfc3339_millis(std::time::SystemTime::now()).to_string()),
                    "level" => FnValue(|record| record.level().as_str().to_lowercase()),
                    "msg" => FnValue(|record| record.msg().to_string()),
                ))
                .build();
            queued(Mutex::new(json.filter(log_filter())).fuse())
        }
        Format::Journal => queued(journal::Journal::new(std::io::stderr()).filter(log_filter()).fuse()),
    };
    // Filtered before the queue: a message below the level must not wake the writer, least of all once per request.
    let log_level = LogLevel::new(level);
    let filter_level = log_level.clone();
    let filtered = drain.filter(move |record| filter_level.allows(record.level()));
    // A thread that ends after the writer may still log: that message is lost, which is no error.
    let log = Logger::root(filtered.ignore_res(), o!());
    let scope = slog_scope::set_global_logger(log.clone());
    // Fails only if a logger is set already.
    let _ = slog_stdlog::init_with_level(bridged(level));
    log_panics(log.clone());
    Logging { log, level: log_level, writer: Some(writer), _scope: scope }
}

/// Returns the format for the standard error that there is.
fn default_format() -> Format {
    if std::io::stderr().is_terminal() {
        Format::Human
    } else if journal::is_standard_error() {
        Format::Journal
    } else {
        Format::Json
    }
}

fn of_slog(level: Level) -> slog::Level {
    match level {
        Level::Error => slog::Level::Error,
        Level::Warn => slog::Level::Warning,
        Level::Info => slog::Level::Info,
        Level::Debug => slog::Level::Debug,
        Level::Trace => slog::Level::Trace,
    }
}

/// Returns the level of messages from other crates: warnings, and more only at the level `trace`.
fn bridged(level: Level) -> log::Level {
    match level {
        Level::Trace => log::Level::Debug,
        _ => log::Level::Warn,
    }
}

/// Returns whether a message has no secrets. Below warnings, bollard logs the body of each request, which contains
/// callback tokens and the values of `[env]`.
fn is_free_of_secrets(record: &slog::Record<'_>) -> bool {
    record.level().is_at_least(slog::Level::Warning) || !record.module().starts_with("bollard")
}

/// Returns whether a message tells what the access log does not. Each client that leaves or sends nonsense is an error to
/// actix-http.
fn is_news(record: &slog::Record<'_>) -> bool {
    // Its messages come through `tracing`, which passes on no module but the target.
    !record.tag().starts_with("actix_http::")
}

/// Returns a filter for messages with secrets, for those that are logged elsewhere, and for those at a rate that could
/// fill a disk.
fn log_filter() -> impl Fn(&slog::Record<'_>) -> bool + Send {
    // Sent several times a second while no connection can be accepted.
    let accepting = LogThrottle::default();
    move |record| {
        is_free_of_secrets(record)
            && is_news(record)
            && (record.module() != "actix_server::accept" || accepting.due().is_some())
    }
}

fn log_panics(log: Logger) {
    std::panic::set_hook(Box::new(move |panic| {
        let words = panic.payload_as_str().unwrap_or("a value that is no text");
        let at = panic.location().map(ToString::to_string).unwrap_or_default();
        error!(log, "panic"; "what" => words, "at" => at, "thread" => std::thread::current().name().map(str::to_owned));
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn throttled_message_is_due_once_an_interval_with_its_count() {
        let throttle = LogThrottle::default();
        assert_eq!((throttle.due(), throttle.due(), throttle.due()), (Some(1), None, None));
        tokio::time::advance(LOG_INTERVAL).await;
        assert_eq!((throttle.due(), throttle.due()), (Some(3), None));
    }
}
