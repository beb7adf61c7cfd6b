//! What tests ask a daemon: requests, its pages, and its log.

use std::{
    future::Future,
    io::{Read, Write},
    net::SocketAddr,
    time::Duration,
};

use hyper::{Request, Response, body::Incoming};
use serde_json::Value;

use crate::{
    SOON,
    client::{Body, Connection, Reply, body_of, empty, request},
    daemon::Daemon,
    eventually,
    function::Function,
};

/// Longest page that is printed, in bytes.
const MAX_PAGE: u64 = 64 << 10;

impl Daemon {
    /// Opens a connection to the front.
    ///
    /// # Panics
    /// When the connection is refused.
    pub async fn connect(&self) -> Connection {
        Connection::open(self.listen).await.expect("the daemon accepts connections")
    }

    /// Sends a request over a new connection.
    ///
    /// # Errors
    /// When the connection ends before the response is complete.
    pub async fn send(&self, request: Request<Body>) -> hyper::Result<Reply> {
        self.connect().await.send(request).await
    }

    /// Sends a request over a new connection and returns that connection with the response head.
    ///
    /// # Panics
    /// When there is no response.
    pub async fn start(&self, request: Request<Body>) -> (Connection, Response<Incoming>) {
        let mut connection = self.connect().await;
        let response = connection.start(request).await.expect("an answer");
        (connection, response)
    }

    /// Sends a GET.
    ///
    /// # Panics
    /// When there is no complete response.
    pub async fn get(&self, path: &str) -> Reply {
        self.send(request("GET", path, empty())).await.unwrap_or_else(|error| panic!("GET {path}: {error:?}"))
    }

    /// Sends a POST.
    ///
    /// # Panics
    /// When there is no complete response.
    pub async fn post(&self, path: &str, body: &str) -> Reply {
        let request = request("POST", path, body_of(body.to_owned()));
        self.send(request).await.unwrap_or_else(|error| panic!("POST {path}: {error:?}"))
    }

    /// Requests an admin page from the listener that serves them.
    pub(crate) async fn page(&self, path: &str) -> Reply {
        let mut connection = Connection::open(self.admin.unwrap_or(self.listen)).await.expect("the admin pages");
        let page = connection.send(request("GET", path, empty())).await;
        page.unwrap_or_else(|error| panic!("GET {path}: {error:?}"))
    }

    /// Returns the content of `/debug`.
    pub async fn debug(&self) -> Value {
        self.page("/debug").await.ok().json()
    }

    /// Returns the content of `/debug/functions/<name>`.
    pub async fn function(&self, name: &str) -> Value {
        self.page(&format!("/debug/functions/{name}")).await.ok().json()
    }

    /// Returns the instances of a function, as `/debug` lists them.
    ///
    /// # Panics
    /// When there is no list.
    pub async fn instances(&self, function: &str) -> Vec<Value> {
        let mut function = self.function(function).await;
        match function["instances"].take() {
            Value::Array(instances) => instances,
            other => panic!("no list of instances: {other}"),
        }
    }

    /// Returns the records of a function's starts, the last one first.
    ///
    /// # Panics
    /// When there is no list.
    pub async fn boots(&self, function: &str) -> Vec<Value> {
        let mut page = self.page(&format!("/debug/boots?function={function}")).await.ok().json();
        match page["boots"].take() {
            Value::Array(boots) => boots,
            other => panic!("no list of starts: {other}"),
        }
    }

    /// Returns a counter of a function.
    ///
    /// # Panics
    /// When there is no such counter.
    pub async fn counter(&self, function: &str, name: &str) -> u64 {
        let function = self.function(function).await;
        function["counters"][name].as_u64().unwrap_or_else(|| panic!("no counter {name} in {function}"))
    }

    /// Waits until `/debug/functions/<name>` satisfies a condition, and returns its content.
    ///
    /// # Panics
    /// When the condition is not met in time.
    #[track_caller]
    pub fn settled(
        &self,
        name: &str,
        what: impl Into<String>,
        condition: impl Fn(&Value) -> bool,
    ) -> impl Future<Output = Value> {
        let path = format!("/debug/functions/{name}");
        let page = async move || {
            let reply = self.page(&path).await;
            if reply.status == 200 { reply.json() } else { Value::Null }
        };
        let what = format!("{name}: {}", what.into());
        eventually(SOON, what, page, move |page| !page.is_null() && condition(page))
    }

    /// Waits until `count` instances of a function are in a state, and returns the function's page.
    ///
    /// # Panics
    /// When that does not happen in time.
    #[track_caller]
    pub fn until(&self, function: &str, state: &str, count: usize) -> impl Future<Output = Value> {
        let wanted = state.to_owned();
        self.settled(function, format!("{count} {state}"), move |function| {
            let instances = function["instances"].as_array().into_iter().flatten();
            instances.filter(|instance| instance["state"] == wanted.as_str()).count() == count
        })
    }

    /// Waits until a GET is answered with a status, and returns the response.
    ///
    /// # Panics
    /// When that does not happen in time.
    #[track_caller]
    pub fn answers(&self, path: &str, status: u16) -> impl Future<Output = Reply> {
        let (what, path) = (format!("{path} is answered with {status}"), path.to_owned());
        eventually(SOON, what, async move || self.get(&path).await, move |reply| reply.status == status)
    }

    /// Waits until the log, which a thread of its own writes, contains a text; returns the log.
    ///
    /// # Panics
    /// When that does not happen in time.
    #[track_caller]
    pub fn logged(&self, text: &str) -> impl Future<Output = String> {
        let text = text.to_owned();
        eventually(SOON, format!("{text:?} is logged"), async || self.log(), move |log| log.contains(&text))
    }

    /// Waits for a line of the log with this message, and returns the last such line.
    ///
    /// # Panics
    /// When there is none in time.
    #[track_caller]
    pub fn logged_line(&self, message: &str) -> impl Future<Output = Value> {
        let message = message.to_owned();
        let line = move |log: &str| {
            let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            lines.rev().find(|line| line["msg"] == message.as_str())
        };
        let found = line.clone();
        let log = eventually(SOON, "the message is logged", async || self.log(), move |log| found(log).is_some());
        async move { line(&log.await).unwrap_or_default() }
    }

    /// Waits until an instance is gone, and returns its page.
    ///
    /// # Panics
    /// When that does not happen in time.
    #[track_caller]
    pub fn ended_instance(&self, id: &str) -> impl Future<Output = Value> {
        let path = format!("/debug/instances/{id}");
        let page = async move || self.page(&path).await.ok().json();
        eventually(SOON, format!("instance {id} is gone"), page, |page| page["state"] == "gone")
    }
}

/// Requests a page outside of a runtime, and returns the response or the error as text.
pub fn page_blocking(from: SocketAddr, path: &str) -> String {
    const TIMEOUT: Duration = Duration::from_secs(2);
    let page = || {
        let mut stream = std::net::TcpStream::connect_timeout(&from, TIMEOUT)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {from}\r\nConnection: close\r\n\r\n")?;
        let mut page = Vec::new();
        stream.take(MAX_PAGE).read_to_end(&mut page)?;
        std::io::Result::Ok(String::from_utf8_lossy(&page).into_owned())
    };
    page().unwrap_or_else(|error| error.to_string())
}

/// Returns whether the daemon can put instances into cgroups on this host, and prints a line if not.
pub async fn cgroups_are_usable() -> bool {
    let daemon = Daemon::with(Function::new("f")).await;
    daemon.get("/invoke/f/pid").await.ok();
    let usable = daemon.instances("f").await[0]["resources"].to_string().contains("cgroup");
    if !usable {
        eprintln!("skipped: the daemon has no cgroups here");
    }
    usable
}

/// Returns an integer member of a JSON object.
///
/// # Panics
/// When it is missing or no integer.
#[track_caller]
pub fn number(value: &Value, member: &str) -> u64 {
    value[member].as_u64().unwrap_or_else(|| panic!("no {member} in {value}"))
}
