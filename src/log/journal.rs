//! Log lines for the systemd journal: `<4>text key=value`. The journal adds the time, and takes the priority off.

use std::{
    env, fmt, fs,
    io::{self, Write},
    os::unix::fs::MetadataExt,
    sync::{Mutex, PoisonError},
};

use slog::{Drain, KV, Key, Level, OwnedKVList, Record, Serializer};

/// Where the kernel shows standard error.
const STANDARD_ERROR: &str = "/proc/self/fd/2";

/// Returns whether standard error is a connection to the journal.
pub fn is_standard_error() -> bool {
    let stream = env::var("JOURNAL_STREAM").unwrap_or_default();
    fs::metadata(STANDARD_ERROR).is_ok_and(|file| stream == format!("{}:{}", file.dev(), file.ino()))
}

/// Writes each message as one line.
pub struct Journal<W>(Mutex<W>);

impl<W: Write> Journal<W> {
    /// Writes to `output`.
    pub fn new(output: W) -> Self {
        Self(Mutex::new(output))
    }
}

impl<W: Write> Drain for Journal<W> {
    type Ok = ();
    type Err = io::Error;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> io::Result<()> {
        let line = line(record, values);
        // The whole line at once, since standard error has no buffer.
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write_all(line.as_bytes())
    }
}

fn line(record: &Record<'_>, values: &OwnedKVList) -> String {
    let mut pairs = Pairs::default();
    // Writing to a string does not fail. Values that cannot be serialized are left out.
    let _ = values.serialize(record, &mut pairs);
    let _ = record.kv().serialize(record, &mut pairs);
    // slog lists the last value first.
    let pairs = pairs.0.iter().rev().map(|(key, value)| format!(" {key}={}", quoted(value)));
    let message = record.msg().to_string().replace(['\n', '\r'], " ");
    format!("<{}>{message}{}\n", priority(record.level()), pairs.collect::<String>())
}

/// Returns the priority of syslog.
fn priority(level: Level) -> u8 {
    match level {
        Level::Critical => 2,
        Level::Error => 3,
        Level::Warning => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// Quotes a value that is not one plain word.
fn quoted(value: &str) -> String {
    let is_plain = |char: char| !char.is_whitespace() && !char.is_control() && !matches!(char, '"' | '=' | '\\');
    if !value.is_empty() && value.chars().all(is_plain) { value.to_owned() } else { format!("{value:?}") }
}

#[derive(Default)]
struct Pairs(Vec<(Key, String)>);

impl Serializer for Pairs {
    fn emit_arguments(&mut self, key: Key, value: &fmt::Arguments<'_>) -> slog::Result {
        self.0.push((key, value.to_string()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use slog::{Logger, info, o, warn};

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_message_is_one_line_with_its_priority_and_values_in_order() {
        let written = Written::default();
        let log = Logger::root(Journal::new(written.clone()).ignore_res(), o!("function" => "f", "kind" => "vm"));
        warn!(log, "it has\nended"; "exit" => 1, "reason" => "no \"disk\"\nleft", "empty" => "", "pair" => "a=b");
        info!(log, "ready");
        let expected = "<4>it has ended exit=1 reason=\"no \\\"disk\\\"\\nleft\" empty=\"\" pair=\"a=b\" function=f kind=vm\n\
                        <6>ready function=f kind=vm\n";
        assert_eq!(String::from_utf8(written.0.lock().unwrap().clone()).unwrap(), expected);
    }
}
