//! Options: misbehaviour of the function under test before it serves.

use clap::{Parser, ValueEnum};

/// How to start.
#[derive(Debug, Parser)]
pub(crate) struct Options {
    /// The URL to call when ready.
    pub callback: String,
    /// Identifies the owner of this process in the process table.
    #[arg(long, default_value = "")]
    pub token: String,
    /// Number of callbacks.
    #[arg(long, default_value_t = 1)]
    pub callbacks: u32,
    /// Method of the callback.
    #[arg(long, default_value = "GET")]
    pub callback_method: String,
    /// Milliseconds to wait at first.
    #[arg(long, default_value_t = 0)]
    pub boot_delay: u64,
    /// Milliseconds from the callback until connections are accepted.
    #[arg(long, default_value_t = 0)]
    pub listen_delay: u64,
    /// Exit with this status instead of serving.
    #[arg(long)]
    pub exit_at_boot: Option<u8>,
    /// Exit with this status as soon as the callback was answered.
    #[arg(long)]
    pub exit_after_callback: Option<u8>,
    /// A line to print at first; may be repeated.
    #[arg(long)]
    pub say: Vec<String>,
    /// A line to print to standard output after those; may be repeated.
    #[arg(long)]
    pub say_out: Vec<String>,
    /// A variable whose value is printed at first.
    #[arg(long)]
    pub say_variable: Option<String>,
    /// Ignore SIGTERM.
    #[arg(long)]
    pub ignore_sigterm: bool,
    /// Start a second process.
    #[arg(long)]
    pub descendant: Option<Descendant>,
    /// Memory to allocate at start, in MiB.
    #[arg(long, default_value_t = 0)]
    pub allocate: usize,
    /// Answer every request of this number with 500, such as 10 for each tenth one.
    #[arg(long)]
    pub fail_every: Option<u64>,
    /// Keep one thread busy all the time.
    #[arg(long)]
    pub spin: bool,
    /// Wait before the answer to every request of this number, such as 100 for each hundredth one.
    #[arg(long)]
    pub slow_every: Option<u64>,
    /// Answer nothing for a while at every request of this number.
    #[arg(long)]
    pub stall_every: Option<u64>,
    /// How long slow answers and stalls take, in milliseconds.
    #[arg(long, default_value_t = 200)]
    pub slow_ms: u64,
    /// Milliseconds of processor time to use in each 100 ms, without any request.
    #[arg(long, default_value_t = 0)]
    pub work: u64,
    /// Close a connection without a response when it carries a second request.
    #[arg(long)]
    pub forgetful: bool,
    /// Accept no connection and keep the listen queue full, so that further connections hang.
    #[arg(long)]
    pub full: bool,
    /// Run as the second process.
    #[arg(long, hide = true)]
    pub linger: bool,
    /// As the second process, leave the session of the first.
    #[arg(long, hide = true)]
    pub own_session: bool,
}

/// Placement of the second process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Descendant {
    /// In the process group of the first.
    SameGroup,
    /// In a session of its own.
    OwnSession,
}
