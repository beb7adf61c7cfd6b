//! Makes an event into a request, with the headers of CloudEvents 1.0 in binary mode. Pure.

use std::fmt::Write as _;

use bytes::Bytes;

use crate::inbox::StoredRequest;

/// What has happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Tells it from other events of its source.
    pub id: String,
    /// Where it comes from, such as `/cron/report/0`.
    pub source: String,
    /// What kind it is of, such as `unifaas.cron`.
    pub kind: &'static str,
    /// When it was, as RFC 3339.
    pub time: String,
    /// What it is about within its source, such as a topic.
    pub subject: Option<String>,
    /// The media type of the body, if that is known.
    pub content_type: Option<String>,
}

impl Event {
    /// Makes the request for the function. `path`: with the query.
    pub fn request(&self, method: &str, path: &str, body: Bytes) -> StoredRequest {
        let request = StoredRequest::new(method, path, body)
            .header("ce-specversion", "1.0")
            .header("ce-id", encoded(&self.id))
            .header("ce-source", encoded(&self.source))
            .header("ce-type", self.kind)
            .header("ce-time", encoded(&self.time));
        let request = match &self.subject {
            Some(subject) => request.header("ce-subject", encoded(subject)),
            None => request,
        };
        match &self.content_type {
            Some(content_type) => request.header("content-type", content_type.as_str()),
            None => request,
        }
    }
}

/// Returns the media type of a text that has none: JSON, or plain text. `None`: it is empty.
pub fn content_type_of(text: &str) -> Option<String> {
    let kind = match text.trim_start().bytes().next()? {
        b'{' | b'[' => "application/json",
        _ => "text/plain; charset=utf-8",
    };
    Some(kind.to_owned())
}

/// Percent-encodes what CloudEvents does not allow in a header.
fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            0x21..=0x7e if !b"\"%".contains(&byte) => encoded.push(char::from(byte)),
            _ => {
                // A string takes whatever is written to it.
                let _ = write!(encoded, "%{byte:02X}");
            }
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_those_of_cloud_events_in_binary_mode() {
        let event = Event {
            id: "7".to_owned(),
            source: "/mqtt/f/0".to_owned(),
            kind: "unifaas.mqtt",
            time: "2026-05-01T08:00:00Z".to_owned(),
            subject: Some("home/küche 1/50%".to_owned()),
            content_type: None,
        };
        let request = event.request("POST", "/x?y=1", Bytes::from_static(b"body"));
        assert_eq!(
            (request.method.as_str(), request.target.as_str(), &request.body[..]),
            ("POST", "/x?y=1", &b"body"[..])
        );
        let headers = request.headers.iter().map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value)));
        let expected = [
            "ce-specversion: 1.0",
            "ce-id: 7",
            "ce-source: /mqtt/f/0",
            "ce-type: unifaas.mqtt",
            "ce-time: 2026-05-01T08:00:00Z",
            "ce-subject: home/k%C3%BCche%201/50%25",
        ];
        assert_eq!(headers.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn body_that_looks_like_json_is_named_so() {
        let kinds = ["", " {\"a\": 1}", "[1]", "hello"].map(content_type_of);
        let kinds = kinds.each_ref().map(Option::as_deref);
        let json = Some("application/json");
        assert_eq!(kinds, [None, json, json, Some("text/plain; charset=utf-8")]);
    }
}
