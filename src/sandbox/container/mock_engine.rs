//! An engine that says what a test wants it to say.

use std::{cell::RefCell, rc::Rc};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixListener,
    task,
};

use super::engine::Engine;

/// The answer to the question for the version.
pub const OLD: &str = "200 {\"ApiVersion\":\"1.41\"}";

/// The first lines of the requests an engine got.
pub type Asked = Rc<RefCell<Vec<String>>>;

/// Answers each connection with the next of `answers`, and the last one again and again: a status and a body. An empty one
/// hangs up.
///
/// # Panics
/// Outside of a `LocalSet`.
pub fn mock_engine(answers: &'static [&'static str]) -> (TempDir, Engine, Asked) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("engine.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let asked = Asked::default();
    let heard = asked.clone();
    task::spawn_local(async move {
        for count in 0.. {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            let length = stream.read(&mut request).await.unwrap();
            let request = String::from_utf8_lossy(&request[..length]).into_owned();
            heard.borrow_mut().push(request.lines().next().unwrap_or_default().to_owned());
            if let Some((status, body)) = answers[count.min(answers.len() - 1)].split_once(' ') {
                let head =
                    format!("HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
                stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
            }
        }
    });
    (directory, Engine::at(format!("unix://{}", path.display())), asked)
}
