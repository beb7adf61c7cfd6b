//! Requests to a guest before its snapshot is taken, and to each clone before its first request.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::json;
use tokio::time::timeout;
use unifaas_actors::{
    InstanceId,
    sandbox::{RestoreError, Route},
};

use crate::sandbox::readiness;

/// How long a hook may take.
const HOOK_TIMEOUT: Duration = Duration::from_secs(1);
/// Bytes of entropy that each clone gets.
const ENTROPY: usize = 64;

/// Requests `path` of a template. It has to be ready for its snapshot once it has answered.
///
/// # Errors
/// When the answer is not 2xx.
pub async fn prepare(route: &Route, path: &str) -> Result<(), String> {
    post(route, path, "{}").await.map_err(|error| error.to_string())
}

/// Requests `path` of a clone, which gets what has to differ between clones: the time, entropy, and its own id.
///
/// # Errors
/// When the answer is not 2xx.
pub async fn restored(route: &Route, path: &str, instance: InstanceId) -> Result<(), RestoreError> {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let entropy = BASE64_STANDARD.encode(rand::random::<[u8; ENTROPY]>());
    let body = json!({ "time": time, "entropy": entropy, "instance": instance.to_string() });
    post(route, path, &body.to_string()).await
}

async fn post(route: &Route, path: &str, body: &str) -> Result<(), RestoreError> {
    match timeout(HOOK_TIMEOUT, readiness::post(route, path, body)).await {
        Ok(Ok(Some(200..300))) => Ok(()),
        Ok(Ok(Some(status))) => Err(RestoreError::Failed(format!("POST {path} was answered with status {status}"))),
        Ok(Err(why)) => Err(RestoreError::Failed(format!("POST {path}: {why}"))),
        Ok(Ok(None)) | Err(_) => {
            Err(RestoreError::TimedOut(format!("POST {path} was not answered within {HOOK_TIMEOUT:?}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader, Read, Write},
        net::SocketAddr,
    };

    use super::*;

    /// Answers one request with a status line, and returns its body.
    fn server(answer: &'static str) -> (SocketAddr, std::thread::JoinHandle<serde_json::Value>) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let serve = move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut length = 0;
            for line in reader.by_ref().lines().map_while(Result::ok).take_while(|line| !line.is_empty()) {
                length = line.to_lowercase().strip_prefix("content-length: ").map_or(length, |it| it.parse().unwrap());
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            write!(stream, "HTTP/1.1 {answer}\r\ncontent-length: 0\r\n\r\n").unwrap();
            serde_json::from_slice(&body).unwrap()
        };
        (address, std::thread::spawn(serve))
    }

    #[tokio::test]
    async fn clone_gets_time_entropy_and_its_id() {
        let id = InstanceId::random();
        let mut bodies = Vec::new();
        for _ in 0..2 {
            let (address, served) = server("204 No Content");
            restored(&address.into(), "/restored", id).await.unwrap();
            bodies.push(served.join().unwrap());
        }
        let entropy = |body: &serde_json::Value| BASE64_STANDARD.decode(body["entropy"].as_str().unwrap()).unwrap();
        assert_eq!((entropy(&bodies[0]).len(), bodies[0]["instance"].as_str()), (ENTROPY, Some(&*id.to_string())));
        assert_ne!(entropy(&bodies[0]), entropy(&bodies[1]));
        assert!(bodies[0]["time"].as_f64().unwrap() > 1.7e9);
    }

    #[tokio::test(start_paused = true)]
    async fn clone_that_does_not_answer_in_time_has_not_failed() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let route = silent.local_addr().unwrap().into();
        let error = restored(&route, "/restored", InstanceId::random()).await.unwrap_err();
        assert_eq!(error, RestoreError::TimedOut("POST /restored was not answered within 1s".to_owned()));
    }

    #[tokio::test]
    async fn other_answers_are_failures() {
        let (address, served) = server("500 Internal Server Error");
        let said = prepare(&address.into(), "/prepare").await.unwrap_err();
        assert_eq!(said, "POST /prepare was answered with status 500");
        assert_eq!(served.join().unwrap(), json!({}));
        assert!(prepare(&address.into(), "/prepare").await.unwrap_err().starts_with("POST /prepare: "));
    }
}
