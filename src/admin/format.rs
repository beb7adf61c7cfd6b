//! The forms in which output and events are sent: text, a JSON object per line, or server-sent events.

use std::fmt::{Display, Write as _};

use actix_web::http::header::{self, HeaderMap};
use serde::Serialize;
use unifaas_actors::{InstanceId, OutputLine};

/// The form of a response, by its `Accept`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Text,
    JsonLines,
    EventStream,
}

/// A line of output, and whose it is.
#[derive(Debug, Serialize)]
struct LineOf<'a> {
    function: &'a str,
    instance: InstanceId,
    #[serde(flatten)]
    line: &'a OutputLine,
}

/// Lines that a reader has missed.
#[derive(Debug, Serialize)]
struct Gap {
    /// `None`: not known.
    lines: Option<u64>,
}

impl Format {
    /// Returns the form that the client of a request prefers.
    pub fn of(headers: &HeaderMap) -> Self {
        let accepted = headers.get_all(header::ACCEPT).filter_map(|value| value.to_str().ok());
        let mut kinds = accepted.flat_map(|value| value.split(',')).map(|kind| kind.split(';').next().unwrap_or(kind));
        kinds.find_map(Self::of_kind).unwrap_or(Self::Text)
    }

    fn of_kind(kind: &str) -> Option<Self> {
        match kind.trim() {
            "text/event-stream" => Some(Self::EventStream),
            "application/x-ndjson" | "application/json" => Some(Self::JsonLines),
            "text/plain" | "text/*" | "*/*" => Some(Self::Text),
            _ => None,
        }
    }

    /// Returns the value of `Content-Type`.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; charset=utf-8",
            Self::JsonLines => "application/x-ndjson",
            Self::EventStream => "text/event-stream",
        }
    }

    /// Appends a line of output.
    pub fn put_line(self, out: &mut String, function: &str, instance: InstanceId, line: &OutputLine) {
        match self {
            Self::Text => {
                let OutputLine { time, stream, text, .. } = line;
                let _ = writeln!(out, "{time} {function}/{instance} {stream} {text}");
            }
            Self::JsonLines => {
                out.push_str(&json(&LineOf { function, instance, line }));
                out.push('\n');
            }
            Self::EventStream => {
                put_event(out, "log", Some(line.sequence), &json(&LineOf { function, instance, line }));
            }
        }
    }

    /// Appends that lines are missing here.
    pub fn put_gap(self, out: &mut String, lines: Option<u64>) {
        match self {
            Self::Text => {
                let count: &dyn Display = lines.as_ref().map_or(&"some", |lines| lines);
                let _ = writeln!(out, "--- {count} lines are missing here");
            }
            Self::JsonLines => {
                let _ = writeln!(out, "{{\"gap\":{}}}", json(&Gap { lines }));
            }
            Self::EventStream => put_event(out, "gap", None, &json(&Gap { lines })),
        }
    }
}

/// Appends a server-sent event. `data` is JSON, which has no line breaks.
pub fn put_event(out: &mut String, name: &str, id: Option<u64>, data: &str) {
    if let Some(id) = id {
        let _ = writeln!(out, "id: {id}");
    }
    let _ = write!(out, "event: {name}\ndata: {data}\n\n");
}

/// Returns a value as JSON.
pub fn json(content: &(impl Serialize + ?Sized)) -> String {
    // What is shown are numbers, strings and maps with names as keys, all of which can be written.
    serde_json::to_string(content).unwrap_or_else(|_| "null".to_owned())
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;
    use unifaas_actors::{OutputLog, OutputStream};

    use super::*;

    #[test]
    fn the_first_known_kind_decides() {
        for (accepted, format) in [
            (None, Format::Text),
            (Some("*/*"), Format::Text),
            (Some("text/event-stream"), Format::EventStream),
            (Some("text/html, application/x-ndjson;q=0.9, text/plain"), Format::JsonLines),
            (Some("image/png"), Format::Text),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(accepted) = accepted {
                headers.insert(header::ACCEPT, HeaderValue::from_static(accepted));
            }
            assert_eq!(Format::of(&headers), format, "{accepted:?}");
        }
    }

    #[test]
    fn lines_and_gaps_have_three_forms() {
        let log = OutputLog::default();
        log.write(OutputStream::Err, "ein \"Wörtchen\"\n".as_bytes());
        let (line, id) = (log.tail(1).remove(0), InstanceId::parse("00000000000000ab").unwrap());
        let written = |format: Format| {
            let mut out = String::new();
            format.put_line(&mut out, "f", id, &line);
            format.put_gap(&mut out, Some(7));
            format.put_gap(&mut out, None);
            out
        };
        let OutputLine { time, sequence, .. } = *line;
        assert_eq!(
            written(Format::Text),
            format!(
                "{time} f/00000000000000ab err ein \"Wörtchen\"\n--- 7 lines are missing here\n--- some lines are missing here\n"
            )
        );
        let object = format!(
            "{{\"function\":\"f\",\"instance\":\"00000000000000ab\",\"number\":1,\"time\":\"{time}\",\"stream\":\"err\",\
             \"text\":\"ein \\\"Wörtchen\\\"\"}}"
        );
        let gaps = "{\"gap\":{\"lines\":7}}\n{\"gap\":{\"lines\":null}}\n";
        assert_eq!(written(Format::JsonLines), format!("{object}\n{gaps}"));
        assert_eq!(
            written(Format::EventStream),
            format!(
                "id: {sequence}\nevent: log\ndata: {object}\n\nevent: gap\ndata: {{\"lines\":7}}\n\n\
                 event: gap\ndata: {{\"lines\":null}}\n\n"
            )
        );
    }
}
