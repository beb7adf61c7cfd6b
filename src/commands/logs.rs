//! `unifaas logs`: what functions have printed, and what they print.

use std::{
    collections::HashSet,
    time::{Duration, SystemTime},
};

use http_body_util::BodyExt;
use hyper::{Response, body::Incoming};
use serde_json::Value;

use super::{
    client::{Client, Subject, chain},
    error::CommandError,
    ps::string,
    terminal::{Output, Style, words},
};
use crate::cli::client::Logs;

const JSON_LINES: &str = "application/x-ndjson";
/// Longer lines than the daemon sends; a longer one is no line of output.
const MAX_LINE: usize = 64 << 10;

/// Prints the lines.
///
/// # Errors
/// Those of the client; [`CommandError::No`] when a stream breaks off.
pub async fn run(arguments: &Logs, output: &Output) -> Result<(), CommandError> {
    let mut client = Client::new(&arguments.daemon)?;
    let subject = arguments.name.as_deref().map_or(Subject::None, Subject::named);
    let mut selection = Selection { json: arguments.daemon.json, since: since(arguments.since), ended: None };
    if arguments.ended {
        selection.ended = Some(ended(&mut client, subject).await?);
    }
    let tail = arguments.tail.or(arguments.since.map(|_| usize::MAX));
    let mut path = match subject {
        Subject::None => "/debug/logs?".to_owned(),
        Subject::Function(name) => format!("/debug/logs?function={name}&"),
        Subject::Instance(id) => format!("/debug/logs?instance={id}&"),
    };
    // Lines of instances that run do not count for a tail of those that have ended.
    let asked = if arguments.ended { Some(usize::MAX) } else { tail };
    if let Some(tail) = asked {
        path += &format!("tail={tail}&");
    }
    if arguments.follow {
        path += "follow=1&";
    }
    let response = client.get(path.trim_end_matches(['?', '&']), JSON_LINES, subject).await?;
    let kept = tail.filter(|_| arguments.ended);
    print(response, &selection, kept, output).await
}

/// Which lines are printed, and how.
#[derive(Debug)]
struct Selection {
    json: bool,
    /// Lines from then on.
    since: Option<SystemTime>,
    /// Lines of these instances.
    ended: Option<HashSet<String>>,
}

impl Selection {
    /// Returns a line as it is printed, if it is.
    fn shown(&self, line: &str, output: &Output) -> Option<String> {
        let object: Value = serde_json::from_str(line).ok()?;
        if object["gap"].is_object() {
            let count = object["gap"]["lines"].as_u64().map_or("some".to_owned(), |count| count.to_string());
            words(&format!("--- {count} lines are missing here"));
            return self.json.then(|| line.to_owned());
        }
        let time = string(&object["time"]);
        let is_old = self.since.is_some_and(|since| humantime::parse_rfc3339(time).is_ok_and(|time| time < since));
        let is_of_others = self.ended.as_ref().is_some_and(|ids| !ids.contains(string(&object["instance"])));
        if is_old || is_of_others {
            return None;
        }
        if self.json {
            return Some(line.to_owned());
        }
        let stream = string(&object["stream"]);
        let whose = format!("{}/{}", string(&object["function"]), string(&object["instance"]));
        let text = string(&object["text"]);
        let text = match stream {
            "err" => output.styled(Style::Warning, text),
            "platform" => output.styled(Style::Note, text),
            _ => text.to_owned(),
        };
        Some(format!("{} {whose} {stream} {text}", output.styled(Style::Faint, time)))
    }
}

/// Prints the lines of a response as they come; with `kept`, only so many of the last ones at its end.
async fn print(
    response: Response<Incoming>,
    selection: &Selection,
    kept: Option<usize>,
    output: &Output,
) -> Result<(), CommandError> {
    let (mut body, mut pending, mut held) = (response.into_body(), Vec::new(), Vec::new());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| CommandError::No(format!("the output breaks off: {}", chain(&error))))?;
        pending.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line = String::from_utf8_lossy(&pending[..end]).into_owned();
            pending.drain(..=end);
            match (selection.shown(&line, output), kept) {
                (Some(shown), None) => output.line(&shown)?,
                (Some(shown), Some(_)) => held.push(shown),
                (None, _) => {}
            }
        }
        if pending.len() > MAX_LINE {
            return Err(CommandError::No("the daemon sends no lines".to_owned()));
        }
    }
    let skipped = held.len().saturating_sub(kept.unwrap_or_default());
    held[skipped..].iter().try_for_each(|line| output.line(line))
}

fn since(ago: Option<Duration>) -> Option<SystemTime> {
    ago.and_then(|ago| SystemTime::now().checked_sub(ago))
}

/// Returns the ids of the instances that have ended.
async fn ended(client: &mut Client, subject: Subject<'_>) -> Result<HashSet<String>, CommandError> {
    let functions = match subject {
        Subject::Function(name) => vec![name.to_owned()],
        Subject::Instance(id) => {
            let page = client.page(&format!("/debug/instances/{id}"), subject).await?;
            return Ok((page["state"] == "gone").then(|| id.to_owned()).into_iter().collect());
        }
        Subject::None => {
            super::ps::members(&client.summary().await?["functions"]).map(|(name, _)| name.clone()).collect()
        }
    };
    let mut ids = HashSet::new();
    for name in functions {
        let page = match client.page(&format!("/debug/functions/{name}"), Subject::Function(&name)).await {
            Err(CommandError::NotFound(_)) if matches!(subject, Subject::None) => continue,
            page => page?,
        };
        let ended = page["ended"].as_array().into_iter().flatten();
        ids.extend(ended.map(|instance| string(&instance["id"]).to_owned()));
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str =
        r#"{"function":"f","instance":"ab","number":1,"time":"2026-01-01T00:00:00.000Z","stream":"out","text":"x"}"#;

    fn shown(selection: &Selection) -> Option<String> {
        selection.shown(LINE, &Output::plain())
    }

    #[test]
    fn lines_are_selected_by_time_and_instance() {
        let all = || Selection { json: false, since: None, ended: None };
        assert_eq!(shown(&all()).unwrap(), "2026-01-01T00:00:00.000Z f/ab out x");
        assert_eq!(shown(&Selection { json: true, ..all() }).unwrap(), LINE);
        let since = humantime::parse_rfc3339("2026-01-01T00:00:00.001Z").ok();
        assert_eq!(shown(&Selection { since, ..all() }), None);
        assert_eq!(shown(&Selection { ended: Some(["cd".to_owned()].into()), ..all() }), None);
        assert!(shown(&Selection { ended: Some(["ab".to_owned()].into()), ..all() }).is_some());
    }
}
