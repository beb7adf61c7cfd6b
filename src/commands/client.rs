//! The client of a running daemon: where it is, its pages, and invocations.
//!
//! One connection serves all pages that a command reads one after the other. A page may be hidden from this user. So before
//! it reports that a function does not exist, the client reads a page that always exists.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response,
    body::{Body, Incoming},
    client::conn::http1::{Builder, SendRequest},
    header,
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task,
    time::timeout,
};
use tokio_rustls::rustls::pki_types::ServerName;
use unifaas_actors::{InstanceId, spec};

use super::{error::CommandError, place::Place, trust};
use crate::cli::DaemonArgs;

/// Longest wait for a connection, and for the head of a page.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Has the code of an error of the platform.
pub const ERROR_CODE: &str = "x-unifaas-error";
/// Every response of a daemon has it.
const REQUEST_ID: &str = "x-request-id";
/// Says that no page of another site has caused a request.
const ACTION: &str = "x-unifaas";
const SUMMARY: &str = "/debug/summary";

/// A client of one daemon.
#[derive(Debug)]
pub struct Client {
    /// Where the admin pages are.
    pages: Place,
    /// Where functions are invoked.
    front: Place,
    kept: Option<SendRequest<Full<Bytes>>>,
}

/// What a page is about. `None`: the page always exists.
#[derive(Debug, Clone, Copy)]
pub enum Subject<'a> {
    None,
    Function(&'a str),
    Instance(&'a str),
}

impl<'a> Subject<'a> {
    /// Returns what an argument names: an instance if it looks like an id, else a function.
    pub fn named(name: &'a str) -> Self {
        if InstanceId::parse(name).is_some() { Self::Instance(name) } else { Self::Function(name) }
    }
}

impl Client {
    /// Makes the client of the daemon that the arguments or the settings name.
    ///
    /// # Errors
    /// When they are wrong.
    pub fn new(arguments: &DaemonArgs) -> Result<Self, CommandError> {
        let (front, pages) = Place::find(arguments)?;
        Ok(Self { pages, front, kept: None })
    }

    /// Returns the URL of the front.
    pub fn url(&self) -> String {
        self.front.url()
    }

    /// Returns the URL of the admin pages.
    pub fn pages_url(&self) -> String {
        self.pages.url()
    }

    /// Reads a page of JSON.
    ///
    /// # Errors
    /// When there is no daemon, or it does not show the page.
    pub async fn page(&mut self, path: &str, subject: Subject<'_>) -> Result<Value, CommandError> {
        let response = self.get(path, "application/json", subject).await?;
        let body = self.pages.read(response).await?;
        serde_json::from_slice(&body).map_err(|error| self.pages.unreachable(format!("{path} is no JSON: {error}")))
    }

    /// Requests a page that may go on for long.
    ///
    /// # Errors
    /// As [`page`](Self::page).
    pub async fn get(
        &mut self,
        path: &str,
        accept: &str,
        subject: Subject<'_>,
    ) -> Result<Response<Incoming>, CommandError> {
        self.check(subject)?;
        let request = Request::get(path).header(header::ACCEPT, accept);
        let response = self.send_page(request).await?;
        if response.status().is_success() { Ok(response) } else { Err(self.explain(response, subject).await) }
    }

    /// Reads a page of text.
    ///
    /// # Errors
    /// As [`page`](Self::page).
    pub async fn text(&mut self, path: &str, subject: Subject<'_>) -> Result<String, CommandError> {
        let response = self.get(path, "text/plain", subject).await?;
        Ok(String::from_utf8_lossy(&self.pages.read(response).await?).into_owned())
    }

    /// Asks the daemon to do something, and returns what it has done.
    ///
    /// # Errors
    /// As [`page`](Self::page); [`CommandError::NotAllowed`] when this user may not.
    pub async fn act(&mut self, path: &str, subject: Subject<'_>) -> Result<Value, CommandError> {
        self.act_within(TIMEOUT, path, subject).await
    }

    /// Does the same, with another limit for the answer.
    ///
    /// # Errors
    /// As [`act`](Self::act).
    pub async fn act_within(
        &mut self,
        limit: Duration,
        path: &str,
        subject: Subject<'_>,
    ) -> Result<Value, CommandError> {
        self.check(subject)?;
        let response = self.send_page_within(limit, Request::post(path).header(ACTION, "1")).await?;
        if !response.status().is_success() {
            return Err(self.explain(response, subject).await);
        }
        let body = self.pages.read(response).await?;
        serde_json::from_slice(&body).map_err(|error| self.pages.unreachable(format!("{path} is no JSON: {error}")))
    }

    /// Sends a body of that length to the daemon, however long that takes, and returns what it has done.
    ///
    /// # Errors
    /// As [`act`](Self::act).
    pub async fn upload<B>(&mut self, path: &str, length: u64, body: B) -> Result<Value, CommandError>
    where
        B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
    {
        let request = Request::post(path).header(ACTION, "1").header(header::CONTENT_LENGTH, length);
        let request = self.pages.complete(request, body)?;
        let mut sender = open(&self.pages).await?;
        let sent = Box::pin(sender.send_request(request)).await;
        let response = sent.map_err(|error| self.pages.failed(&error))?;
        if !response.status().is_success() {
            return Err(self.explain(response, Subject::None).await);
        }
        let body = self.pages.read(response).await?;
        serde_json::from_slice(&body).map_err(|error| self.pages.unreachable(format!("{path} is no JSON: {error}")))
    }

    /// Reads the summary of all functions.
    ///
    /// # Errors
    /// As [`page`](Self::page).
    pub async fn summary(&mut self) -> Result<Value, CommandError> {
        self.page(SUMMARY, Subject::None).await
    }

    /// Sends a request to a function, and returns the response without its body.
    ///
    /// # Errors
    /// When there is no daemon.
    pub async fn invoke(
        &self,
        request: http::request::Builder,
        body: Bytes,
    ) -> Result<Response<Incoming>, CommandError> {
        let request = self.front.complete(request, Full::new(body))?;
        let mut sender = open(&self.front).await?;
        let response = sender.send_request(request).await.map_err(|error| self.front.failed(&error))?;
        if response.headers().contains_key(REQUEST_ID) { Ok(response) } else { Err(self.front.foreign(&response)) }
    }

    /// Returns that there is no such function or instance, with the nearest name; or why the daemon shows no names.
    pub async fn missing(&mut self, subject: Subject<'_>) -> CommandError {
        let summary = match Box::pin(self.summary()).await {
            Ok(summary) => summary,
            Err(error) => return error,
        };
        let names: Vec<&str> =
            summary["functions"].as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
        CommandError::NotFound(match subject {
            Subject::None => "there is no such page: is the daemon older than this program?".to_owned(),
            Subject::Instance(id) => {
                format!("there is no instance {id}, or it ended long ago; `unifaas ps -a` lists them")
            }
            Subject::Function(name) => match spec::nearest(name, &names) {
                Some(near) => format!("there is no function {name}; did you mean {near}?"),
                None => format!("there is no function {name}; `unifaas ps` lists them"),
            },
        })
    }

    async fn send_page(&mut self, request: http::request::Builder) -> Result<Response<Incoming>, CommandError> {
        self.send_page_within(TIMEOUT, request).await
    }

    async fn send_page_within(
        &mut self,
        limit: Duration,
        request: http::request::Builder,
    ) -> Result<Response<Incoming>, CommandError> {
        let request = self.pages.complete(request, Full::new(Bytes::new()))?;
        let mut kept = self.kept.take();
        if let Some(sender) = &mut kept
            && sender.ready().await.is_err()
        {
            kept = None;
        }
        let mut sender = match kept {
            Some(sender) => sender,
            None => open(&self.pages).await?,
        };
        let response = timeout(limit, sender.send_request(request)).await;
        let response =
            response.map_err(|_| self.pages.unreachable(format!("no answer within {} s", limit.as_secs())))?;
        let response = response.map_err(|error| self.pages.failed(&error))?;
        self.kept = Some(sender);
        Ok(response)
    }

    /// Refuses names that cannot be in a path.
    fn check(&self, subject: Subject<'_>) -> Result<(), CommandError> {
        match subject {
            Subject::Function(name) => match spec::check_name(name) {
                Ok(()) => Ok(()),
                Err(error) => Err(CommandError::NotFound(format!("there is no function {name:?}: {error}"))),
            },
            Subject::Instance(_) | Subject::None => Ok(()),
        }
    }

    /// Returns why a page was refused.
    async fn explain(&mut self, response: Response<Incoming>, subject: Subject<'_>) -> CommandError {
        let status = response.status();
        let Some(code) =
            response.headers().get(ERROR_CODE).map(|code| String::from_utf8_lossy(code.as_bytes()).into_owned())
        else {
            return self.pages.foreign(&response);
        };
        let problem = match self.pages.read(response).await {
            Ok(body) => serde_json::from_slice(&body).unwrap_or(Value::Null),
            Err(error) => return error,
        };
        let detail = problem["detail"].as_str().unwrap_or_default();
        match code.as_str() {
            "no_such_function" | "no_such_instance" => self.missing(subject).await,
            "no_such_page" if !matches!(subject, Subject::None) => self.missing(subject).await,
            "no_such_page" => CommandError::NotAllowed(format!(
                "the daemon at {} does not show its pages to this user or host, see \"Who sees /debug\" in docs/observability.md",
                self.pages.url()
            )),
            "forbidden" => CommandError::NotAllowed(format!("the daemon at {}: {detail}", self.pages.url())),
            code => CommandError::No(format!("{} {code}: {detail}", status.as_u16())),
        }
    }
}

impl Place {
    /// Adds what every request to this place has.
    fn complete<B>(&self, request: http::request::Builder, body: B) -> Result<Request<B>, CommandError> {
        let has_host = request.headers_ref().is_some_and(|headers| headers.contains_key(header::HOST));
        let request = if has_host { request } else { request.header(header::HOST, self.authority()) };
        request.body(body).map_err(|error| CommandError::Usage(format!("this cannot be sent: {error}")))
    }

    /// Reads a body to its end.
    pub async fn read(&self, response: Response<Incoming>) -> Result<Bytes, CommandError> {
        let body = response.into_body().collect().await.map_err(|error| self.unreachable(chain(&error)))?;
        Ok(body.to_bytes())
    }

    /// Returns that another program has answered here.
    fn foreign(&self, response: &Response<Incoming>) -> CommandError {
        self.unreachable(format!("what answers is no UniFaaS daemon (status {})", response.status()))
    }

    /// Returns that a request has failed, and what to do if this is a port with TLS.
    fn failed(&self, error: &hyper::Error) -> CommandError {
        let reason = chain(error);
        if self.certificate.is_some() || !(error.is_parse() || error.is_incomplete_message()) {
            return self.unreachable(reason);
        }
        self.unreachable(format!(
            "{reason}. Is that a port with TLS? Then name it as https://{} (--url or UNIFAAS_URL), and its certificate as \
             `tls-cert` in the settings (UNIFAAS_TLS_CERT).",
            self.authority()
        ))
    }

    /// Returns that the daemon cannot be reached here.
    pub fn unreachable(&self, reason: String) -> CommandError {
        CommandError::NoDaemon { url: self.url(), origin: self.origin.clone(), reason }
    }
}

async fn open<B>(place: &Place) -> Result<SendRequest<B>, CommandError>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
{
    let connecting = TcpStream::connect((place.host.as_str(), place.port));
    let stream = match timeout(TIMEOUT, connecting).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(place.unreachable(error.to_string())),
        Err(_) => return Err(place.unreachable(format!("no connection within {} s", TIMEOUT.as_secs()))),
    };
    let Some(certificate) = &place.certificate else { return handshake(place, stream).await };
    let connector = trust::connector(certificate).map_err(CommandError::Usage)?;
    let name = ServerName::try_from(place.host.clone()).map_err(|error| place.unreachable(error.to_string()))?;
    match timeout(TIMEOUT, connector.connect(name, stream)).await {
        Ok(Ok(stream)) => handshake(place, stream).await,
        Ok(Err(error)) => {
            Err(place.unreachable(format!("TLS with the certificate {}: {error}", certificate.display())))
        }
        Err(_) => Err(place.unreachable(format!("no TLS within {} s", TIMEOUT.as_secs()))),
    }
}

async fn handshake<B>(
    place: &Place,
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) -> Result<SendRequest<B>, CommandError>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
{
    let handshake = Builder::new().handshake(TokioIo::new(stream)).await;
    let (sender, connection) = handshake.map_err(|error| place.unreachable(chain(&error)))?;
    // Its errors are those of the request.
    task::spawn(connection);
    Ok(sender)
}

/// Returns an error with its reasons.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(reason) = source {
        text = format!("{text}: {reason}");
        source = reason.source();
    }
    text
}
