//! What `check --host` asks the container engine: plain requests, because only a few fields of the answers matter.

use std::{env, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, StatusCode, client::conn::http1::Builder, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    task,
    time::timeout,
};

use crate::{commands::client::chain, sandbox::DEFAULT_ENGINE};

const TIMEOUT: Duration = Duration::from_secs(5);

/// The engine that the daemon would use with the same environment.
#[derive(Debug)]
pub struct Engine {
    host: String,
}

impl Engine {
    pub fn from_environment() -> Self {
        let host = env::var("DOCKER_HOST").ok().filter(|host| !host.is_empty());
        Self { host: host.unwrap_or_else(|| DEFAULT_ENGINE.to_owned()) }
    }

    /// Returns its version, and where it is.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn version(&self) -> Result<String, String> {
        let version = self.get("/version").await?.unwrap_or_default();
        Ok(format!("{} at {}", version["Version"].as_str().unwrap_or("of unknown version"), self.host))
    }

    /// Reads an object of the engine. `None`: it has none of this name.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub async fn get(&self, path: &str) -> Result<Option<Value>, String> {
        let asked = match self.host.split_once("://") {
            Some(("unix", path)) => UnixStream::connect(path).await.map(Stream::Unix),
            Some(("tcp" | "http", address)) => TcpStream::connect(address).await.map(Stream::Tcp),
            _ => return Err(format!("DOCKER_HOST is {}, neither unix://PATH nor tcp://HOST:PORT", self.host)),
        };
        let stream = asked.map_err(|error| format!("{} cannot be reached: {error}", self.host))?;
        let answer = match stream {
            Stream::Unix(stream) => timeout(TIMEOUT, get(stream, path)).await,
            Stream::Tcp(stream) => timeout(TIMEOUT, get(stream, path)).await,
        };
        answer.unwrap_or_else(|_| Err(format!("{} does not answer within {} s", self.host, TIMEOUT.as_secs())))
    }
}

enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

async fn get(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    path: &str,
) -> Result<Option<Value>, String> {
    let said = |error: hyper::Error| chain(&error);
    let (mut sender, connection) = Builder::new().handshake(TokioIo::new(stream)).await.map_err(said)?;
    task::spawn(connection);
    let request = Request::get(path).header(header::HOST, "engine").body(Full::<Bytes>::default());
    let response = sender.send_request(request.map_err(|error| error.to_string())?).await.map_err(said)?;
    let status = response.status();
    let body = response.into_body().collect().await.map_err(said)?.to_bytes();
    match status {
        StatusCode::NOT_FOUND => Ok(None),
        status if status.is_success() => Ok(serde_json::from_slice(&body).ok()),
        status => Err(format!("the engine answers {path} with {status}")),
    }
}
