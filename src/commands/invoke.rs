//! `unifaas invoke`: one request to a function, its answer, and why there is none.

use std::{
    fs,
    io::{self, Read},
};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::{Method, Request, Response, Uri, body::Incoming};
use serde_json::{Value, json};
use tokio::time::Instant;
use unifaas_actors::spec;

use super::{
    client::{Client, ERROR_CODE, Subject, chain},
    error::CommandError,
    ps::string,
    terminal::{Output, Table, millis, number, printable, text, words},
};
use crate::cli::client::Invoke;

/// Has the id of an invocation.
const INVOCATION: &str = "x-unifaas-invocation";
/// Lines of an instance that are shown for a failed request.
const MAX_LINES: usize = 10;
const OUTPUT: &str = "  | ";

/// Sends the request and prints the answer.
///
/// # Errors
/// [`CommandError::No`] when the platform answers with an error, or the function with 400 or more and `--fail` is given.
pub async fn run(arguments: &Invoke, output: &Output) -> Result<(), CommandError> {
    let mut client = Client::new(&arguments.daemon)?;
    let function = &arguments.function;
    if let Err(error) = spec::check_name(function) {
        return Err(CommandError::NotFound(format!("there is no function {function:?}: {error}")));
    }
    let body = arguments.data.as_deref().map(read).transpose()?;
    let method = arguments.method.as_deref().unwrap_or(if body.is_some() { "POST" } else { "GET" });
    let method: Method = method.parse().map_err(|_| CommandError::Usage(format!("{method:?} is no method")))?;
    let scope = if arguments.asynchronous { "async" } else { "invoke" };
    let mut request = Request::builder().method(method).uri(target(scope, function, &arguments.path)?);
    for (name, value) in &arguments.header {
        request = request.header(name, value);
    }
    let started = Instant::now();
    let response = client.invoke(request, body.unwrap_or_default()).await?;
    let error_code = header_of(&response, ERROR_CODE);
    let (status, timing) = (response.status().as_u16(), header_of(&response, "server-timing"));
    if let Some(code) = error_code {
        return Err(refused(&mut client, function, &code, status, response).await);
    }
    if arguments.asynchronous {
        let id = header_of(&response, INVOCATION).unwrap_or_default();
        return if arguments.wait { wait(&mut client, arguments, &id, output).await } else { output.line(&id) };
    }
    if arguments.daemon.json {
        print_json(response, status, started, timing.as_deref(), output).await?;
    } else {
        print(response, output).await?;
    }
    if arguments.timing {
        print_timing(&timing.unwrap_or_default(), started);
    }
    if arguments.fail && status >= 400 {
        return Err(CommandError::No(format!("{function} answered {status}")));
    }
    Ok(())
}

/// Waits for the end of an invocation, and prints the function's answer.
async fn wait(client: &mut Client, arguments: &Invoke, id: &str, output: &Output) -> Result<(), CommandError> {
    let ended = loop {
        let request = Request::get(format!("/invocations/{id}")).header("prefer", "wait=60");
        let body = client.invoke(request, Bytes::new()).await?.into_body().collect().await;
        let body = body.map_err(|error| CommandError::No(format!("the answer breaks off: {}", chain(&error))))?;
        let shown: Value = serde_json::from_slice(&body.to_bytes()).unwrap_or_default();
        match shown["state"].as_str() {
            Some("queued" | "running") => {}
            Some(_) => break shown,
            None => return Err(CommandError::No(format!("{id}: {}", string(&shown["detail"])))),
        }
    };
    let answer = client.invoke(Request::get(format!("/invocations/{id}/response")), Bytes::new()).await?;
    if header_of(&answer, ERROR_CODE).is_none() {
        print(answer, output).await?;
    }
    if let Some(reason) = ended["reason"].as_str() {
        return Err(CommandError::No(format!("{id} was given up: {reason}")));
    }
    if arguments.fail && ended["status"].as_u64().is_some_and(|status| status >= 400) {
        return Err(CommandError::No(format!("{} answered {}", arguments.function, ended["status"])));
    }
    Ok(())
}

/// Reads the body that `--data` names.
fn read(data: &str) -> Result<Bytes, CommandError> {
    let Some(file) = data.strip_prefix('@') else { return Ok(Bytes::copy_from_slice(data.as_bytes())) };
    let content = if file == "-" {
        let mut content = Vec::new();
        io::stdin().lock().read_to_end(&mut content).map(|_| content)
    } else {
        fs::read(file)
    };
    content.map(Bytes::from).map_err(|error| CommandError::Usage(format!("cannot read {file}: {error}")))
}

fn header_of(response: &Response<Incoming>, name: &str) -> Option<String> {
    response.headers().get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}

/// Prints the body as it comes.
async fn print(response: Response<Incoming>, output: &Output) -> Result<(), CommandError> {
    let mut body = response.into_body();
    let mut last = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| CommandError::No(format!("the answer breaks off: {}", chain(&error))))?;
        let Some(data) = frame.data_ref().filter(|data| !data.is_empty()) else { continue };
        output.bytes(data)?;
        last = data.last().copied();
    }
    // The prompt of a shell belongs on a line of its own.
    if output.width().is_some() && last.is_some_and(|last| last != b'\n') { output.line("") } else { Ok(()) }
}

async fn print_json(
    response: Response<Incoming>,
    status: u16,
    started: Instant,
    timing: Option<&str>,
    output: &Output,
) -> Result<(), CommandError> {
    let mut headers = serde_json::Map::new();
    for (name, value) in response.headers() {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        let values = headers.entry(name.as_str()).or_insert_with(|| json!([]));
        values.as_array_mut().into_iter().for_each(|values| values.push(value.clone().into()));
    }
    let body = response.into_body().collect().await;
    let body = body.map_err(|error| CommandError::No(format!("the answer breaks off: {}", chain(&error))))?.to_bytes();
    let timing: serde_json::Map<_, _> =
        timing.map(entries).unwrap_or_default().into_iter().map(|entry| (entry.name, json!(entry.ms))).collect();
    let answer = json!({
        "status": status,
        "headers": headers,
        // Of other bodies there is no text.
        "body": str::from_utf8(&body).ok(),
        "bytes": body.len(),
        "ms": started.elapsed().as_secs_f64() * 1e3,
        "timing": timing,
    });
    output.line(&answer.to_string())
}

/// Returns why the platform answered, after it has printed the last output of the instance.
async fn refused(
    client: &mut Client,
    function: &str,
    code: &str,
    status: u16,
    response: Response<Incoming>,
) -> CommandError {
    if code == "no_such_function" {
        return client.missing(Subject::Function(function)).await;
    }
    let body = response.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let problem: Value = serde_json::from_slice(&body).unwrap_or_default();
    let mut message = format!("{status} {code}: {}", printable(string(&problem["detail"])));
    let instance = string(&problem["instance"]);
    for line in last_lines(client, &problem, instance).await {
        message = format!("{message}\n{OUTPUT}{}", printable(&line));
    }
    if !instance.is_empty() {
        message = format!("{message}\n`unifaas describe {instance}` and `unifaas logs {instance}` say more");
    }
    CommandError::No(message)
}

/// Returns the last lines of the instance: those of the answer, else those of its page.
async fn last_lines(client: &mut Client, problem: &Value, instance: &str) -> Vec<String> {
    let lines: Vec<String> = match problem["output"].as_array() {
        Some(lines) => lines.iter().map(|line| string(line).to_owned()).collect(),
        None if instance.is_empty() => Vec::new(),
        None => {
            // Without the page, there is nothing more to say.
            let page = client.page(&format!("/debug/instances/{instance}"), Subject::Instance(instance)).await;
            let page = page.unwrap_or_default();
            // What the platform has to say is in the answer.
            let lines = page["output"].as_array().into_iter().flatten().filter(|line| line["stream"] != "platform");
            lines.map(|line| string(&line["text"]).to_owned()).collect()
        }
    };
    lines[lines.len().saturating_sub(MAX_LINES)..].to_vec()
}

/// A part of `server-timing`.
#[derive(Debug, PartialEq)]
struct Entry {
    name: String,
    ms: f64,
    /// What it waited for.
    note: String,
}

fn entries(timing: &str) -> Vec<Entry> {
    let parse = |entry: &str| {
        let mut parts = entry.split(';').map(str::trim);
        let name = parts.next().filter(|name| !name.is_empty())?.to_owned();
        let (mut ms, mut note) = (0.0, String::new());
        for part in parts {
            match part.split_once('=') {
                Some(("dur", value)) => ms = value.parse().unwrap_or_default(),
                Some(("desc", value)) => note = value.trim_matches('"').to_owned(),
                _ => {}
            }
        }
        Some(Entry { name, ms, note })
    };
    timing.split(',').filter_map(parse).collect()
}

/// Prints to standard error where the time went.
fn print_timing(timing: &str, started: Instant) {
    let mut table = Table::new(&[text("PART"), number("TIME"), text("WAITED FOR")]);
    for Entry { name, ms, note } in entries(timing) {
        table.row(vec![name.into(), millis(ms).into(), note.into()]);
    }
    table.row(vec!["total".into(), millis(started.elapsed().as_secs_f64() * 1e3).into(), "".into()]);
    table.plain_lines().iter().for_each(|line| words(line));
}

/// Returns the target of a request to a function. `path` may begin with a slash, and may have a query.
///
/// # Errors
/// When it is no valid path.
fn target(scope: &str, function: &str, path: &str) -> Result<Uri, CommandError> {
    if let Some(c) = path.chars().find(|c| !c.is_ascii_graphic() || "\"#<>`".contains(*c)) {
        let encoded: String = c.to_string().bytes().map(|byte| format!("%{byte:02X}")).collect();
        return Err(CommandError::Usage(format!("{path:?} is no path: write {c:?} as {encoded}")));
    }
    let target = format!("/{scope}/{function}/{}", path.strip_prefix('/').unwrap_or(path));
    target.parse().map_err(|error| CommandError::Usage(format!("{path:?} is no path: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timing_is_parsed() {
        let timing = "queue;dur=12.5;desc=\"slot\", boot;dur=80, boot-ready;dur=3.25, upstream;dur=0.4";
        let entry = |name: &str, ms, note: &str| Entry { name: name.into(), ms, note: note.into() };
        assert_eq!(
            entries(timing),
            [
                entry("queue", 12.5, "slot"),
                entry("boot", 80.0, ""),
                entry("boot-ready", 3.25, ""),
                entry("upstream", 0.4, "")
            ]
        );
        assert_eq!(entries(""), []);
    }

    #[test]
    fn bodies_are_text_or_files() {
        assert_eq!(read("x=1").unwrap(), "x=1");
        assert!(read("@/no/such/file").is_err_and(|error| error.to_string().contains("/no/such/file")));
    }

    #[test]
    fn paths_of_functions_may_begin_with_a_slash() {
        for (path, expected) in
            [("", "/invoke/f/"), ("/", "/invoke/f/"), ("a?b=c", "/invoke/f/a?b=c"), ("/a/b", "/invoke/f/a/b")]
        {
            assert_eq!(target("invoke", "f", path).unwrap().to_string(), expected);
        }
        for (path, advice) in [("/a b", "write ' ' as %20"), ("ä", "write 'ä' as %C3%A4"), ("a#b", "write '#' as %23")]
        {
            let Err(CommandError::Usage(error)) = target("async", "f", path) else { panic!("{path} is accepted") };
            assert!(error.starts_with(&format!("{path:?} is no path")) && error.ends_with(advice), "{error}");
        }
    }
}
