//! `[[cron]]`, `[[nats]]` and `[[mqtt]]`: what is read, and what is refused.

use std::time::Duration;

use super::{
    FULL_PROCESS,
    broken::{PROCESS, check_messages, messages},
    good,
};
use crate::spec::{Missed, NatsSource};

#[test]
fn reads_every_key_of_the_triggers() {
    let triggers = good(FULL_PROCESS).triggers;
    let [nightly, frequent] = triggers.cron.as_slice() else { panic!("{triggers:?}") };
    assert_eq!((nightly.at.as_str(), nightly.zone.as_str()), ("30 2 * * MON-FRI", "Europe/Berlin"));
    let request = (nightly.method.as_str(), nightly.path.as_str(), nightly.body.as_str());
    assert_eq!(request, ("PUT", "/nightly?full=1", "{}"));
    assert_eq!((nightly.missed, nightly.missed_within), (Missed::All, Duration::from_secs(7200)));
    let friday = "2026-07-02T12:00:00Z".parse().unwrap();
    assert_eq!(nightly.schedule.next_after(friday).unwrap().to_string(), "2026-07-03T00:30:00Z");
    let request = (frequent.method.as_str(), frequent.path.as_str(), frequent.body.as_str());
    assert_eq!((frequent.zone.as_str(), request), ("UTC", ("POST", "/", "")));
    assert_eq!((frequent.missed, frequent.missed_within), (Missed::Once, Duration::from_secs(3600)));
    let sources = triggers.nats.iter().map(|nats| (nats.subject.as_str(), nats.source.clone(), nats.path.as_str()));
    let expected = [
        ("orders.*.new", NatsSource::Queue("workers".to_owned()), "/order"),
        ("events.>", NatsSource::Stream("EVENTS".to_owned()), "/"),
    ];
    assert_eq!(sources.collect::<Vec<_>>(), expected);
    let [mqtt] = triggers.mqtt.as_slice() else { panic!("{:?}", triggers.mqtt) };
    assert_eq!((mqtt.topic.as_str(), mqtt.qos, mqtt.path.as_str()), ("home/+/temperature/#", 2, "/temperature"));
}

#[test]
fn defaults_are_the_queue_of_the_function_and_at_least_once() {
    let triggers = good(&format!("{PROCESS}[[nats]]\nsubject = \"a\"\n[[mqtt]]\ntopic = \"#\"\n")).triggers;
    assert_eq!(triggers.nats[0].source, NatsSource::Queue("hello".to_owned()));
    assert_eq!((triggers.mqtt[0].qos, triggers.mqtt[0].path.as_str()), (1, "/"));
    assert!(triggers.cron.is_empty());
}

#[test]
fn settings_are_shown_under_the_keys_of_the_file() {
    let shown = serde_json::to_value(good(FULL_PROCESS)).unwrap();
    assert_eq!((&shown["cron"][0]["missed"], &shown["cron"][0]["missed-within"]), (&"all".into(), &7200.0.into()));
    assert_eq!((&shown["nats"][0]["queue"], &shown["nats"][1]["stream"]), (&"workers".into(), &"EVENTS".into()));
    assert_eq!(shown["mqtt"][0]["topic"], "home/+/temperature/#");
}

#[test]
fn expressions_and_zones_that_are_refused_are_named() {
    let expression = "expected a cron expression of 5 fields, or of 6 with seconds first";
    let cases = [
        ("", "4: cron[0].at: is required".to_owned()),
        ("at = 5", "5: cron[0].at: expected a string, found the integer 5".to_owned()),
        ("at = \"* * *\"", format!("5: cron[0].at: {expression}, found the string \"* * *\": it has 3 fields")),
        (
            "at = \"61 * * * *\"",
            format!("5: cron[0].at: {expression}, found the string \"61 * * * *\": Number out of bounds"),
        ),
        (
            "at = \"0 0 30 2 *\"",
            "5: cron[0].at: expected a cron expression that matches some date, found the string \"0 0 30 2 *\": it \
             matches no date"
                .to_owned(),
        ),
        (
            "zone = \"Europe/Berlim\"\nat = \"@daily\"",
            "5: cron[0].zone: expected a time zone of the IANA's list, such as \"Europe/Berlin\", found the string \
             \"Europe/Berlim\"; did you mean \"Europe/Berlin\"?"
                .to_owned(),
        ),
        (
            "at = \"@daily\"\nzone = \"Mars\"",
            "6: cron[0].zone: expected a time zone of the IANA's list, such as \"Europe/Berlin\", found the string \
             \"Mars\""
                .to_owned(),
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(messages(&format!("{PROCESS}\n[[cron]]\n{text}\n")), expected, "{text}");
    }
}

#[test]
fn other_keys_of_triggers_are_checked() {
    let path = "a path that starts with '/' and has only visible ASCII characters and no '#'";
    let cron = [
        ("path = \"x\"", format!("5: cron[0].path: expected {path}, found the string \"x\"")),
        (
            "method = \"get\"",
            "5: cron[0].method: expected \"GET\", \"POST\", \"PUT\", \"PATCH\" or \"DELETE\", found the string \"get\""
                .to_owned(),
        ),
        ("missed = \"never\"", "5: cron[0].missed: expected \"skip\", \"once\" or \"all\", found the string \"never\"".to_owned()),
        (
            "missed-within = -1",
            "5: cron[0].missed-within: expected seconds, a number from 0 to 1000000000, found the integer -1".to_owned(),
        ),
        (
            "scope = \"site\"",
            "5: cron[0].scope: expected \"node\" or \"cluster\", found the string \"site\"".to_owned(),
        ),
        ("subject = \"a\"", "5: cron[0].subject: unknown key in [[cron]]; it belongs to [[nats]]".to_owned()),
        ("at2 = \"a\"", "5: cron[0].at2: unknown key in [[cron]]; known there: at, zone, path, method, body, missed, missed-within, scope".to_owned()),
    ];
    for (text, expected) in cron {
        assert_eq!(messages(&format!("{PROCESS}\n[[cron]]\n{text}\nat = \"@daily\"")), expected, "{text}");
    }
    let subject = "a subject of NATS, such as \"orders.*\" or \"orders.>\"";
    for wrong in ["", "a..b", "a b", "a.>.b", "a*", ".a", "a."] {
        let expected = format!("5: nats[0].subject: expected {subject}, found the string {wrong:?}");
        assert_eq!(messages(&format!("{PROCESS}\n[[nats]]\nsubject = {wrong:?}")), expected);
    }
    let topic = "a topic filter of MQTT, such as \"home/+/temperature\" or \"home/#\"";
    for wrong in ["", "a/#/b", "a+/b", "a#", "a\tb"] {
        let expected = format!("5: mqtt[0].topic: expected {topic}, found the string {wrong:?}");
        assert_eq!(messages(&format!("{PROCESS}\n[[mqtt]]\ntopic = {wrong:?}")), expected);
    }
    let nats = [
        (
            "stream = \"a.b\"",
            "6: nats[0].stream: expected the name of a stream, a word without '.', '*', '>' and '/', found the string \"a.b\"",
        ),
        (
            "queue = \"*\"",
            "6: nats[0].queue: expected the name of a queue group, a word without wildcards, found the string \"*\"",
        ),
        ("queue = \"q\"\nstream = \"S\"", "6: nats[0].queue: a stream has no queue groups: leave out one of both"),
    ];
    check_messages(&format!("{PROCESS}\n[[nats]]\nsubject = \"a\"\n"), "", &nats);
    let qos = "6: mqtt[0].qos: expected an integer from 0 to 2 (a quality of service), found the integer 3";
    check_messages(&format!("{PROCESS}\n[[mqtt]]\ntopic = \"a\"\n"), "", &[("qos = 3", qos)]);
}

#[test]
fn triggers_are_arrays_of_tables() {
    let tables = "expected tables that begin with [[cron]], found a table";
    assert_eq!(messages(&format!("{PROCESS}\n[cron]\nat = \"@daily\"")), format!("4: cron: {tables}"));
    assert_eq!(messages(&format!("cron = [1]\n{PROCESS}")), "1: cron[0]: expected a table, found the integer 1");
    let second = format!("{PROCESS}\n[[cron]]\nat = \"@daily\"\n[[cron]]\nat = \"@dialy\"");
    assert!(messages(&second).starts_with("7: cron[1].at: expected a cron expression"), "{}", messages(&second));
}
