//! The function under test: a small HTTP/1.1 server that can misbehave in every way a function may.
//!
//! It writes HTTP by hand, because a server library refuses to send most of what these tests need. This file starts it:
//! listening, the ready callback, failing starts. `options.rs` names the misbehaviours at boot, `answers.rs` those per
//! path, `abuse.rs` the attacks, `wire.rs` reads requests.

mod abuse;
mod answers;
mod options;
mod wire;

use std::{
    io::{self, Write},
    process::{Command, ExitCode, Stdio},
    rc::Rc,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use clap::Parser;
use nix::time::{ClockId, clock_gettime};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    signal::unix::{SignalKind, signal},
    task::LocalSet,
    time::{sleep, timeout},
};

use crate::{
    answers::Function,
    options::{Descendant, Options},
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let options = Options::parse();
    match LocalSet::new().run_until(run(options)).await {
        Ok(code) => code,
        Err(error) => {
            say(&format!("testfn: {error}"));
            ExitCode::from(99)
        }
    }
}

async fn run(options: Options) -> io::Result<ExitCode> {
    if options.linger {
        return linger().await;
    }
    // Held to the end: while the handler is installed, SIGTERM does not end the process.
    let _term = if options.ignore_sigterm { Some(signal(SignalKind::terminate())?) } else { None };
    for line in &options.say {
        say(line);
    }
    for line in &options.say_out {
        let _ = writeln!(io::stdout(), "{line}");
    }
    if let Some(name) = &options.say_variable {
        say(&format!("{name} is {}", std::env::var(name).unwrap_or_default()));
    }
    if let Some(descendant) = options.descendant {
        spawn_descendant(descendant, &options)?;
    }
    if options.spin {
        std::thread::spawn(|| {
            loop {
                std::hint::spin_loop()
            }
        });
    }
    if options.work > 0 {
        thread::spawn(move || work(Duration::from_millis(options.work)));
    }
    let _hoard = vec![1_u8; options.allocate << 20];
    sleep(Duration::from_millis(options.boot_delay)).await;
    if let Some(code) = options.exit_at_boot {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        say(&format!("exiting at {} us", now.as_micros()));
        return Ok(ExitCode::from(code));
    }

    let function = Rc::new(Function::new(options));
    if function.options.listen_delay > 0 {
        let early = Rc::clone(&function);
        tokio::task::spawn_local(async move { call_back_as_told(&early).await });
        sleep(Duration::from_millis(function.options.listen_delay)).await;
        serve(function).await
    } else {
        if function.options.full {
            return stay_full(&function).await;
        }
        let listener = listen().await?;
        call_back_as_told(&function).await;
        if let Some(code) = function.options.exit_after_callback {
            return Ok(ExitCode::from(code));
        }
        accept(function, listener).await
    }
}

/// Uses so much processor time in each period. A period that begins late is not skipped.
#[allow(clippy::disallowed_methods, reason = "a thread of its own")]
fn work(share: Duration) {
    const PERIOD: Duration = Duration::from_millis(100);
    let used = || clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from);
    let began = Instant::now();
    for period in 1.. {
        while used() < share * period {
            std::hint::black_box(period);
        }
        thread::sleep((PERIOD * period).saturating_sub(began.elapsed()));
    }
}

async fn serve(function: Rc<Function>) -> io::Result<ExitCode> {
    let listener = listen().await?;
    accept(function, listener).await
}

async fn listen() -> io::Result<TcpListener> {
    TcpListener::bind(address()).await
}

fn address() -> String {
    let host = std::env::var("HOST").unwrap_or_else(|_| "127.0.0.1".to_owned());
    let port = std::env::var("PORT").unwrap_or_else(|_| "8080".to_owned());
    format!("{host}:{port}")
}

async fn stay_full(function: &Function) -> io::Result<ExitCode> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(address().parse().map_err(io::Error::other)?)?;
    let listener = socket.listen(1)?;
    let mut waiting = Vec::new();
    while let Ok(connection) = timeout(Duration::from_millis(200), TcpStream::connect(listener.local_addr()?)).await {
        waiting.push(connection?);
    }
    call_back_as_told(function).await;
    std::future::pending().await
}

async fn accept(function: Rc<Function>, listener: TcpListener) -> io::Result<ExitCode> {
    loop {
        let (stream, _) = tokio::select! {
            accepted = listener.accept() => accepted?,
            () = function.deaf.notified() => break,
        };
        let function = Rc::clone(&function);
        tokio::task::spawn_local(async move {
            // A broken connection is no error of the function.
            let _ = answers::serve(&function, stream).await;
        });
    }
    drop(listener);
    std::future::pending().await
}

async fn call_back_as_told(function: &Function) {
    for _ in 0..function.options.callbacks {
        let options = &function.options;
        match call_back(&options.callback, &options.callback_method).await {
            Ok(status) => say(&format!("callback answered {status}")),
            Err(error) => say(&format!("callback failed: {error}")),
        }
    }
}

/// Makes a ready callback and returns the status of the response.
pub(crate) async fn call_back(url: &str, method: &str) -> io::Result<String> {
    let malformed = || io::Error::new(io::ErrorKind::InvalidInput, "not a callback URL");
    let rest = url.strip_prefix("http://").ok_or_else(malformed)?;
    let (authority, path) = rest.split_once('/').ok_or_else(malformed)?;
    let mut stream = TcpStream::connect(authority).await?;
    let head =
        format!("{method} /{path} HTTP/1.1\r\nHost: {authority}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    // The status is in the first bytes. gVisor may not report the end of the connection.
    let mut answer = vec![0; 128];
    let length = stream.read(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer[..length]);
    Ok(answer.split(' ').nth(1).unwrap_or("nothing").to_owned())
}

/// Prints a line that the daemon keeps.
pub(crate) fn say(line: &str) {
    // There is no other output to report a failure to.
    let _ = writeln!(io::stderr(), "{line}");
}

/// Starts a second process that ignores SIGTERM and never exits.
fn spawn_descendant(descendant: Descendant, options: &Options) -> io::Result<()> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["none", "--linger", "--token", &options.token]).stdin(Stdio::null());
    if descendant == Descendant::OwnSession {
        command.arg("--own-session");
    }
    command.spawn().map(drop)
}

async fn linger() -> io::Result<ExitCode> {
    if std::env::args().any(|argument| argument == "--own-session") {
        nix::unistd::setsid()?;
    }
    let mut term = signal(SignalKind::terminate())?;
    loop {
        term.recv().await;
    }
}
