//! `unifaas top`: the functions, or the nodes of the cluster, every second, until a key ends it. `view.rs` has what is shown, `keys.rs` the keys.

mod keys;
mod view;

use std::{
    io::{self, IsTerminal, Write},
    time::Duration,
};

use nix::sys::termios::{self, SetArg, Termios};
use serde_json::Value;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{Instant, MissedTickBehavior, interval},
};

use super::{
    client::{Client, Subject},
    error::CommandError,
    nodes,
    terminal::Output,
};
use crate::cli::client::Top;
use keys::Key;
use view::{Row, View, output_lines, rows};

const INTERVAL: Duration = Duration::from_secs(1);
/// The alternate screen, without cursor and without lines that wrap; and back.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";
/// Rows of a terminal that does not tell.
const HEIGHT: usize = 24;

/// Shows the functions. Without a terminal it prints one frame; with `--json`, an object every second.
///
/// # Errors
/// Those of the client.
pub async fn run(arguments: &Top, output: &Output) -> Result<(), CommandError> {
    let mut client = Client::new(&arguments.daemon)?;
    if arguments.daemon.json {
        let mut ticks = interval(INTERVAL);
        loop {
            ticks.tick().await;
            let page = if arguments.cluster { nodes::read(&mut client).await? } else { client.summary().await? };
            output.line(&page.to_string())?;
        }
    }
    if arguments.cluster {
        return cluster(&mut client, output).await;
    }
    let mut screen =
        Screen { view: View::default(), summary: client.summary().await?, rows: Vec::new(), text: String::new() };
    screen.rows = screen.view.chosen(rows(&screen.summary, None, 1.0));
    if output.width().is_none() || !io::stdin().is_terminal() {
        let all = screen.rows.len() + HEIGHT;
        let lines = screen.view.list(&screen.summary["daemon"], &client.url(), &screen.rows, all, output);
        return lines.iter().try_for_each(|line| output.line(line.trim_end()));
    }
    let raw = Raw::enter()?;
    let result = screen.show(&mut client).await;
    drop(raw);
    result
}

/// Shows the nodes until a key ends it. Without a terminal it prints one frame.
async fn cluster(client: &mut Client, output: &Output) -> Result<(), CommandError> {
    let mut page = nodes::read(client).await?;
    if output.width().is_none() || !io::stdin().is_terminal() {
        return nodes::lines(&page, output).iter().try_for_each(|line| output.line(line.trim_end()));
    }
    let _raw = Raw::enter()?;
    let mut keys = keys::read();
    let mut end = signal(SignalKind::terminate())?;
    let mut resized = signal(SignalKind::window_change())?;
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let output = Output::new();
        draw(&nodes::lines(&page, &output), &output)?;
        tokio::select! {
            key = keys.recv() => match key {
                None | Some(Key::Char('q') | Key::Escape | Key::Interrupt) => return Ok(()),
                Some(_) => {}
            },
            _ = ticks.tick() => page = nodes::read(client).await?,
            _ = resized.recv() => {}
            _ = end.recv() => return Ok(()),
        }
    }
}

/// Draws a frame: as many lines as the terminal has.
fn draw(lines: &[String], output: &Output) -> Result<(), CommandError> {
    let height = output.height().unwrap_or(HEIGHT);
    let mut frame = String::from("\x1b[H");
    for line in lines.iter().take(height) {
        frame += &format!("{line}\x1b[K\r\n");
    }
    frame.truncate(frame.trim_end_matches("\r\n").len());
    output.bytes((frame + "\x1b[J").as_bytes())
}

struct Screen {
    view: View,
    summary: Value,
    /// Those that are shown.
    rows: Vec<Row>,
    /// Output of a function, while that is shown.
    text: String,
}

impl Screen {
    async fn show(&mut self, client: &mut Client) -> Result<(), CommandError> {
        let mut keys = keys::read();
        let mut end = signal(SignalKind::terminate())?;
        let mut resized = signal(SignalKind::window_change())?;
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut taken = Instant::now();
        loop {
            self.draw(client)?;
            tokio::select! {
                key = keys.recv() => {
                    let Some(key) = key else { return Ok(()) };
                    if !self.view.press(key, &self.rows) {
                        return Ok(());
                    }
                    self.rows = self.view.chosen(std::mem::take(&mut self.rows));
                    self.read_output(client).await?;
                    // The filter may show other rows, and a new order needs all.
                    ticks.reset_immediately();
                }
                _ = ticks.tick() => {
                    let summary = client.summary().await?;
                    let seconds = taken.elapsed().as_secs_f64();
                    self.rows = self.view.chosen(rows(&summary, Some(&self.summary), seconds));
                    // A key may cause a sample before its time, which is too short for rates.
                    if seconds >= INTERVAL.as_secs_f64() / 2.0 {
                        (self.summary, taken) = (summary, Instant::now());
                    }
                    self.read_output(client).await?;
                }
                _ = resized.recv() => {}
                _ = end.recv() => return Ok(()),
            }
        }
    }

    async fn read_output(&mut self, client: &mut Client) -> Result<(), CommandError> {
        let Some(name) = self.view.output_of.clone() else { return Ok(()) };
        let path = format!("/debug/logs?function={name}");
        match client.text(&path, Subject::Function(&name)).await {
            Ok(text) => self.text = text,
            // The function was removed.
            Err(CommandError::NotFound(_)) => self.view.output_of = None,
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn draw(&self, client: &Client) -> Result<(), CommandError> {
        // The size may have changed.
        let output = Output::new();
        let (width, height) = (output.width().unwrap_or(usize::MAX), output.height().unwrap_or(HEIGHT));
        let lines = match &self.view.output_of {
            Some(name) => output_lines(name, &self.text, width, height, &output),
            None => self.view.list(&self.summary["daemon"], &client.url(), &self.rows, height, &output),
        };
        draw(&lines, &output)
    }
}

/// The terminal in raw mode, with the alternate screen. Dropping it restores both.
struct Raw(Termios);

impl Raw {
    fn enter() -> Result<Self, CommandError> {
        let before = termios::tcgetattr(io::stdin()).map_err(io::Error::from)?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        termios::tcsetattr(io::stdin(), SetArg::TCSADRAIN, &raw).map_err(io::Error::from)?;
        let raw = Self(before);
        print(ENTER)?;
        Ok(raw)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // The terminal may have gone.
        let _ = print(LEAVE);
        let _ = termios::tcsetattr(io::stdin(), SetArg::TCSADRAIN, &self.0);
    }
}

fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}
