//! The commands that speak to a running daemon: what they print in a pipe and on a terminal, and their exit statuses.

mod act;
mod completions;
mod dev;
mod history;
mod invoke;
mod logs;
mod new;
mod places;
mod show;
mod terminals;
mod top;

use integration::{Daemon, Function, Setup};

/// Starts a daemon with two functions: `f` works, `broken` exits before it is ready.
async fn daemon() -> Daemon {
    let broken = Function::new("broken").flag("--say").flag("no database").flag("--exit-at-boot").flag("3");
    Setup::default().function(Function::new("f")).function(broken).start().await
}

/// Returns the id of the only instance of a function, once it is idle.
async fn instance(daemon: &Daemon, function: &str) -> String {
    let page = daemon.until(function, "idle", 1).await;
    page["instances"][0]["id"].as_str().unwrap().to_owned()
}
