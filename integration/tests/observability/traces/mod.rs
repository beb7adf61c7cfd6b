//! Traces: W3C trace context, and spans over OTLP.

mod collector;
mod dead_collector;

use std::path::Path;

use collector::{Collector, Span};
use futures::join;
use integration::{
    AT_ONCE, Daemon, Function, Home, Reply, SOON, Setup, empty, eventually, openmetrics_parser, python, refusal,
    request, tools, within,
};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

/// Starts a daemon that exports to a collector, and samples each new trace.
async fn traced(collector: &Collector, function: Function) -> Daemon {
    let setup = Setup::default().function(function).option("--otlp-endpoint", collector.url());
    setup.option("--trace-sample", "1").option("--access-log", "all").start().await
}

/// Sends a request with headers.
async fn ask(daemon: &Daemon, path: &str, headers: &[(&'static str, &str)]) -> Reply {
    let mut request = request("GET", path, empty());
    for &(name, value) in headers {
        request.headers_mut().append(name, value.parse().unwrap());
    }
    daemon.send(request).await.expect("an answer")
}

/// Returns the id that a response carries.
fn id_of(reply: &Reply) -> String {
    reply.header("x-request-id").expect("an id")
}

/// Returns the only span of a trace with that name.
#[track_caller]
fn named<'s>(spans: &'s [Span], name: &str) -> &'s Span {
    let found: Vec<_> = spans.iter().filter(|span| span.name == name).collect();
    assert_eq!(found.len(), 1, "{name} in {spans:#?}");
    found[0]
}

#[tokio::test]
async fn ids_line_up_through_a_function_in_python() {
    let Some(interpreter) = tools::public_program("python3") else { return };
    let (collector, home) = (Collector::start().await, Home::new());
    let answer = "def do_GET(self):\n    self.answer(str(self.headers).encode())\n";
    home.put(&python(&interpreter, &home, "f", "ThreadingHTTPServer", answer, ""));
    let setup = Setup::at(&home).option("--otlp-endpoint", collector.url()).option("--trace-sample", "0");
    let daemon = setup.option("--access-log", "all").start().await;
    let parent = format!("00-{TRACE}-{CALLER}-01");
    let reply =
        ask(&daemon, "/invoke/f/x?q=1", &[("traceparent", &parent), ("tracestate", "vendor=opaque")]).await.ok();
    let seen = reply.text();
    assert!(seen.contains("tracestate: vendor=opaque"), "{seen}");
    let spans = collector.trace_of(&id_of(&reply)).await;
    let (server, upstream) = (&spans[0], named(&spans, "upstream"));
    assert_eq!((&*server.name, &*server.trace, &*server.parent), ("GET f", TRACE, CALLER));
    assert_eq!((server.kind, upstream.kind), (SpanKind::Server, SpanKind::Client));
    assert_eq!((&upstream.parent, &*upstream.trace), (&server.id, TRACE));
    assert!(seen.contains(&format!("traceparent: 00-{TRACE}-{}-01", upstream.id)), "{seen}\n{upstream:?}");
    let instance = daemon.instances("f").await[0]["id"].as_str().unwrap().to_owned();
    for (key, value) in [
        ("http.request.method", "GET"),
        ("http.response.status_code", "200"),
        ("url.path", "/invoke/f/x"),
        ("faas.name", "f"),
        ("faas.coldstart", "true"),
        ("faas.instance", &instance),
    ] {
        assert_eq!(server.attributes.get(key).map(String::as_str), Some(value), "{key} of {server:?}");
    }
    assert!(!server.is_error && !server.attributes.contains_key("error.type"));
    assert_eq!(upstream.attributes["http.response.status_code"], "200");
    let boot = named(&spans, "boot");
    assert_eq!(boot.parent, server.id);
    for phase in ["admitted", "resources", "created", "started", "ready"] {
        let phase = named(&spans, phase);
        assert_eq!(phase.parent, boot.id);
        assert!(boot.start <= phase.start && phase.end <= boot.end, "{phase:?} of {boot:?}");
    }
    assert!(spans.iter().all(|span| server.start <= span.start && span.end <= server.end), "{spans:#?}");
    assert!(boot.end <= upstream.end && upstream.start < upstream.end);
    daemon.logged(&format!(r#""trace_id":"{TRACE}""#)).await;
    assert_eq!(daemon.boots("f").await[0]["trace_id"], TRACE);
}

#[tokio::test]
async fn malformed_context_begins_a_trace() {
    let collector = Collector::start().await;
    let daemon = traced(&collector, Function::new("f")).await;
    let valid = format!("00-{TRACE}-{CALLER}-01");
    let cases: &[&[&str]] = &[&[], &["00-zz-b7ad6b7169203331-01"], &[&valid, &valid], &["00-0-0-0"]];
    for parents in cases {
        let mut headers = vec![("tracestate", "vendor=opaque")];
        headers.extend(parents.iter().map(|parent| ("traceparent", *parent)));
        let reply = ask(&daemon, "/invoke/f/headers", &headers).await.ok();
        let (seen, spans) = (reply.text().to_lowercase(), collector.trace_of(&id_of(&reply)).await);
        let (server, upstream) = (&spans[0], named(&spans, "upstream"));
        assert!(server.parent.is_empty() && server.trace != TRACE, "{parents:?}: {server:?}");
        assert!(seen.contains(&format!("traceparent: 00-{}-{}-01\r\n", server.trace, upstream.id)), "{seen}");
        assert!(!seen.contains("tracestate"), "it belongs to another trace: {seen}");
        assert_eq!(seen.matches("traceparent").count(), 1, "{seen}");
    }
}

#[tokio::test]
async fn callers_decide_about_their_traces() {
    let collector = Collector::start().await;
    let daemon = traced(&collector, Function::new("f")).await;
    let unsampled = format!("00-{TRACE}-{CALLER}-00");
    let reply = ask(&daemon, "/invoke/f/headers", &[("traceparent", &unsampled)]).await.ok();
    let seen = reply.text().to_lowercase();
    let parent = seen.lines().find_map(|line| line.strip_prefix("traceparent: ")).expect("it goes on");
    assert!(parent.starts_with(&format!("00-{TRACE}-")) && parent.ends_with("-00"), "{parent}");
    assert_ne!(parent, unsampled, "it has a parent of its own");
    // Exported later than the other would have been.
    let other = ask(&daemon, "/invoke/f/", &[]).await.ok();
    collector.trace_of(&id_of(&other)).await;
    assert!(collector.spans().iter().all(|span| span.trace != TRACE));
}

#[tokio::test]
async fn failures_are_errors_with_the_trace_in_their_document() {
    let collector = Collector::start().await;
    let broken = Function::new("broken").flag("--exit-at-boot").flag("3");
    let setup = Setup::default().function(broken).function(Function::new("f").set("timeout", 0.5));
    let daemon = setup.option("--otlp-endpoint", collector.url()).option("--trace-sample", "1").start().await;
    let failed = ask(&daemon, "/invoke/broken/", &[]).await;
    let problem = failed.problem(502, "boot_failed");
    let spans = collector.trace_of(&id_of(&failed)).await;
    assert_eq!(problem["trace_id"], spans[0].trace.as_str());
    assert!(spans[0].is_error && spans[0].attributes["error.type"] == "boot_failed", "{spans:?}");
    let boot = named(&spans, "boot");
    assert!(boot.is_error && spans.iter().any(|span| span.name == "started" && span.parent == boot.id), "{spans:#?}");
    assert!(spans.iter().all(|span| span.name != "upstream" && span.name != "ready"), "{spans:#?}");

    let late = ask(&daemon, "/invoke/f/sleep?ms=5000", &[]).await;
    late.problem(504, "function_timed_out");
    let spans = collector.trace_of(&id_of(&late)).await;
    assert_eq!(spans[0].attributes["error.type"], "function_timed_out");
    assert!(named(&spans, "upstream").is_error);

    let own = ask(&daemon, "/invoke/f/status/503", &[]).await;
    let spans = collector.trace_of(&id_of(&own)).await;
    assert_eq!((spans[0].is_error, &*spans[0].attributes["error.type"]), (true, "503"));
}

#[tokio::test]
async fn those_who_wait_for_a_boot_link_to_it_and_those_for_a_slot_say_so() {
    let collector = Collector::start().await;
    let slow =
        Function::new("f").flag("--boot-delay").flag("400").set("max-instances", 1).set("concurrent-requests", 2);
    let daemon = traced(&collector, slow).await;
    let [one, two, three] = [(); 3].map(|()| async { ask(&daemon, "/invoke/f/sleep?ms=300", &[]).await.ok() });
    let (one, two, three) = join!(one, two, three);
    let mut boots = Vec::new();
    let mut queues = 0;
    for reply in [&one, &two, &three] {
        let spans = collector.trace_of(&id_of(reply)).await;
        boots.push(named(&spans, "boot").clone());
        queues += spans.iter().filter(|span| span.name == "queue" && span.end - span.start > 200_000_000).count();
        let waits = spans.iter().find(|span| span.name == "queue");
        assert!(waits.is_none_or(|queue| queue.attributes["unifaas.waits_for"] == "slot"), "{waits:?}");
    }
    let (caused, waited): (Vec<_>, Vec<_>) = boots.into_iter().partition(|boot| boot.links.is_empty());
    assert_eq!((caused.len(), waited.len(), queues), (1, 2, 1), "{caused:?} {waited:?}");
    let link = (caused[0].trace.clone(), caused[0].id.clone());
    assert!(waited.iter().all(|boot| boot.links == [link.clone()]), "{waited:?}");
}

#[tokio::test]
async fn exemplars_name_traces() {
    let collector = Collector::start().await;
    let daemon = traced(&collector, Function::new("f")).await;
    let parent = format!("00-{TRACE}-{CALLER}-01");
    ask(&daemon, "/invoke/f/", &[("traceparent", &parent)]).await.ok();
    let text = daemon.get("/metrics").await.ok().text();
    for name in ["request", "boot"] {
        let bucket = format!("unifaas_{name}_duration_seconds_bucket");
        let example = text.lines().find(|line| line.starts_with(&bucket) && line.contains(" # {trace_id="));
        assert!(example.is_some_and(|line| line.contains(TRACE)), "{example:?} in\n{text}");
    }
    let Some(parser) = openmetrics_parser(Path::new(env!("CARGO_TARGET_TMPDIR"))).await else { return };
    assert!(parser.samples(&text).await > 50);
}

#[tokio::test]
async fn last_spans_leave_before_the_end() {
    let collector = Collector::start().await;
    let mut daemon = traced(&collector, Function::new("f")).await;
    let reply = ask(&daemon, "/invoke/f/", &[]).await.ok();
    let ending = within(AT_ONCE, "the end", daemon.end()).await;
    assert!(ending.status.success());
    assert_eq!(collector.trace_of(&id_of(&reply)).await[0].name, "GET f");
}

#[tokio::test]
async fn collector_may_be_named_by_the_variable_of_opentelemetry() {
    let collector = Collector::start().await;
    let setup = Setup::default().function(Function::new("f")).option("--trace-sample", "1");
    let daemon = setup.variable("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url()).start().await;
    let reply = ask(&daemon, "/invoke/f/", &[]).await.ok();
    collector.trace_of(&id_of(&reply)).await;
    let settings = daemon.debug().await["daemon"]["settings"].clone();
    assert_eq!((&settings["otlp_endpoint"], &settings["trace_sample"]), (&collector.url().into(), &1.0.into()));
    let setup = Setup::default().variable("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector");
    let error = refusal(setup.command()).await;
    assert!(error.contains("OTEL_EXPORTER_OTLP_ENDPOINT") && error.contains("http://HOST:PORT"), "{error}");
}

#[tokio::test]
async fn attempts_of_an_asynchronous_invocation_are_below_its_acceptance() {
    let collector = Collector::start().await;
    let function = Function::new("f").asynchronous("attempts", 2).asynchronous("backoff", 0.1);
    let daemon = traced(&collector, function).await;
    let parent = format!("00-{TRACE}-{CALLER}-01");
    let continued = daemon.enqueue("/f/status/503", "", &[("traceparent", &parent)]).await;
    let begun = daemon.enqueue("/f/pid", "", &[("tracestate", "vendor=opaque")]).await;
    for (reply, caller, attempts) in [(&continued, CALLER, 2), (&begun, "", 1)] {
        let id = reply.header("x-unifaas-invocation").unwrap();
        let spans = async || -> Vec<Span> {
            collector
                .spans()
                .into_iter()
                .filter(|span| span.attributes.get("unifaas.invocation") == Some(&id))
                .collect()
        };
        let spans = eventually(SOON, "the spans", spans, |spans| spans.len() == attempts + 1).await;
        let enqueue = named(&spans, "enqueue f");
        assert_eq!((enqueue.kind, &*enqueue.parent), (SpanKind::Producer, caller));
        assert!(caller.is_empty() || enqueue.trace == TRACE);
        for attempt in 1..=attempts {
            let is_it = |span: &&Span| span.attributes.get("unifaas.attempt") == Some(&attempt.to_string());
            let span = spans.iter().find(is_it).unwrap();
            assert_eq!((&*span.name, &span.parent, &span.trace), ("POST f", &enqueue.id, &enqueue.trace));
        }
    }
}
