//! Invalid files and their messages. `broken_sandbox.rs` has those about `[process]`, `[container]` and `[vm]`.

use super::parse;
use crate::spec::FunctionSpec;

pub(super) const CONTAINER: &str = "[container]\nimage = \"i\"\n";
pub(super) const PROCESS: &str = "[process]\ncommand = [\"f\"]\n";
pub(super) const VM: &str = "[vm]\nkernel = \"k\"\nhypervisor.type = \"qemu\"\n";

/// Returns the messages about `text`, one line per problem, without the file's name.
pub(super) fn messages(text: &str) -> String {
    let error = parse(text).err().unwrap_or_else(|| panic!("accepted:\n{text}"));
    assert!(!error.problems.is_empty());
    error.to_string().replace("/registry/hello/function.toml:", "")
}

/// Checks that each `key = value` at the end of `before` is refused: `expected` one thing, found the other.
pub(super) fn refused(before: &str, table: &str, expected: &str, cases: &[(&str, &str)]) {
    let line = before.lines().count() + 1;
    for (entry, found) in cases {
        let (key, _) = entry.split_once(" =").unwrap();
        let message = messages(&format!("{before}{entry}"));
        assert_eq!(message, format!("{line}: {table}{key}: expected {expected}, found {found}"));
    }
}

/// Does the same as [`refused`] at the top level.
fn refused_on_top(expected: &str, cases: &[(&str, &str)]) {
    for (entry, found) in cases {
        let (key, _) = entry.split_once(" =").unwrap();
        let message = messages(&format!("{entry}\n{CONTAINER}"));
        assert_eq!(message, format!("1: {key}: expected {expected}, found {found}"));
    }
}

/// Checks that each text between `before` and `after` gets exactly the message next to it.
pub(super) fn check_messages(before: &str, after: &str, cases: &[(&str, &str)]) {
    for (text, expected) in cases {
        assert_eq!(messages(&format!("{before}{text}\n{after}")), *expected, "{text}");
    }
}

#[test]
fn counts_are_integers_within_bounds() {
    let cases = [
        ("concurrent-requests = 0", "the integer 0"),
        ("concurrent-requests = -1", "the integer -1"),
        ("concurrent-requests = 1.5", "the float 1.5"),
        ("concurrent-requests = \"4\"", "the string \"4\""),
        ("concurrent-requests = 99999999999999999999", "the integer 99999999999999999999"),
        ("queue = 0", "the integer 0"),
        ("queue = 1000001", "the integer 1000001"),
    ];
    refused_on_top("an integer from 1 to 1000000 (requests)", &cases);
    refused_on_top("an integer from 1 to 1000000 (instances)", &[("max-instances = 0", "the integer 0")]);
    refused_on_top("an integer from 0 to 1000000 (instances)", &[("min-instances = -1", "the integer -1")]);
    let ports = [("port = 0", "the integer 0"), ("port = 0x10000", "the integer 0x10000"), ("port = {}", "a table")];
    refused_on_top("an integer from 1 to 65535 (a TCP port)", &ports);
}

#[test]
fn durations_are_finite_numbers_of_seconds() {
    let cases = [
        ("keepalive = -1", "the integer -1"),
        ("keepalive = -0.001", "the float -0.001"),
        ("keepalive = nan", "the float nan"),
        ("keepalive = inf", "the float inf"),
        ("keepalive = 1e300", "the float 1e300"),
        ("keepalive = 1000000001", "the integer 1000000001"),
        ("keepalive = \"60s\"", "the string \"60s\""),
        ("keepalive = 07:32:00", "the date or time 07:32:00"),
        ("timeout = true", "the boolean true"),
        ("boot-timeout = -5", "the integer -5"),
        ("queue-timeout = \"\"", "the string \"\""),
        ("stop-grace = [1]", "an array"),
    ];
    refused_on_top("seconds, a number from 0 to 1000000000", &cases);
    let cases = [
        ("boot-timeout = 0", "1: boot-timeout: expected more than 0 seconds, found 0"),
        ("queue-timeout = 0.0", "1: queue-timeout: expected more than 0 seconds, found 0"),
    ];
    check_messages("", CONTAINER, &cases);
}

#[test]
fn top_level_values_have_their_types() {
    let cases = [("single-use = 1", "the integer 1"), ("single-use = \"yes\"", "the string \"yes\"")];
    refused_on_top("true or false", &cases);
    let cases =
        [("max-body = 0", "the integer 0"), ("max-body = -0.5", "the float -0.5"), ("max-body = nan", "the float nan")];
    refused_on_top("MiB, a number above 0 and up to 1048576", &cases);
    let cases = [("readiness = \"http\"", "the string \"http\""), ("readiness = true", "the boolean true")];
    refused_on_top("\"callback\", \"tcp\" or { http = \"/path\" }", &cases);
    let cases = [
        ("min-instances = 5\nmax-instances = 2", "1: min-instances: 5 is more than max-instances, which is 2"),
        ("readiness = {}", "1: readiness.http: is required"),
        ("readiness = { http = 1 }", "1: readiness.http: expected a string, found the integer 1"),
    ];
    check_messages("", CONTAINER, &cases);
}

#[test]
fn a_readiness_path_must_be_requestable() {
    for path in ["", "healthz", "/a b", "/\\u0001", "/ü", "/a#b", "http://x/"] {
        let message = messages(&format!("readiness = {{ http = \"{path}\" }}\n{CONTAINER}"));
        assert!(message.starts_with("1: readiness.http: expected a path that starts with '/'"), "{message}");
    }
}

#[test]
fn env_maps_names_to_strings() {
    let cases = [
        ("env = 1", "1: env: expected a table of strings, found an integer"),
        ("env = { A = 1 }", "1: env.A: expected a string, found an integer"),
        ("env = { A = { B = \"c\" } }", "1: env.A: expected a string, found a table"),
        ("env = { \"\" = \"c\" }", "1: env.\"\": a name must not be empty"),
        ("env = { \"A=B\" = \"c\" }", "1: env: a name must not contain '=': \"A\" is followed by one"),
        ("env = { \"A\\u0000\" = \"c\" }", "1: env.\"A\\0\": a name must not contain a NUL character"),
        ("env = { A = \"\\u0000\" }", "1: env.A: the value must not contain a NUL character"),
    ];
    check_messages("", CONTAINER, &cases);
}

#[test]
fn asynchronous_invocations_have_bounds() {
    let table = format!("{CONTAINER}[async]\n");
    let refused = |expected: &str, cases: &[(&str, &str)]| refused(&table, "async.", expected, cases);
    refused("an integer from 1 to 1000000 (attempts)", &[("attempts = 0", "the integer 0")]);
    refused("an integer from 1 to 1000000 (invocations)", &[("queue = 0", "the integer 0")]);
    let sizes = [("max-body = 17", "the integer 17"), ("max-response = 0", "the integer 0")];
    refused("MiB, a number above 0 and up to 16", &sizes);
    let cases = [
        (
            "retry-on = [\"503\", \"2xx\"]",
            "4: async.retry-on: expected \"4xx\", \"5xx\" and statuses from \"400\" to \"599\", \
            found the string \"2xx\"",
        ),
        ("backoff = 5\nbackoff-max = 2", "4: async.backoff: 5 is more than backoff-max, which is 2"),
        ("keep = 0", "4: async.keep: expected more than 0 seconds, found 0"),
        (
            "retries = 3",
            "4: async.retries: unknown key in [async]; known there: allow, concurrency, queue, attempts, backoff, \
            backoff-max, max-age, retry-on, max-body, max-response, keep, keep-dead, durability",
        ),
    ];
    check_messages(&table, "", &cases);
    let triggers = [
        (
            "[[cron]]\nat = \"* * * * *\"",
            "4: async.allow: false, but [[cron]], [[nats]] and [[mqtt]] make asynchronous invocations: leave this out",
        ),
        (
            "[[mqtt]]\ntopic = \"a/b\"",
            "4: async.allow: false, but [[cron]], [[nats]] and [[mqtt]] make asynchronous invocations: leave this out",
        ),
    ];
    check_messages(&format!("{table}allow = false\n"), "", &triggers);
}

#[test]
fn unknown_keys_come_with_a_hint() {
    let near =
        [("memroy", "memory"), ("Memory", "memory"), ("cpu", "cpus"), ("net-work", "network"), ("imag", "image")];
    for (key, meant) in near {
        let message = messages(&format!("{CONTAINER}{key} = 1"));
        assert_eq!(message, format!("3: container.{key}: unknown key in [container]; did you mean `{meant}`?"));
    }
    let elsewhere = [("keepalive", "the file's top level"), ("env", "the file's top level"), ("kernel", "[vm]")];
    for (key, home) in elsewhere {
        let message = messages(&format!("{CONTAINER}{key} = 1"));
        assert_eq!(message, format!("3: container.{key}: unknown key in [container]; it belongs to {home}"));
    }
    for key in ["ram", "\"a\\nb\"", "\"\""] {
        let message = messages(&format!("{CONTAINER}{key} = 1"));
        let known = "known there: image, command, memory, cpus, runtime, network, user, capabilities, \
            no-new-privileges, pids-limit, file-size, read-only, init, log-size, pull";
        assert_eq!(message, format!("3: container.{key}: unknown key in [container]; {known}"));
    }
    let near = [
        ("concurrent_requests", "concurrent-requests"),
        ("keep-alive", "keepalive"),
        ("max_instance", "max-instances"),
    ];
    for (key, meant) in near {
        let message = messages(&format!("{key} = 1\n{CONTAINER}"));
        assert_eq!(message, format!("1: {key}: unknown key in the file's top level; did you mean `{meant}`?"));
    }
    let message = messages(&format!("memory = 1\n{CONTAINER}"));
    assert!(message.ends_with("; it belongs to [process], [container] or [vm]"), "{message}");
    let message = messages(&format!("readiness = {{ htp = \"/\", http = \"/\" }}\n{CONTAINER}"));
    assert_eq!(message, "1: readiness.htp: unknown key in the table of `readiness`; did you mean `http`?");
}

#[test]
fn truncates_long_keys_and_values() {
    for text in [format!("{} = 1", "k".repeat(5000)), format!("readiness = \"{}\"", "v".repeat(5000))] {
        let message = messages(&format!("{text}\n{CONTAINER}"));
        assert!(message.len() < 500 && message.contains('…'), "{message}");
    }
}

#[test]
fn a_syntax_error_is_one_problem_with_its_line_and_no_key() {
    for (text, line) in [
        ("keepalive = \n[container]", 1),
        ("keepalive = 1\nkeepalive = 2\n[container]\nimage = \"i\"", 2),
        ("[container]\nimage = \"i", 2),
        ("[container]\n\nimage", 3),
        ("[container\nimage = \"i\"", 1),
        ("[container]\nimage = \"i\"\n[container]", 3),
        ("keepalive = 1 2", 1),
        ("a = \u{0}", 1),
    ] {
        let error = parse(text).unwrap_err();
        assert_eq!(error.problems.len(), 1, "{error}");
        let problem = &error.problems[0];
        assert_eq!((&problem.key, problem.line), (&None, Some(line)), "{text}\n{error}");
        assert!(!problem.message.is_empty() && !problem.message.contains('\n'), "{error}");
    }
}

#[test]
fn reports_all_problems_in_the_order_of_the_file() {
    let text = "keepalive = -1\nbogus = 1\nport = 0\n[container]\nmemory = 1\ncpus = \"two\"\n\
        [env]\nA = 1\n[process]\nuser = 1";
    let error = parse(text).unwrap_err();
    let keys: Vec<_> = error.problems.iter().map(|problem| (problem.line, problem.key.as_deref())).collect();
    let expected = [
        (1, "keepalive"),
        (2, "bogus"),
        (3, "port"),
        (3, "port"),
        (4, "container.image"),
        (5, "container.memory"),
        (6, "container.cpus"),
        (8, "env.A"),
        (9, "process"),
        (9, "process.command"),
        (10, "process.user"),
    ];
    assert_eq!(keys, expected.map(|(line, key)| (Some(line), Some(key))));
    assert_eq!(error.to_string().lines().count(), expected.len());
    assert!(error.to_string().starts_with("/registry/hello/function.toml:1: keepalive: expected seconds"), "{error}");
}

#[test]
fn an_invalid_name_is_one_of_the_problems() {
    let error = FunctionSpec::parse("not one", "/registry/not one".as_ref(), "[container]\nmemory = 0").unwrap_err();
    assert_eq!(error.problems.len(), 3, "{error}");
    let last = error.problems[2].to_string();
    assert!(last.starts_with("the directory cannot be a function: ") && last.contains("' '"), "{last}");
}

#[test]
fn names_a_key_that_is_there_twice() {
    for (text, expected) in [
        ("timeout = 1\ntimeout = 2\n", "2: duplicate key `timeout`"),
        ("[container]\nimage = \"i\"\n\"image\" = \"j\"\n", "3: duplicate key `\"image\"`"),
        ("[process]\ncommand = [\"f\"]\n[env]\n[process]\n", "4: duplicate key `process`"),
        ("env = { A = \"secret\", A = \"secret\" }\n", "1: duplicate key `A`"),
    ] {
        assert_eq!(messages(text), expected);
    }
}
