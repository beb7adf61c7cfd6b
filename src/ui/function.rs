//! The page of a function: why is it slow, why does it fail, are there enough instances?

use std::num::NonZeroUsize;

use maud::{Markup, html};
use unifaas_actors::{
    BootReport, EndedReport, FunctionHandle, FunctionReport, InstanceSnapshot,
    spec::{FunctionSpec, Readiness, SandboxSpec},
};

use super::{
    Known,
    attention::{self, FunctionFacts, Recent},
    boots,
    charts::{self, Part},
    errors,
    format::{age, count, duration, mebibytes, percent, plural, time},
    inbox, instance,
    layout::{self, Content, facts, heads, state, table},
    overview,
    page::Page,
    traffic, triggers,
};
use crate::inbox::FunctionOverview;

/// Instances that are shown.
const INSTANCES: usize = 100;
/// Starts that are shown.
const BOOTS: usize = 20;
/// Lines of output that are shown.
const LINES: usize = 15;

/// Returns the page. `None`: there is no such function.
pub async fn content(known: &Known<'_>, name: &str) -> Option<Content> {
    let handle = known.shared.directory.find(name)?;
    let report = handle.inspect(0).await?;
    let (points, recent) = (known.history().of(name), known.history().recent_of(name));
    let history = &known.shared.history;
    let ended: Vec<_> = history.instances.ended_of(name).iter().filter_map(|record| record.ended()).collect();
    let boots = history.boots.recent(Some(name), BOOTS);
    let errors = history.errors.reports(Some(name));
    let overview = known.shared.inbox.overview().await;
    let inbox = overview.as_ref().and_then(|overview| overview.of(name));
    let mut content = Content::new(name)
        .section("status", status(&handle, &report))
        .section("attention", needs_attention(known, &handle, &report, recent, inbox))
        .section(
            "traffic",
            traffic::section(&[
                traffic::requests(&points),
                traffic::durations(&points),
                traffic::waiting(&points),
                traffic::instances(&points),
            ]),
        )
        .section("time", where_time_goes(recent))
        .section("triggers", triggers::section(known.triggers_of(name).await.unwrap_or_default()))
        .section("inbox", inbox::section(known, inbox).await)
        .section("instances", instances(known, &report))
        .section("errors", errors::short(&errors, name))
        .section("boots", boots_of(&boots, &report, name))
        .section("output", output(known, name).await)
        .section("ended", ended_instances(&ended))
        .section("settings", settings(&report));
    content.trail = vec![("Overview".to_owned(), "/ui/".to_owned())];
    Some(content)
}

fn status(handle: &FunctionHandle, report: &FunctionReport) -> Markup {
    let (function, name) = (&report.function, handle.name());
    let counters = &function.stats.counters;
    let spec = function.spec.as_deref();
    let question = format!("End all instances of {name} now? The next request starts a new one.");
    let serves = function.serves_revision.filter(|serves| *serves != function.revision);
    html! {
        div.head {
            h1 { (handle.name()) }
            p.lead role="status" { (state(function.state)) }
            (layout::actions(&[
                ("Restart", format!("/debug/functions/{name}/restart"), None),
                ("Stop", format!("/debug/functions/{name}/stop"), Some(question)),
            ]))
        }
        p.small {
            @if let Some(spec) = spec {
                (spec.sandbox.kind()) " · " (mebibytes(spec.memory() as f64)) " an instance · keepalive "
                (duration(spec.keepalive.as_secs_f64())) " · " (most(spec)) " · "
            }
            "revision " (function.revision)
            @if let Some(serves) = serves { ", serves " (serves) }
            " · " (plural(counters.get("requests").copied().unwrap_or_default(), "request", "requests")) " so far"
            " · answers at " code { "/invoke/" (handle.name()) "/" }
        }
    }
}

fn most(spec: &FunctionSpec) -> String {
    match (spec.min_instances, spec.max_instances) {
        (0, None) => "any number of instances".to_owned(),
        (least, None) => format!("{least} or more instances"),
        (0, Some(most)) => format!("up to {}", plural(most.get() as u64, "instance", "instances")),
        (least, Some(most)) => format!("{least} to {}", plural(most.get() as u64, "instance", "instances")),
    }
}

fn needs_attention(
    known: &Known<'_>,
    handle: &FunctionHandle,
    report: &FunctionReport,
    recent: Option<Recent>,
    inbox: Option<&FunctionOverview>,
) -> Markup {
    let function = &report.function;
    let words = function.failing.as_ref().and_then(|_| known.last_words(handle.name()));
    let spec = function.spec.as_deref();
    let summary = handle.summary();
    let notice = attention::of_function(&FunctionFacts {
        name: handle.name(),
        state: function.state,
        why: function.failing.as_ref().map(|failing| &*failing.error).or(summary.why.as_deref()),
        words: words.as_deref(),
        waiting: function.waiting,
        queue: spec.map_or(usize::MAX, |spec| spec.queue.get()),
        instances: report.instances.len(),
        max_instances: spec.and_then(|spec| spec.max_instances).map(NonZeroUsize::get),
        concurrent_requests: spec.map_or(1, |spec| spec.concurrent_requests.get()),
        recent,
        inbox,
        async_concurrency: spec.map_or(0, |spec| spec.asynchronous.concurrency.get()),
    });
    html! {
        @if let Some(notice) = &notice {
            h2.unseen { "Needs attention" }
            (overview::advice(notice))
            @if let Some(failing) = &function.failing {
                p { (plural(u64::from(failing.failures), "start has", "starts have")) " failed in a row. "
                    @if failing.retry_seconds > 0.0 { "The next one is in " (age(failing.retry_seconds.ceil())) "." } }
            }
            @if let Some(reason) = &function.reason {
                pre tabindex="0" role="region" aria-label="The problems of the file" { (reason) }
            }
        }
    }
}

fn where_time_goes(recent: Option<Recent>) -> Markup {
    let recent = recent.unwrap_or_default();
    if recent.mean <= 0.0 {
        return html! {};
    }
    let own = (recent.mean - recent.wait - recent.boot).max(0.0);
    let part = |class, name, value| Part {
        class,
        name,
        value,
        text: format!("{} ({})", duration(value), percent(value / recent.mean)),
    };
    html! {
        h2 { "Where the time goes" }
        p {
            "In the last five minutes a request took " b { (duration(recent.mean)) } " on average, and "
            (percent(recent.cold / recent.requests.max(1.0))) " of the requests waited for a boot or a restore."
        }
        (charts::bar("Where the time of a request goes", &[
            part("poor", "waits for a slot or the host", recent.wait),
            part("calm", "waits for a boot", recent.boot),
            part("good", "the function", own),
        ], 0.0))
    }
}

fn instances(known: &Known<'_>, report: &FunctionReport) -> Markup {
    let (function, instances) = (&report.function, &report.instances);
    let of_state = |wanted: &str| instances.iter().filter(|instance| instance.state == wanted).count();
    let paused = ["pausing", "paused", "resuming"].into_iter().map(of_state).sum::<usize>();
    let most = function.spec.as_ref().and_then(|spec| spec.max_instances);
    let head = heads(&[
        "Instance",
        "State",
        "Origin",
        "#In flight",
        "#Served",
        "#Memory",
        "Revision",
        "Process",
        "Address",
        "Action",
    ]);
    let rows = html! { @for instance in instances.iter().take(INSTANCES) { (instance_row(known, instance)) } };
    html! {
        h2 { "Instances" }
        p {
            b { (of_state("busy")) } " busy · " b { (of_state("idle")) } " idle · "
            @if paused > 0 { b { (paused) } " paused · " }
            b { (of_state("booting") + of_state("launching")) } " starting"
            @if let Some(most) = most { " · of at most " (most) }
            " · " b.poor[function.waiting > 0] { (function.waiting) } " waiting"
            @if let Some(spec) = &function.spec { " of at most " (spec.queue) }
        }
        @if instances.is_empty() {
            p.none { "There is none. The next request starts one." }
        } @else {
            (table("Instances", "instances", &head, &rows))
            @if instances.len() > INSTANCES { p { "And " (instances.len() - INSTANCES) " more." } }
        }
    }
}

fn instance_row(known: &Known<'_>, instance: &InstanceSnapshot) -> Markup {
    let record = known.shared.history.instances.find(instance.id);
    html! {
        tr data-key=(instance.id) {
            th scope="row" { (instance::link(instance.id)) }
            td { (state(instance.state)) " " small { (age(instance.since_seconds)) } }
            td { (instance.origin) }
            td.number { (instance.in_flight) }
            td.number { (count(instance.served)) }
            td.number { @match &record { Some(record) => (instance::memory(record)), None => "–" } }
            td { (instance.revision) }
            td { @match instance.pid { Some(pid) => (pid), None => "–" } }
            td { @match &instance.address { Some(address) => code { (address) }, None => "–" } }
            td { (instance::stop(instance.id)) }
        }
    }
}

fn ended_instances(ended: &[EndedReport]) -> Markup {
    let head = heads(&["Instance", "Why it ended", "Exit", "Ended", "#Lived", "#Served"]);
    let rows = html! {
        @for instance in ended {
            tr data-key=(instance.id) {
                th scope="row" { (instance::link(instance.id)) }
                td { (instance.cause.replace('_', " ")) }
                td { (instance.exit.as_deref().unwrap_or("–")) }
                td { (time(instance.ended)) }
                td.number { (age(instance.lifetime_seconds)) }
                td.number { (count(instance.served)) }
            }
        }
    };
    html! {
        h2 { "Ended instances" }
        @if ended.is_empty() { p.none { "None yet. What an instance printed stays here after its end." } }
        @else { (table("Ended instances, the last one first", "ended", &head, &rows)) }
    }
}

fn boots_of(boots: &[BootReport], report: &FunctionReport, name: &str) -> Markup {
    let stats = &report.function.stats;
    let times =
        [("cold", &stats.boot_seconds), ("resumed", &stats.resume_seconds), ("restored", &stats.restore_seconds)];
    html! {
        h2 { "Boots" }
        p {
            @for (position, (origin, times)) in times.iter().filter(|(_, times)| times.count > 0).enumerate() {
                @if position > 0 { " · " }
                b { (count(times.count)) } " " (origin) ", " (duration(times.sum / times.count as f64)) " on average"
            }
        }
        @if boots.is_empty() { p.none { "No start yet." } }
        @else {
            (boots::list("The last starts", boots, false))
            p { a href=(Page::Boots(Some(name.to_owned()))) { "All starts and the slowest ones" } }
        }
    }
}

async fn output(known: &Known<'_>, name: &str) -> Markup {
    let lines = known.last_lines(name, LINES).await;
    html! {
        h2 { "Output" }
        @if lines.is_empty() { p.none { "It has printed nothing." } }
        @else {
            ol.log.short tabindex="0" aria-label="The last lines of all instances" {
                @for (record, line) in &lines { (instance::line(line, Some(record.instance))) }
            }
        }
    }
}

fn settings(report: &FunctionReport) -> Markup {
    let Some(spec) = report.function.spec.as_deref() else { return html! {} };
    let text = |value: String| html! { (value) };
    let optional = |value: Option<String>| text(value.unwrap_or_else(|| "no limit".to_owned()));
    let readiness = match &spec.readiness {
        Readiness::Callback => html! { "callback" },
        Readiness::Tcp => html! { "tcp, port " (spec.port) },
        Readiness::Http(path) => html! { "GET " code { (path) } ", port " (spec.port) },
    };
    let runs = match &spec.sandbox {
        SandboxSpec::Process(process) => html! { code { (process.command.join(" ")) } },
        SandboxSpec::Container(container) => html! { "image " code { (container.image) } },
        SandboxSpec::Vm(_) => html! { (spec.sandbox.kind()) },
    };
    let environment: Vec<_> = spec.env.keys().map(String::as_str).collect();
    html! {
        h2 { "Settings" }
        (facts(&[
            ("*file", html! { code { (spec.directory.join(unifaas_actors::spec::SPEC_FILE).display().to_string()) } }),
            ("*runs", runs),
            ("readiness", readiness),
            ("concurrent-requests", text(spec.concurrent_requests.to_string())),
            ("single-use", text(spec.single_use.to_string())),
            ("keepalive", text(duration(spec.keepalive.as_secs_f64()))),
            ("keep-paused", text(duration(spec.keep_paused.as_secs_f64()))),
            ("prewarm", text(spec.prewarm.to_string())),
            ("min-instances", text(spec.min_instances.to_string())),
            ("max-instances", optional(spec.max_instances.map(|most| most.to_string()))),
            ("memory", text(mebibytes(spec.memory() as f64))),
            ("timeout", optional(spec.timeout.map(|timeout| duration(timeout.as_secs_f64())))),
            ("boot-timeout", text(duration(spec.boot_timeout.as_secs_f64()))),
            ("queue", text(spec.queue.to_string())),
            ("queue-timeout", text(duration(spec.queue_timeout.as_secs_f64()))),
            ("max-body", optional(spec.max_body.map(|bytes| format!("{} bytes", count(bytes))))),
            ("env", text(if environment.is_empty() { "–".to_owned() } else { environment.join(", ") })),
        ]))
    }
}
