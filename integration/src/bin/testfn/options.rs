//! The ways in which the function under test may misbehave before it serves.

use clap::{Parser, ValueEnum};

/// How to start, and how not to.
#[derive(Debug, Parser)]
pub(crate) struct Options {
    /// The URL to call when ready.
    pub callback: String,
    /// Says whose process this is, to those who read the process table.
    #[arg(long, default_value = "")]
    pub token: String,
    /// How often to call back.
    #[arg(long, default_value_t = 1)]
    pub callbacks: u32,
    /// The method to call back with.
    #[arg(long, default_value = "GET")]
    pub callback_method: String,
    /// Milliseconds to do nothing at first.
    #[arg(long, default_value_t = 0)]
    pub boot_delay: u64,
    /// Milliseconds from the callback to the first moment at which a connection is accepted.
    #[arg(long, default_value_t = 0)]
    pub listen_delay: u64,
    /// Exit with this status instead of serving.
    #[arg(long)]
    pub exit_at_boot: Option<u8>,
    /// Exit with this status as soon as the daemon has taken the callback.
    #[arg(long)]
    pub exit_after_callback: Option<u8>,
    /// A line to print at first; may be given more than once.
    #[arg(long)]
    pub say: Vec<String>,
    /// A variable whose value to print at first.
    #[arg(long)]
    pub say_variable: Option<String>,
    /// Do not end on SIGTERM.
    #[arg(long)]
    pub ignore_sigterm: bool,
    /// Start a second process, too.
    #[arg(long)]
    pub relative: Option<Relative>,
    /// Memory to hold from the start, in MiB.
    #[arg(long, default_value_t = 0)]
    pub allocate: usize,
    /// Drop a connection without a word when it brings a second request.
    #[arg(long)]
    pub forgetful: bool,
    /// Accept nobody, with as many connections waiting as may wait: further ones hang.
    #[arg(long)]
    pub full: bool,
    /// Be the second process.
    #[arg(long, hide = true)]
    pub linger: bool,
    /// As the second process, leave the session of the first.
    #[arg(long, hide = true)]
    pub own_session: bool,
}

/// Where a second process lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Relative {
    /// In the process group of the first.
    SameGroup,
    /// In a session of its own.
    OwnSession,
}
