//! Processes. By hand: fork, exec, callback, and the daemon's request over a new connection.

use std::{
    io::{Read, Write},
    net::TcpListener,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use integration::{Function, Home, Setup};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::Starts;
use crate::{
    ask::{ForwardedRequest, first_byte},
    child::{Running, WITH_PARENT, free_port},
    options::Options,
    progress,
};

const ROUNDS: usize = 101;
/// Pause before each start, so that the kernel's cleanup of the last one does not disturb it.
const SETTLE_TIME: Duration = Duration::from_millis(20);

/// A prepared start by hand: everything that does not belong to the start is done.
#[derive(Debug)]
pub struct ByHand {
    command: Command,
    callback: TcpListener,
    port: u16,
    request: ForwardedRequest,
}

impl ByHand {
    /// Prepares a start.
    ///
    /// # Panics
    /// When no port is free.
    pub fn prepare(program: &Path, request: &ForwardedRequest) -> Self {
        let (callback, port) = (TcpListener::bind("127.0.0.1:0").expect("a port for callbacks"), free_port());
        let mut command = Command::new(program);
        command.arg(format!("http://{}/ready/x", callback.local_addr().unwrap()));
        command.env_clear().env("HOST", "127.0.0.1").env("PORT", port.to_string());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self { command, callback, port, request: request.clone() }
    }

    /// Starts the process, answers its callback and sends it a request.
    ///
    /// # Panics
    /// When it does not respond.
    pub fn run(mut self) -> Running {
        let running = Running::new(self.command.spawn().expect("the function can be run"));
        answer_callback(&self.callback);
        self.request.first_byte(([127, 0, 0, 1], self.port).into(), "/");
        running
    }
}

/// Waits for a callback and answers it.
///
/// # Panics
/// When the caller closes the connection.
pub fn answer_callback(listener: &TcpListener) {
    let (mut call, _) = listener.accept().expect("a callback");
    let _ = call.read(&mut [0; 1024]);
    call.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
}

/// Returns the single-use function that UniFaaS starts.
pub fn single_use(name: &str) -> Function {
    Function::new(name).program("lean").set("single-use", true).process("memory", 32)
}

/// Alternates starts by hand and through UniFaaS.
pub async fn starts(options: &Options) -> Starts {
    let home = Home::new();
    let lean = home.program("lean");
    let setup = Setup::at(&home).run_by(WITH_PARENT).function(ForwardedRequest::function());
    let daemon = setup.function(single_use("f")).start().await;
    let request = ForwardedRequest::of(daemon.listen);
    let (mut starts, rounds) = (Starts::default(), options.rounds(ROUNDS));
    progress(&format!("cold: process, {rounds} rounds"));
    // The first start finds everything cold, the file system included.
    for round in 0..=rounds {
        sleep(SETTLE_TIME).await;
        let prepared = ByHand::prepare(&lean, &request);
        let began = Instant::now();
        let running = prepared.run();
        let by_hand = began.elapsed();
        drop(running);
        sleep(SETTLE_TIME).await;
        let began = Instant::now();
        first_byte(daemon.listen, "/invoke/f/");
        let through = began.elapsed();
        daemon.settled("f", "no instance", |function| function["instances"] == json!([])).await;
        if round > 0 {
            starts.push(by_hand, through);
        }
    }
    starts
}
