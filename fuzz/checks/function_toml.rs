//! Properties of the parser of `function.toml` that hold for any input: a spec within its limits, or located problems.
//!
//! Both the fuzz target and `actors/tests/fuzz_corpus.rs` include this file.

use std::{collections::BTreeSet, path::Path, time::Duration};

use unifaas_actors::spec::{FunctionSpec, Readiness, SandboxSpec, SpecError};

const DIRECTORY: &str = "/registry/f";
const MAX_DURATION: Duration = Duration::from_secs(1_000_000_000);
const MAX_COUNT: usize = 1_000_000;
const TIB_IN_MIB: u64 = 1 << 20;

/// Parses `data` and checks the properties. Parsing twice must give the same result.
///
/// # Panics
/// When a property does not hold.
pub fn check(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let parsed = FunctionSpec::parse("f", Path::new(DIRECTORY), &text);
    assert_eq!(parsed, FunctionSpec::parse("f", Path::new(DIRECTORY), &text));
    match parsed {
        Ok(spec) => check_spec(&spec),
        Err(error) => check_error(&error, &text),
    }
}

fn check_spec(spec: &FunctionSpec) {
    assert_eq!((spec.name.as_str(), spec.directory.as_path()), ("f", Path::new(DIRECTORY)));
    assert!(spec.concurrent_requests.get() <= if spec.single_use { 1 } else { MAX_COUNT });
    assert!(spec.queue.get() <= MAX_COUNT && spec.min_instances <= MAX_COUNT);
    assert!(spec.max_instances.is_none_or(|most| most.get() <= MAX_COUNT && spec.min_instances <= most.get()));
    for duration in [spec.keepalive, spec.stop_grace] {
        assert!(duration <= MAX_DURATION);
    }
    let default_wait = Duration::from_secs(5);
    for duration in [spec.boot_timeout, spec.queue_timeout, spec.timeout.unwrap_or(MAX_DURATION)] {
        assert!(!duration.is_zero() && duration <= MAX_DURATION + default_wait);
    }
    assert!(spec.max_body.is_none_or(|bytes| bytes > 0 && bytes <= TIB_IN_MIB << 20));
    assert!(spec.port > 0 && (1..=16 * TIB_IN_MIB).contains(&spec.memory()));
    if let Readiness::Http(path) = &spec.readiness {
        assert!(path.starts_with('/') && !path.contains(|c: char| !c.is_ascii_graphic()));
    }
    check_env(spec);
    match &spec.sandbox {
        SandboxSpec::Process(process) => check_words(&process.command),
        SandboxSpec::Container(container) => {
            container.command.as_deref().into_iter().for_each(check_words);
            assert!(container.cpus.is_none_or(|cpus| (0.01..=1024.0).contains(&cpus)));
            assert!(container.memory >= 6 && container.pids_limit > 0 && container.log_size > 0);
            let word =
                |text: &String| !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control());
            let words = [Some(&container.image), container.network.as_ref(), container.user.as_ref()];
            assert!(words.into_iter().flatten().all(word));
        }
        SandboxSpec::Vm(vm) => {
            assert!((1..=32).contains(&vm.cpus) && spec.env.is_empty() && !vm.cmdline.contains('\0'));
            let paths = [Some(&vm.kernel), vm.image.as_ref(), vm.initrd.as_ref()];
            assert!(paths.into_iter().flatten().all(|path| path.is_absolute()));
        }
    }
}

/// Checks that `env` is valid in an environment, and that only its names are serialized.
fn check_env(spec: &FunctionSpec) {
    for (name, value) in spec.env.iter() {
        assert!(!name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0'));
    }
    let shown = serde_json::to_value(spec).unwrap();
    assert_eq!(shown["env"], serde_json::json!(spec.env.keys().collect::<BTreeSet<_>>()));
}

fn check_words(command: &[String]) {
    assert!(command.first().is_some_and(|program| !program.is_empty()));
    assert!(command.iter().all(|word| !word.contains('\0')));
}

fn check_error(error: &SpecError, text: &str) {
    assert!(!error.problems.is_empty());
    let shown = error.to_string();
    assert_eq!(shown.lines().count(), error.problems.len(), "{shown}");
    assert!(shown.lines().all(|line| line.starts_with("/registry/f/function.toml:")), "{shown}");
    let last = text.split('\n').count();
    for problem in &error.problems {
        assert!(!problem.message.is_empty() && problem.key.as_ref().is_none_or(|key| !key.is_empty()));
        assert!(problem.line.is_none_or(|line| (1..=last).contains(&line)), "{shown}");
        assert!(!shown.contains(|c: char| c.is_control() && c != '\n'), "{shown:?}");
    }
}
