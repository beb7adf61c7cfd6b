//! Runs commands of the binary against a daemon, in a pipe or on a terminal.

use std::{
    fs::File,
    io::{Read, Write},
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use nix::pty::{Winsize, openpty};
use serde_json::Value;

use crate::{Daemon, SOON, eventually, eventually_blocking, home::unifaas, ms};

/// Columns of the terminal.
const COLUMNS: u16 = 120;

/// What a command did.
#[derive(Debug)]
pub struct Ran {
    /// Its exit status.
    pub status: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// Returns the binary with arguments, without settings of this host.
pub fn bare(arguments: &[&str]) -> Command {
    let mut command = Command::new(unifaas());
    command.args(arguments).env("UNIFAAS_CONFIG", "/dev/null").env_remove("UNIFAAS_URL").stdin(Stdio::null());
    command
}

impl Daemon {
    /// Returns the binary with arguments, which speaks to this daemon.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = bare(arguments);
        command.env("UNIFAAS_URL", format!("http://{}", self.listen)).current_dir(self.home.path("registry"));
        command
    }

    /// Runs a command in pipes.
    pub async fn cli(&self, arguments: &[&str]) -> Ran {
        run(self.command(arguments)).await
    }

    /// Runs a command on a terminal.
    pub async fn cli_on_terminal(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Ran {
        let mut command = self.command(arguments);
        command.env("TERM", "xterm").env_remove("NO_COLOR").envs(variables.iter().copied());
        tokio::task::spawn_blocking(move || on_terminal(command)).await.expect("the command can be run")
    }
}

/// Runs a command in pipes to its end.
///
/// # Panics
/// When it cannot be run.
pub async fn run(mut command: Command) -> Ran {
    let output = tokio::task::spawn_blocking(move || command.output()).await;
    output.expect("the thread ends").expect("the command can be run").into()
}

/// Runs a command in a directory.
pub async fn run_in(directory: &Path, mut command: Command) -> Ran {
    command.current_dir(directory);
    run(command).await
}

/// A command that runs on a terminal. Dropping it ends it.
#[derive(Debug)]
pub struct Interactive {
    child: Child,
    master: File,
    shown: Arc<Mutex<Vec<u8>>>,
}

impl Interactive {
    /// Starts a command.
    ///
    /// # Panics
    /// When it cannot be run.
    pub fn start(mut command: Command) -> Self {
        let size = Winsize { ws_row: 20, ws_col: COLUMNS, ws_xpixel: 0, ws_ypixel: 0 };
        let pair = openpty(&size, None).expect("a terminal");
        let input = pair.slave.try_clone().expect("a descriptor");
        command.env("TERM", "xterm").env("NO_COLOR", "1");
        let child = command.stdin(input).stdout(pair.slave).stderr(Stdio::inherit()).spawn().expect("it can be run");
        let (master, shown) = (File::from(pair.master), Arc::<Mutex<Vec<u8>>>::default());
        let (mut reader, kept) = (master.try_clone().expect("a descriptor"), shown.clone());
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                kept.lock().expect("no panic").extend_from_slice(&buffer[..count]);
            }
        });
        Self { child, master, shown }
    }

    /// Sends keys.
    ///
    /// # Panics
    /// When the terminal is gone.
    pub fn press(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).expect("the terminal takes keys");
    }

    /// Returns all that it has shown, with its control sequences.
    ///
    /// # Panics
    /// When the reader has panicked.
    pub fn shown(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().expect("no panic")).into_owned()
    }

    /// Waits until the last frame satisfies a condition, and returns it.
    ///
    /// # Panics
    /// When that does not happen in time.
    #[track_caller]
    pub fn frame(&self, what: &str, condition: impl Fn(&str) -> bool) -> impl Future<Output = String> {
        let last = async || self.shown().rsplit("\x1b[H").next().unwrap_or_default().to_owned();
        eventually(SOON, what, last, move |frame| frame.ends_with("\x1b[J") && condition(frame))
    }

    /// Waits until the terminal is as it was before the full screen. What was shown may be read after the end.
    ///
    /// # Panics
    /// When that does not happen in time.
    #[track_caller]
    pub fn restored(&self) -> impl Future<Output = String> {
        let shown = async || self.shown();
        eventually(SOON, "the terminal is restored", shown, |shown| shown.ends_with("\x1b[?1049l"))
    }

    /// Waits for its end, and returns its exit status.
    ///
    /// # Panics
    /// When it does not end in time.
    #[track_caller]
    pub fn ended(&mut self) -> Option<i32> {
        let look = || self.child.try_wait().expect("it is a child");
        let status = eventually_blocking(ms(15_000), "the command ends", look, Option::is_some);
        status.and_then(|status| status.code())
    }
}

impl Drop for Interactive {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn on_terminal(mut command: Command) -> Ran {
    let size = Winsize { ws_row: 40, ws_col: COLUMNS, ws_xpixel: 0, ws_ypixel: 0 };
    let pair = openpty(&size, None).expect("a terminal");
    let mut child = command.stdout(pair.slave).stderr(Stdio::piped()).spawn().expect("the command can be run");
    // It holds the other end.
    drop(command);
    let mut master = File::from(pair.master);
    let reader = thread::spawn(move || {
        let (mut text, mut buffer) = (Vec::new(), [0; 4096]);
        // At the end, Linux returns an error.
        while let Ok(count @ 1..) = master.read(&mut buffer) {
            text.extend_from_slice(&buffer[..count]);
        }
        text
    });
    let mut err = String::new();
    let _ = child.stderr.take().expect("a pipe").read_to_string(&mut err);
    let status = child.wait().expect("it ends").code();
    let out = reader.join().expect("the terminal can be read");
    Ran { status, out: String::from_utf8_lossy(&out).replace("\r\n", "\n"), err }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { status: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
    }
}

impl Ran {
    /// Returns the output of a command that has succeeded.
    ///
    /// # Panics
    /// When it has not.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.status, Some(0), "{self:?}");
        self.out
    }

    /// Returns standard error of a command that has failed with this status and printed no data.
    ///
    /// # Panics
    /// When it has not.
    #[track_caller]
    pub fn failed(self, status: i32) -> String {
        assert_eq!((self.status, self.out.as_str()), (Some(status), ""), "{self:?}");
        self.err
    }

    /// Returns the output as JSON.
    ///
    /// # Panics
    /// When it is not.
    #[track_caller]
    pub fn json(self) -> Value {
        let text = self.ok();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }
}

/// Replaces what differs between runs, and returns the lines with single blanks: `ID` for instances, `TIME` for times,
/// `N ms` for durations, `PID` and `ADDRESS`.
pub fn golden(text: &str) -> Vec<String> {
    text.lines().map(golden_line).collect()
}

fn golden_line(line: &str) -> String {
    let words: Vec<_> = line.split_whitespace().collect();
    let mut shown: Vec<String> = Vec::new();
    for (at, word) in words.iter().enumerate() {
        let core = word.trim_end_matches([',', ':', '`']);
        let is_unit = |word: &&str| matches!(word.trim_end_matches([',', ':']), "ms" | "s" | "min");
        let replaced = match core {
            _ if words.get(at + 1).is_some_and(is_unit) && core.parse::<f64>().is_ok() => "N".to_owned(),
            _ if humantime::parse_rfc3339(core).is_ok() => "TIME".to_owned(),
            _ if core.starts_with("127.0.0.1:") => "ADDRESS".to_owned(),
            _ => core.split('/').map(|part| if is_id(part) { "ID" } else { part }).collect::<Vec<_>>().join("/"),
        };
        shown.push(replaced + &word[core.len()..]);
    }
    shown.join(" ")
}

fn is_id(word: &str) -> bool {
    word.len() == 16 && word.bytes().all(|byte| byte.is_ascii_hexdigit())
}
