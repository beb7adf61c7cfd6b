//! A container engine with scripted responses, for tests.

use std::{cell::RefCell, rc::Rc};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixListener,
    task,
};

use super::engine::Engine;

/// The response to the request for the version.
pub const OLD: &str = "200 {\"ApiVersion\":\"1.41\"}";

/// The request lines that the engine received.
pub type Asked = Rc<RefCell<Vec<String>>>;

/// Answers each connection with the next of `answers`, a status and a body, and repeats the last one. An empty answer
/// closes the connection.
///
/// # Panics
/// Outside of a `LocalSet`.
pub fn mock_engine(answers: &'static [&'static str]) -> (TempDir, Engine, Asked) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("engine.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let asked = Asked::default();
    let received = asked.clone();
    task::spawn_local(async move {
        for count in 0.. {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            let length = stream.read(&mut request).await.unwrap();
            let request = String::from_utf8_lossy(&request[..length]).into_owned();
            received.borrow_mut().push(request.lines().next().unwrap_or_default().to_owned());
            if let Some((status, body)) = answers[count.min(answers.len() - 1)].split_once(' ') {
                let head =
                    format!("HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
                stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
            }
        }
    });
    (directory, Engine::at(format!("unix://{}", path.display())), asked)
}
