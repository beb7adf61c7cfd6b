//! QEMU as a child, with its monitor: it is paused, saved and restored.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, Write},
    os::unix::{net::UnixStream, process::CommandExt},
    process::{Child, exit},
    thread,
    time::Duration,
};

use nix::sys::{prctl::set_pdeathsig, signal::Signal};
use serde_json::{Value, json};

use crate::machine::Machine;

const INTERVAL: Duration = Duration::from_millis(1);

/// A guest that QEMU runs.
#[derive(Debug)]
pub struct Guest {
    pub machine: Machine,
    monitor: BufReader<UnixStream>,
}

impl Guest {
    /// Boots a machine, or restores it from a file with its memory, after which it is paused. The process ends with QEMU.
    pub fn start(mut machine: Machine, memory: Option<&str>) -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        let mut qemu = machine.qemu();
        qemu.args("-chardev socket,id=monitor,fd=0 -mon chardev=monitor,mode=control".split(' '));
        if let Some(memory) = memory {
            // As words of a shell.
            qemu.args(["-incoming", &format!("exec:cat '{memory}'"), "-S"]);
        }
        qemu.stdin(std::os::fd::OwnedFd::from(theirs));
        // SAFETY: the call takes a number, and allocates nothing.
        unsafe { qemu.pre_exec(|| set_pdeathsig(Signal::SIGKILL).map_err(Into::into)) };
        // QEMU opens them.
        machine.taps.clear();
        let child = qemu.spawn()?;
        drop(qemu);
        thread::spawn(move || follow(child));
        let mut guest = Self { machine, monitor: BufReader::new(ours) };
        guest.execute("qmp_capabilities", json!({}))?;
        if memory.is_some() {
            guest.until("query-status", |answer| answer["status"] != "inmigrate")?;
        }
        Ok(guest)
    }

    pub fn pause(&mut self) -> io::Result<()> {
        self.execute("stop", json!({})).map(drop)
    }

    pub fn resume(&mut self) -> io::Result<()> {
        self.execute("cont", json!({})).map(drop)
    }

    /// Writes the memory of a paused guest, as a file of its size at least.
    pub fn save(&mut self, memory: &str) -> io::Result<()> {
        self.execute("migrate-set-parameters", json!({ "max-bandwidth": 1_u64 << 40 }))?;
        let place = fs::canonicalize(memory)?;
        self.execute("migrate", json!({ "uri": format!("exec:cat > '{}'", place.display()) }))?;
        self.until("query-migrate", |answer| answer["status"] == "completed")?;
        let file = OpenOptions::new().write(true).open(memory)?;
        let length = file.metadata()?.len();
        file.set_len(length.max(self.machine.layout.memory()))
    }

    #[expect(clippy::disallowed_methods, reason = "nothing else runs on this thread")]
    fn until(&mut self, command: &str, is_over: impl Fn(&Value) -> bool) -> io::Result<()> {
        loop {
            let answer = self.execute(command, json!({}))?;
            if is_over(&answer) {
                return Ok(());
            }
            if answer["status"] == "failed" {
                return Err(io::Error::other("the migration failed"));
            }
            thread::sleep(INTERVAL);
        }
    }

    fn execute(&mut self, command: &str, arguments: Value) -> io::Result<Value> {
        let line = json!({ "execute": command, "arguments": arguments }).to_string() + "\n";
        self.monitor.get_mut().write_all(line.as_bytes())?;
        loop {
            let mut line = String::new();
            if self.monitor.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let mut answer: Value = serde_json::from_str(&line)?;
            if let Some(error) = answer.get("error") {
                return Err(io::Error::other(error.to_string()));
            }
            if let Some(result) = answer.get_mut("return") {
                return Ok(result.take());
            }
        }
    }
}

/// Ends as QEMU does.
#[expect(clippy::disallowed_methods, reason = "the main thread waits for requests")]
fn follow(mut child: Child) {
    let status = child.wait();
    exit(status.ok().and_then(|status| status.code()).unwrap_or(1));
}

/// Opens a file that is to be written.
pub fn create(path: &str) -> io::Result<File> {
    OpenOptions::new().create(true).write(true).truncate(true).open(path)
}
