//! One line of output: its time, its number, where it came from, and its text.

use std::fmt;

use serde::Serialize;

use crate::wall_time::WallTime;

/// Where a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OutputStream {
    /// Standard output of a process or container.
    Out,
    /// Standard error of a process, a container or a VMM.
    Err,
    /// The console of a virtual machine, or the terminal of a container.
    Console,
    /// The daemon itself, about the instance.
    Platform,
}

impl OutputStream {
    /// Those that an instance prints to.
    pub const PRINTED: [Self; 3] = [Self::Out, Self::Err, Self::Console];

    /// Returns the stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Out => "out",
            Self::Err => "err",
            Self::Console => "console",
            Self::Platform => "platform",
        }
    }
}

impl fmt::Display for OutputStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A line of output. Its secrets are redacted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OutputLine {
    /// The position among all events of the daemon.
    #[serde(skip)]
    pub sequence: u64,
    /// The position among the lines of its instance; the first is 1.
    pub number: u64,
    /// When it was read.
    pub time: WallTime,
    /// Where it came from.
    pub stream: OutputStream,
    /// The text, without the end of the line.
    pub text: Box<str>,
}
