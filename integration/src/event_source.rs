//! A client of server-sent events.

use std::collections::VecDeque;

use hyper::Request;
use serde_json::Value;

use crate::{
    Daemon,
    client::{Body, Connection, Pieces},
};

/// A response of server-sent events that is being read.
pub struct EventSource {
    pieces: Pieces,
    text: String,
    events: VecDeque<Event>,
    /// Comments so far.
    pub comments: usize,
    _connection: Connection,
}

/// One event.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Its name.
    pub name: String,
    /// Its id, if it has one.
    pub id: Option<u64>,
    /// Its data, which is JSON.
    pub data: Value,
}

impl EventSource {
    /// Opens a stream.
    ///
    /// # Panics
    /// When the response is none.
    pub async fn open(daemon: &Daemon, path: &str) -> Self {
        Self::resume(daemon, path, None).await
    }

    /// Opens a stream behind an event.
    ///
    /// # Panics
    /// When the response is none.
    pub async fn resume(daemon: &Daemon, path: &str, last: Option<u64>) -> Self {
        let (connection, response) = daemon.start(Self::request(path, last)).await;
        assert_eq!(response.status(), 200, "{path}");
        assert_eq!(response.headers()["content-type"], "text/event-stream", "{path}");
        let (text, events) = Default::default();
        Self { pieces: Pieces::of(response), text, events, comments: 0, _connection: connection }
    }

    /// Returns the request for a stream.
    ///
    /// # Panics
    /// When the path is not valid in a request.
    pub fn request(path: &str, last: Option<u64>) -> Request<Body> {
        let mut request = crate::request("GET", path, crate::empty());
        request.headers_mut().insert("accept", "text/event-stream".parse().expect("a value"));
        if let Some(last) = last {
            request.headers_mut().insert("last-event-id", last.to_string().parse().expect("a value"));
        }
        request
    }

    /// Returns the next event; `None` at the end of the stream.
    ///
    /// # Panics
    /// When the stream breaks, or is not well-formed.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            let piece = self.pieces.next().await?.expect("the stream goes on");
            self.text.push_str(std::str::from_utf8(&piece).expect("text"));
            while let Some((block, rest)) = self.text.split_once("\n\n") {
                match Event::parse(block) {
                    Some(event) => self.events.push_back(event),
                    None => self.comments += 1,
                }
                self.text = rest.to_owned();
            }
        }
    }

    /// Returns the next event of that name for which `is_wanted` holds.
    ///
    /// # Panics
    /// When the stream ends before, or nothing comes for a minute.
    pub async fn until(&mut self, name: &str, is_wanted: impl Fn(&Value) -> bool) -> Event {
        loop {
            let event = self.next().await.unwrap_or_else(|| panic!("the stream ended before {name}"));
            if event.name == name && is_wanted(&event.data) {
                return event;
            }
        }
    }
}

impl Event {
    /// Parses a block. `None`: it is a comment.
    fn parse(block: &str) -> Option<Self> {
        let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        if block.lines().all(|line| line.starts_with(':')) {
            return None;
        }
        let data = field("data").unwrap_or_else(|| panic!("no data in {block:?}"));
        Some(Self {
            name: field("event").unwrap_or("message").to_owned(),
            id: field("id").map(|id| id.parse().expect("a number")),
            data: serde_json::from_str(data).unwrap_or_else(|error| panic!("{error}: {data}")),
        })
    }
}
