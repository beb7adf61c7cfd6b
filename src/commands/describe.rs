//! `unifaas describe`: a function or an instance as text, first what is wrong with it.

use serde_json::Value;

use super::{
    client::{Client, Subject},
    error::CommandError,
    ps::{members, print_ended, print_instances, string, style_of},
    terminal::{Output, Style, millis, printable, span, thousands},
    versions,
};
use crate::cli::client::Describe;

/// Last lines of an instance that are shown.
const MAX_LINES: usize = 20;

/// Prints the page.
///
/// # Errors
/// Those of the client.
pub async fn run(arguments: &Describe, output: &Output) -> Result<(), CommandError> {
    let mut client = Client::new(&arguments.daemon)?;
    let (name, json) = (arguments.name.as_str(), arguments.daemon.json);
    match Subject::named(name) {
        subject @ Subject::Instance(_) => {
            let page = client.page(&format!("/debug/instances/{name}"), subject).await?;
            if json { output.line(&page.to_string()) } else { Page { output }.instance(name, &page) }
        }
        subject => {
            let mut page = client.page(&format!("/debug/functions/{name}"), subject).await?;
            let mut errors = client.page(&format!("/debug/errors?function={name}"), subject).await?;
            page["errors"] = errors["errors"].take();
            // A function without instances is not on that page.
            page["memory"] = client.page("/debug/memory", Subject::None).await?["functions"][name].take();
            if json { output.line(&page.to_string()) } else { Page { output }.function(name, &page) }
        }
    }
}

struct Page<'a> {
    output: &'a Output,
}

impl Page<'_> {
    fn function(&self, name: &str, page: &Value) -> Result<(), CommandError> {
        self.title(name, string(&page["state"]))?;
        let failing = &page["failing"];
        if failing.is_object() {
            let retry = failing["retry_seconds"].as_f64().unwrap_or_default();
            self.bad(&format!(
                "{} starts in a row have failed, the next one is in {}: {}: {}",
                failing["failures"],
                span(retry),
                string(&failing["code"]),
                string(&failing["error"])
            ))?;
        }
        if let Some(reason) = page["reason"].as_str() {
            reason.lines().try_for_each(|line| self.bad(line))?;
        }
        for error in page["errors"].as_array().into_iter().flatten() {
            let (count, code, last) = (&error["count"], string(&error["code"]), string(&error["last"]));
            let text = format!("{count} {code}, last {last}: {}", string(&error["message"]));
            self.output.line(&self.output.styled(Style::Warning, &printable(&text)))?;
        }
        self.output.line("")?;
        let (spec, counters) = (&page["spec"], &page["counters"]);
        let kind = members(&spec["sandbox"]).next().map_or("none: its function.toml was never valid", |(kind, _)| kind);
        self.fact("kind", kind)?;
        if let Some(directory) = spec["directory"].as_str() {
            self.fact("directory", directory)?;
        }
        if let Some(published) = versions::line(&page["published"]) {
            self.fact("published", &published)?;
        }
        self.fact("revision", &revision(page))?;
        if spec.is_object() {
            self.fact("limits", &limits(spec))?;
        }
        self.fact("requests", &requests(counters))?;
        self.fact("waiting", &page["waiting"].to_string())?;
        let [started, evicted, paused] =
            ["instances_started", "instances_evicted", "early_pauses"].map(|key| &page[key]);
        let made_room = format!("{evicted} evicted and {paused} paused for other functions");
        self.fact("instances", &format!("{started} started, {made_room}"))?;
        if let Some(memory) = memory_of_function(&page["memory"]) {
            self.fact("memory", &memory)?;
        }
        let triggers = &page["triggers"];
        for schedule in triggers["cron"].as_array().into_iter().flatten() {
            self.fact("schedule", &schedule_line(schedule))?;
        }
        for subscription in triggers["subscriptions"].as_array().into_iter().flatten() {
            self.fact(string(&subscription["kind"]), &subscription_line(subscription))?;
        }
        if page["snapshot"].is_object() {
            self.fact("snapshot", &snapshot(&page["snapshot"]))?;
        }
        if page["prewarm"].is_object() {
            self.fact("ahead", &prewarms(page))?;
        }
        for (name, key) in [("boots", "boot_seconds"), ("resumed", "resume_seconds"), ("restored", "restore_seconds")] {
            let times = &page[key];
            if let (Some(count @ 1..), Some(sum)) = (times["count"].as_u64(), times["sum"].as_f64()) {
                let words = match (name, count) {
                    ("boots", _) => "successful",
                    (_, 1) => "time",
                    _ => "times",
                };
                let average = millis(sum * 1e3 / count as f64);
                self.fact(name, &format!("{} {words}, {average} on average", thousands(count)))?;
            }
        }
        let list = |name: &str| page[name].as_array().cloned().unwrap_or_default();
        for (instances, print) in
            [(list("instances"), print_instances as fn(&[Value], bool, &Output) -> _), (list("ended"), print_ended)]
        {
            if !instances.is_empty() {
                self.output.line("")?;
                print(&instances, false, self.output)?;
            }
        }
        Ok(())
    }

    fn instance(&self, id: &str, page: &Value) -> Result<(), CommandError> {
        let state = string(&page["state"]);
        self.title(&format!("{}/{id}", string(&page["function"])), state)?;
        let (cause, exit) = (string(&page["cause"]), string(&page["exit"]));
        if style_of(cause) == Some(Style::Bad) {
            self.bad(&format!("{cause}: {exit}"))?;
        } else if !cause.is_empty() {
            self.output.line(&format!("ended: {cause}{}{exit}", if exit.is_empty() { "" } else { ", " }))?;
        }
        self.output.line("")?;
        for (name, key) in [
            ("origin", "origin"),
            ("process id", "pid"),
            ("engine id", "engine_id"),
            ("address", "address"),
            ("ended", "ended"),
        ] {
            match &page[key] {
                Value::Null => {}
                Value::String(text) => self.fact(name, text)?,
                other => self.fact(name, &other.to_string())?,
            }
        }
        for (name, key) in [("in state for", "since_seconds"), ("lived for", "lifetime_seconds")] {
            if let Some(seconds) = page[key].as_f64() {
                self.fact(name, &span(seconds))?;
            }
        }
        self.fact("revision", &page["revision"].to_string())?;
        self.fact("requests", &page["served"].to_string())?;
        if let Some(memory) = memory_of_instance(&page["memory"]) {
            self.fact("memory", &memory)?;
        }
        let boot = &page["boot"];
        let took = boot["took_us"].as_f64().unwrap_or_default() / 1e3;
        self.fact(
            "boot",
            &format!(
                "{}, {}, {}, wanted by {}",
                string(&boot["origin"]),
                string(&boot["result"]),
                millis(took),
                string(&boot["cause"])
            ),
        )?;
        for resource in page["resources"].as_array().into_iter().flatten() {
            self.fact("holds", string(resource))?;
        }
        let lines = page["output"].as_array().cloned().unwrap_or_default();
        if !lines.is_empty() {
            self.output.line("")?;
        }
        for line in &lines[lines.len().saturating_sub(MAX_LINES)..] {
            let (time, stream) = (string(&line["time"]), string(&line["stream"]));
            let time = self.output.styled(Style::Faint, time);
            self.output.line(&format!("{time} {stream} {}", string(&line["text"])))?;
        }
        Ok(())
    }

    fn title(&self, name: &str, state: &str) -> Result<(), CommandError> {
        let name = self.output.styled(Style::Heading, name);
        let state = style_of(state).map_or_else(|| state.to_owned(), |style| self.output.styled(style, state));
        self.output.line(&format!("{name}  {state}"))
    }

    fn bad(&self, text: &str) -> Result<(), CommandError> {
        self.output.line(&self.output.styled(Style::Bad, &printable(text)))
    }

    fn fact(&self, name: &str, value: &str) -> Result<(), CommandError> {
        self.output.line(&format!("{}{}", self.output.styled(Style::Faint, &format!("{name:14}")), printable(value)))
    }
}

/// Returns what a schedule does.
fn schedule_line(schedule: &Value) -> String {
    let state = string(&schedule["state"]).replace('_', " ");
    let mut parts = vec![format!("{} {}", string(&schedule["at"]), string(&schedule["zone"])), state];
    let instants = ["next", "last"].map(|key| (key, schedule[key].as_str()));
    parts.extend(instants.into_iter().filter_map(|(key, instant)| Some(format!("{key} {}", instant?))));
    parts.extend(schedule["refusal"].as_str().map(ToOwned::to_owned));
    parts.join(", ")
}

/// Returns what a subscription is for, and the state of its connection.
fn subscription_line(subscription: &Value) -> String {
    let subject = [&subscription["subject"], &subscription["topic"]].map(string).concat();
    let mut parts = vec![subject];
    for key in ["queue", "stream"] {
        parts.extend(subscription[key].as_str().map(|name| format!("{key} {name}")));
    }
    parts.push(string(&subscription["state"]).replace('_', " "));
    parts.extend(subscription["error"].as_str().map(ToOwned::to_owned));
    parts.join(", ")
}

fn revision(page: &Value) -> String {
    let (revision, serves) = (&page["revision"], &page["serves_revision"]);
    match serves {
        Value::Null => revision.to_string(),
        serves if serves == revision => revision.to_string(),
        serves => format!("{revision}, serves {serves}"),
    }
}

fn limits(spec: &Value) -> String {
    let mut limits = vec![
        format!("{} requests at once per instance", spec["concurrent_requests"]),
        format!("timeout {}", span(spec["timeout"].as_f64().unwrap_or_default())),
        format!("keepalive {}", span(spec["keepalive"].as_f64().unwrap_or_default())),
    ];
    if let Some(seconds) = spec["keep_paused"].as_f64().filter(|seconds| *seconds > 0.0) {
        limits.push(format!("then paused for {}", span(seconds)));
    }
    if spec["prewarm"] == true {
        limits.push("started ahead of requests".to_owned());
    }
    let instances = [("min_instances", "at least"), ("max_instances", "at most")];
    for (key, words) in instances {
        if let Some(count @ 1..) = spec[key].as_u64() {
            limits.push(format!("{words} {count} instances"));
        }
    }
    limits.join(", ")
}

/// Returns the state of a function's saved guest, and what came of it.
fn snapshot(report: &Value) -> String {
    let mut parts = vec![string(&report["state"]).to_owned()];
    if let Some(age) = report["age_seconds"].as_f64() {
        let kib = thousands(report["bytes"].as_u64().unwrap_or_default().div_ceil(1024));
        parts.push(format!("{kib} KiB, {} old", span(age)));
    }
    let [restores, failures] = ["restores", "failures"].map(|key| report[key].as_u64().unwrap_or_default());
    if restores + failures > 0 {
        parts.push(format!("{} clones were restored, {} could not be", thousands(restores), thousands(failures)));
    }
    parts.extend(report["error"].as_str().map(|why| format!("last failure: {why}")));
    parts.join(", ")
}

/// Returns when requests are expected, and what came of instances that were started ahead of them.
fn prewarms(page: &Value) -> String {
    let (prediction, results) = (&page["prewarm"], &page["prewarms"]);
    let when = match (prediction["from_seconds"].as_f64(), prediction["until_seconds"].as_f64()) {
        (Some(from), Some(until)) => {
            format!("a request is expected {} to {} after the last one", span(from), span(until))
        }
        _ => "no request can be predicted".to_owned(),
    };
    let [used, unused, failed] = ["used", "unused", "failed"].map(|result| &results[result]);
    let known = &prediction["idle_times"];
    format!("{when} (idle times known: {known}), instances: {used} used, {unused} unused, {failed} failed")
}

/// Returns what an instance uses of its memory.
fn memory_of_instance(memory: &Value) -> Option<String> {
    let declared = mebibytes(&memory["declared"])?;
    let used = mebibytes(&memory["used"]).map_or_else(|| declared.clone(), |used| format!("{used} of {declared}"));
    Some(mebibytes(&memory["peak"]).map_or_else(|| used.clone(), |peak| format!("{used}, at most {peak}")))
}

/// Returns what all instances of a function have of the memory. `None`: it has none.
fn memory_of_function(memory: &Value) -> Option<String> {
    let mut parts = vec![format!("{} declared", mebibytes(&memory["declared_bytes"])?)];
    if memory["charged_bytes"].as_u64() < memory["declared_bytes"].as_u64() {
        parts.extend(mebibytes(&memory["charged_bytes"]).map(|charged| format!("{charged} charged")));
    }
    parts.extend(mebibytes(&memory["used_bytes"]).map(|used| format!("{used} used")));
    if let Some((peak, limit)) = mebibytes(&memory["peak_bytes"]).zip(mebibytes(&memory["limit_bytes"])) {
        parts.push(format!("one at most {peak} of {limit}"));
    }
    if let Some(seconds) = memory["idle_seconds"].as_f64() {
        parts.push(format!("longest idle for {}", span(seconds)));
    }
    if let (Some(count @ 1..), Some(seconds)) = (memory["waits"].as_u64(), memory["wait_seconds"].as_f64()) {
        parts.push(format!("{count} requests waited for the host, {} in all", span(seconds)));
    }
    parts.extend(memory["next"].as_str().map(|next| format!("another one {next}")));
    Some(parts.join(", "))
}

fn mebibytes(bytes: &Value) -> Option<String> {
    bytes.as_f64().map(|bytes| format!("{:.0} MiB", bytes / f64::from(1 << 20)))
}

fn requests(counters: &Value) -> String {
    let all = counters["requests"].as_u64().unwrap_or_default();
    let mut parts = Vec::new();
    for (code, count) in members(counters).filter(|(code, _)| *code != "requests") {
        if let Some(count @ 1..) = count.as_u64() {
            parts.push((code == "ok", format!("{} {code}", thousands(count))));
        }
    }
    parts.sort_by_key(|(is_ok, _)| !is_ok);
    let parts: Vec<_> = parts.into_iter().map(|(_, text)| text).collect();
    if parts.is_empty() { thousands(all) } else { format!("{}: {}", thousands(all), parts.join(", ")) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn triggers_have_a_line_each() {
        let mut schedule =
            json!({ "at": "0 2 * * *", "zone": "UTC", "state": "waiting", "next": "2026-12-01T02:00:00.000Z" });
        assert_eq!(schedule_line(&schedule), "0 2 * * * UTC, waiting, next 2026-12-01T02:00:00.000Z");
        schedule["state"] = "waiting_for_clock".into();
        schedule["last"] = "2026-11-30T02:00:00.000Z".into();
        let line = schedule_line(&schedule);
        assert!(line.contains("waiting for clock") && line.ends_with("last 2026-11-30T02:00:00.000Z"), "{line}");
        let subscription = json!({ "subject": "a.*", "stream": "A", "state": "connecting", "error": "refused" });
        assert_eq!(subscription_line(&subscription), "a.*, stream A, connecting, refused");
        assert_eq!(subscription_line(&json!({ "topic": "a/b", "qos": 1, "state": "no_broker" })), "a/b, no broker");
    }

    #[test]
    fn facts_of_functions_are_short() {
        let counters = json!({ "requests": 1204, "boot_failed": 4, "ok": 1200, "internal": 0 });
        assert_eq!(requests(&counters), "1,204: 1,200 ok, 4 boot_failed");
        assert_eq!(requests(&json!({ "requests": 0, "ok": 0 })), "0");
        assert_eq!(revision(&json!({ "revision": 4, "serves_revision": 3 })), "4, serves 3");
        assert_eq!(revision(&json!({ "revision": 4 })), "4");
        let mut spec = json!({ "concurrent_requests": 1, "timeout": 60.0, "keepalive": 0.5, "keep_paused": 0.0, "min_instances": 0,
            "max_instances": 4 });
        assert_eq!(
            limits(&spec),
            "1 requests at once per instance, timeout 60 s, keepalive 500 ms, at most 4 instances"
        );
        let mut memory = json!({ "declared": 128 << 20 });
        assert_eq!(memory_of_instance(&memory).as_deref(), Some("128 MiB"));
        memory["used"] = (5 << 20).into();
        memory["peak"] = (7 << 20).into();
        assert_eq!(memory_of_instance(&memory).as_deref(), Some("5 MiB of 128 MiB, at most 7 MiB"));
        assert_eq!(memory_of_function(&json!(null)), None);
        let memory = json!({ "declared_bytes": 256 << 20, "idle_seconds": 720.0, "waits": 2, "wait_seconds": 3.1, "next": "fits" });
        let words =
            "256 MiB declared, longest idle for 12 min, 2 requests waited for the host, 3.1 s in all, another one fits";
        assert_eq!(memory_of_function(&memory).as_deref(), Some(words));
        spec["keep_paused"] = json!(2.0);
        assert!(limits(&spec).contains("keepalive 500 ms, then paused for 2"), "{}", limits(&spec));
    }
}
