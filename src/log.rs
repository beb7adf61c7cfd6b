//! Where messages go: slog, to standard error, human or JSON; panics and the `log` crate's messages go the same way.
//!
//! Whoever reads them may be slow, or have stopped: that costs messages, and never the time of a thread that has others to
//! serve.

use std::{
    io::IsTerminal,
    sync::{Mutex, PoisonError, mpsc},
    thread,
    time::Duration,
};

use slog::{Drain, FnValue, Level, Logger, error, o};

use tokio::time::Instant;

use crate::cli;

/// Messages that may wait to be written; when a burst is larger the rest is lost, and it is told how many. Each takes
/// 96 bytes from the start.
const QUEUE: usize = 4096;
/// How long those that wait at the end may take to be written.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Between two lines about something that others can bring about as often as they like.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Logging for as long as it lives.
pub struct Logging {
    pub log: Logger,
    writer: Option<slog_async::AsyncGuard>,
    _scope: slog_scope::GlobalLoggerGuard,
}

impl Drop for Logging {
    fn drop(&mut self) {
        let (done, is_done) = mpsc::channel();
        let writer = self.writer.take();
        // Dropping it waits for what is left to be written, however long that takes.
        let waiter = thread::Builder::new().spawn(move || {
            drop(writer);
            done.send(())
        });
        if waiter.is_ok() {
            let _ = is_done.recv_timeout(LAST_LINES);
        }
    }
}

/// Keeps a line from being written as often as somebody else wants.
#[derive(Debug, Default)]
pub struct LogThrottle(Mutex<Saying>);

#[derive(Debug, Default)]
struct Saying {
    last: Option<Instant>,
    /// How often it could have been said since.
    unsaid: u64,
}

impl LogThrottle {
    /// Whether to say it now; how often it could have been said since it last was.
    pub fn say(&self) -> Option<u64> {
        let mut saying = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        saying.unsaid += 1;
        let now = Instant::now();
        if saying.last.is_some_and(|last| now - last < LOG_INTERVAL) {
            return None;
        }
        saying.last = Some(now);
        Some(std::mem::take(&mut saying.unsaid))
    }
}

/// Sets logging up for the whole process.
pub fn set_up(level: cli::Level, format: Option<cli::Format>) -> Logging {
    let human = match format {
        Some(format) => format == cli::Format::Human,
        None => std::io::stderr().is_terminal(),
    };
    let level = match level {
        cli::Level::Error => Level::Error,
        cli::Level::Warn => Level::Warning,
        cli::Level::Info => Level::Info,
        cli::Level::Debug => Level::Debug,
        cli::Level::Trace => Level::Trace,
    };
    let (drain, writer) = if human {
        let terminal = slog_term::FullFormat::new(slog_term::TermDecorator::new().stderr().build()).build();
        queued(terminal.filter(worth_writing()).fuse())
    } else {
        // A line at a time: it is put together from dozens of pieces, each of which would be a system call.
        let json = slog_json::Json::new(std::io::LineWriter::new(std::io::stderr()))
            .add_key_value(o!(
                "ts" => FnValue(|_| humantime::format_rfc3339_millis(std::time::SystemTime::now()).to_string()),
                "level" => FnValue(|record| record.level().as_str().to_lowercase()),
                "msg" => FnValue(|record| record.msg().to_string()),
            ))
            .build();
        queued(std::sync::Mutex::new(json.filter(worth_writing())).fuse())
    };
    // In front of the queue: what nobody wants to read must not wake the writer, least of all once per request.
    let wanted = drain.filter_level(level);
    // A thread that is on its way out may still have something to say when the writer has gone: that is lost, not fatal.
    let log = Logger::root(wanted.ignore_res(), o!());
    let scope = slog_scope::set_global_logger(log.clone());
    let bridged = match level {
        Level::Trace => log::Level::Debug,
        // Other crates' chatter is for those who ask for everything.
        _ => log::Level::Warn,
    };
    // Fails only where a logger is set already.
    let _ = slog_stdlog::init_with_level(bridged);
    log_panics(log.clone());
    Logging { log, writer: Some(writer), _scope: scope }
}

/// Bollard tells the whole body of each request at this level: callback tokens and values of `[env]` among it.
fn may_be_written(record: &slog::Record<'_>) -> bool {
    record.level().is_at_least(Level::Warning) || !record.module().starts_with("bollard")
}

/// Leaves out what others could fill a disk with.
fn worth_writing() -> impl Fn(&slog::Record<'_>) -> bool + Send {
    // Several times a second for as long as no connection can be accepted.
    let accepting = LogThrottle::default();
    move |record| may_be_written(record) && (record.module() != "actix_server::accept" || accepting.say().is_some())
}

fn queued<D>(drain: D) -> (slog_async::Async, slog_async::AsyncGuard)
where
    D: Drain<Err = slog::Never, Ok = ()> + Send + 'static,
{
    slog_async::Async::new(drain)
        .chan_size(QUEUE)
        .overflow_strategy(slog_async::OverflowStrategy::DropAndReport)
        .build_with_guard()
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
    async fn what_others_bring_about_is_said_now_and_then_with_how_often_it_was() {
        let seldom = LogThrottle::default();
        assert_eq!((seldom.say(), seldom.say(), seldom.say()), (Some(1), None, None));
        tokio::time::advance(LOG_INTERVAL).await;
        assert_eq!((seldom.say(), seldom.say()), (Some(3), None));
    }
}
