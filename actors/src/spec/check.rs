//! Checks the text of a `function.toml`: defaults, bounds, and combinations of keys. No I/O. `sandbox.rs` checks the tables
//! of the sandboxes.
//!
//! A missing or wrong value is reported and replaced by a placeholder. [`Checked::finish`] returns no spec if there is a
//! problem.

use std::{
    collections::BTreeMap,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    time::Duration,
};

use toml::de::{DeTable, DeValue};

use super::{
    Environment, FunctionSpec, Readiness, SandboxSpec,
    async_spec::async_spec,
    check_name,
    cluster_spec::cluster_spec,
    error::{Problem, SpecError},
    files::Reference,
    keys,
    raw::{Report, Section, kind, line_at, syntax_error},
    sandbox, triggers,
};

/// Upper bound of all counts of requests and instances.
const MAX_COUNT: u64 = 1_000_000;
/// 1000 requests.
const DEFAULT_QUEUE: NonZeroUsize = NonZeroUsize::MIN.saturating_add(999);
/// 1 TiB in MiB.
const MAX_BODY: f64 = 1_048_576.0;
const BYTES_PER_MIB: f64 = 1_048_576.0;

/// The result of checking a text.
pub(super) struct Checked {
    /// May only be used if there are no problems.
    spec: Option<FunctionSpec>,
    pub(super) problems: Vec<Problem>,
    /// The files that it names, even if there are problems.
    pub(super) references: Vec<Reference>,
}

impl Checked {
    pub(super) fn finish(self, file: PathBuf) -> Result<FunctionSpec, SpecError> {
        match self.spec {
            Some(spec) if self.problems.is_empty() => Ok(spec),
            _ => Err(SpecError::new(file, self.problems)),
        }
    }
}

/// Checks everything that the text alone determines.
pub(super) fn check(name: &str, directory: &Path, text: &str) -> Checked {
    let report = Report::new(text);
    let mut references = Vec::new();
    if let Err(error) = check_name(name) {
        report.add(None, None, format!("the directory cannot be a function: {error}"));
    }
    let spec = if text.trim().is_empty() {
        report.add(None, None, "the file is empty");
        None
    } else {
        match DeTable::parse(text) {
            Ok(table) => function(name, directory, &Section::file(&report, table.get_ref()), &mut references),
            Err(error) => {
                let line = error.span().map(|span| line_at(text.as_bytes(), span.start));
                report.add(None, line, syntax_error(text, &error));
                None
            }
        }
    };
    let problems = report.into_problems();
    Checked { spec, problems, references }
}

fn function(name: &str, directory: &Path, file: &Section<'_>, references: &mut Vec<Reference>) -> Option<FunctionSpec> {
    file.only(&keys::FILE);
    let single_use = file.boolean("single-use").unwrap_or_default();
    let concurrent_requests =
        count(file, "concurrent-requests", "requests").filter(|_| !single_use).unwrap_or(NonZeroUsize::MIN);
    let boot_timeout = file.positive_seconds("boot-timeout").unwrap_or(Duration::from_secs(25));
    let (min_instances, max_instances) = instances(file);
    let readiness = readiness(file).unwrap_or(Readiness::Callback);
    let env: Environment = env(file).into();
    let context =
        Context { directory, readiness: &readiness, env: &env, is_single: max_instances == Some(NonZeroUsize::MIN) };
    let sandbox = sandbox(file, &context, references);
    if file.given("process") && file.given("port") {
        file.fail("port", "every instance of a [process] gets a port of its own, as %port and PORT: leave this out");
    }
    if file.given("vm") && file.given("env") {
        file.fail("env", "a [vm] gets nothing but its kernel command line: pass values in vm.cmdline");
    }
    let keep_paused = file.seconds("keep-paused").unwrap_or(Duration::from_secs(600));
    let prewarm = file.boolean("prewarm").unwrap_or_default();
    if prewarm && keep_paused.is_zero() {
        file.fail(
            "prewarm",
            "true, but instances that are started ahead of requests are paused: set keep-paused above 0",
        );
    }
    let asynchronous = async_spec(file);
    let triggers = triggers::triggers(file, name, asynchronous.durability);
    if !asynchronous.allow
        && !triggers.is_empty()
        && let Some(table) = file.section("async")
    {
        table.fail("allow", "false, but [[cron]], [[nats]] and [[mqtt]] make asynchronous invocations: leave this out");
    }
    Some(FunctionSpec {
        name: name.to_owned(),
        directory: directory.to_owned(),
        concurrent_requests,
        single_use,
        keepalive: file.seconds("keepalive").unwrap_or(Duration::from_secs(60)),
        keep_paused,
        prewarm,
        min_instances,
        max_instances,
        timeout: Some(file.seconds("timeout").unwrap_or(Duration::from_secs(60))).filter(|limit| !limit.is_zero()),
        boot_timeout,
        stop_grace: file.seconds("stop-grace").unwrap_or(Duration::from_millis(500)),
        queue: count(file, "queue", "requests").unwrap_or(DEFAULT_QUEUE),
        queue_timeout: file.positive_seconds("queue-timeout").unwrap_or(boot_timeout + Duration::from_secs(5)),
        max_body: file
            .number("max-body", &format!("MiB, a number above 0 and up to {MAX_BODY}"), |n| n > 0.0 && n <= MAX_BODY)
            .map(|mib| (mib * BYTES_PER_MIB).ceil() as u64),
        port: file.integer("port", "a TCP port", 1..=65535).and_then(|port| port.try_into().ok()).unwrap_or(8080),
        readiness,
        env,
        asynchronous,
        triggers,
        cluster: cluster_spec(file),
        sandbox: sandbox?,
    })
}

fn count(section: &Section<'_>, key: &str, what: &str) -> Option<NonZeroUsize> {
    section.integer(key, what, 1..=MAX_COUNT).and_then(|count| usize::try_from(count).ok()?.try_into().ok())
}

fn instances(file: &Section<'_>) -> (usize, Option<NonZeroUsize>) {
    let least = file.integer("min-instances", "instances", 0..=MAX_COUNT);
    let least = least.and_then(|least| least.try_into().ok()).unwrap_or_default();
    let most = count(file, "max-instances", "instances");
    if let Some(most) = most.filter(|most| least > most.get()) {
        file.fail("min-instances", format!("{least} is more than max-instances, which is {most}"));
    }
    (least, most)
}

fn readiness(file: &Section<'_>) -> Option<Readiness> {
    if file.is_table("readiness") {
        let table = file.section("readiness")?;
        table.only(&keys::READINESS);
        table.require("http");
        return table.request_path("http").map(Readiness::Http);
    }
    match file.value("readiness")? {
        DeValue::String(word) if word == "callback" => Some(Readiness::Callback),
        DeValue::String(word) if word == "tcp" => Some(Readiness::Tcp),
        other => file.mismatch("readiness", "\"callback\", \"tcp\" or { http = \"/path\" }", other),
    }
}

/// Reads `[env]`. The values may be secrets, so messages contain nothing of them.
fn env(file: &Section<'_>) -> BTreeMap<String, String> {
    let mut env = BTreeMap::new();
    match file.value("env") {
        None => return env,
        Some(DeValue::Table(_)) => {}
        Some(other) => {
            file.fail("env", format!("expected a table of strings, found {}", kind(other)));
            return env;
        }
    }
    let Some(table) = file.section("env") else { return env };
    for (name, value) in table.entries() {
        if let Some((start, _)) = name.split_once('=') {
            file.fail("env", format!("a name must not contain '=': {start:?} is followed by one"));
            continue;
        }
        if name.is_empty() {
            table.fail(name, "a name must not be empty");
        } else if name.contains('\0') {
            table.fail(name, "a name must not contain a NUL character");
        }
        match value {
            DeValue::String(value) if value.contains('\0') => {
                table.fail(name, "the value must not contain a NUL character");
            }
            DeValue::String(value) => {
                env.insert(name.to_owned(), value.clone().into_owned());
            }
            other => table.fail(name, format!("expected a string, found {}", kind(other))),
        }
    }
    env
}

/// What the checks of a sandbox's table take from the rest of the file.
struct Context<'a> {
    directory: &'a Path,
    readiness: &'a Readiness,
    env: &'a Environment,
    /// Whether the function has one instance at most.
    is_single: bool,
}

fn sandbox(file: &Section<'_>, context: &Context<'_>, references: &mut Vec<Reference>) -> Option<SandboxSpec> {
    let Context { directory, readiness, env, is_single } = *context;
    let mut given: Vec<_> = ["process", "container", "vm"].into_iter().filter(|key| file.given(key)).collect();
    given.sort_by_key(|key| file.line_of(key));
    match given.split_first() {
        None => file.fail_table("what is an instance? Exactly one of [process], [container] and [vm] has to say it"),
        Some((first, further)) => {
            for key in further {
                let rule = "a function has exactly one of [process], [container] and [vm]";
                file.fail(key, format!("{rule}, and there is [{first}] already"));
            }
        }
    }
    let process = file.section("process").map(|section| sandbox::process(&section, directory, env, references));
    let container = file.section("container").map(|section| sandbox::container(&section));
    let vm = file.section("vm").and_then(|section| sandbox::vm(&section, directory, readiness, is_single, references));
    process.map(SandboxSpec::Process).or(container.map(SandboxSpec::Container)).or(vm.map(SandboxSpec::Vm))
}
