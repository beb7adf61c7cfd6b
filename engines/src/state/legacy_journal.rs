//! Reads the journal of versions that kept all records in one log, so that nothing that they left is lost. Pure.
//!
//! Each line is an object of JSON. A torn or damaged line is skipped and counted; it costs no other one.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::resource::{Origin, Record, Resource};

/// One line.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Line {
    /// A daemon began: what follows is of this origin.
    Daemon(Origin),
    /// A resource was about to be created, or more was known of it.
    Enter { number: u64, thing: Resource },
    /// A resource was released.
    Strike { number: u64 },
}

/// What such a journal contains.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct LegacyJournal {
    /// The records that were not removed, ordered by their numbers.
    pub records: Vec<Record>,
    /// Records without an origin, which are not valid anywhere.
    pub lost: usize,
    /// Lines that cannot be understood.
    pub damaged: usize,
}

/// Reads a journal.
pub fn parse(text: &[u8]) -> LegacyJournal {
    let mut entries: BTreeMap<u64, (Option<Origin>, Resource)> = BTreeMap::new();
    let (mut origin, mut damaged) = (None, 0);
    let mut lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
    // After the last newline there is nothing, or a line whose resource was never created.
    lines.pop();
    for line in lines.into_iter().filter(|line| !line.is_empty()) {
        match serde_json::from_slice(line) {
            Ok(Line::Daemon(named)) => origin = Some(named),
            Ok(Line::Enter { number, thing }) => drop(entries.insert(number, (origin.clone(), thing))),
            Ok(Line::Strike { number }) => drop(entries.remove(&number)),
            Err(_) => damaged += 1,
        }
    }
    let all = entries.len();
    let known = entries.into_values().filter_map(|(origin, resource)| Some(Record { origin: origin?, resource }));
    let records: Vec<Record> = known.collect();
    LegacyJournal { lost: all - records.len(), records, damaged }
}

#[cfg(test)]
pub mod tests {
    use super::{
        super::resource::{ProcessTree, SessionLeader},
        *,
    };

    /// As a daemon wrote it that recovered from a crash, started an instance and was killed.
    pub const SAMPLE: &str = r#"{"daemon":{"boot":"5b0c8f3e-21d4-4c39-9a70-0d6e6f1c2b84","pids":4026531836,"network":4026531833}}
{"enter":{"number":0,"thing":{"cgroups":{"hierarchy":"memory","path":"/sys/fs/cgroup/memory/unifaas-e5ff7295785e1dfc-08cffbef"}}}}
{"enter":{"number":1,"thing":{"cgroups":{"hierarchy":"pids","path":"/sys/fs/cgroup/pids/unifaas-e5ff7295785e1dfc-08cffbef"}}}}
{"enter":{"number":2,"thing":{"cgroups":{"hierarchy":"memory","path":"/sys/fs/cgroup/memory/unifaas-e5ff7295785e1dfc-38e3d42d"}}}}
{"enter":{"number":3,"thing":{"cgroups":{"hierarchy":"pids","path":"/sys/fs/cgroup/pids/unifaas-e5ff7295785e1dfc-38e3d42d"}}}}
{"strike":{"number":0}}
{"strike":{"number":1}}
{"enter":{"number":4,"thing":{"process":{"instance":"ed4d4c1433df42dd","leader":null}}}}
{"enter":{"number":4,"thing":{"process":{"instance":"ed4d4c1433df42dd","leader":{"pid":27101,"after":185166,"before":185167}}}}}
"#;
    /// The other kinds of records.
    const OTHER_KINDS: &str = r#"{"enter":{"number":5,"thing":{"container":{"engine":"unix:///x","name":"a\n\"b"}}}}
{"enter":{"number":6,"thing":{"network":{"mark":8,"subnet":"10.0.0.0/8"}}}}
{"enter":{"number":7,"thing":{"forwarding":{"interface":"eth0"}}}}
"#;

    fn origin(boot: &str) -> Origin {
        Origin { boot: boot.to_owned(), pids: 4_026_531_836, network: 4_026_531_833 }
    }

    /// What the sample contains.
    pub fn expected() -> Vec<Record> {
        let cgroups = |hierarchy: &str| Resource::Cgroups {
            hierarchy: hierarchy.to_owned(),
            path: format!("/sys/fs/cgroup/{hierarchy}/unifaas-e5ff7295785e1dfc-38e3d42d"),
        };
        let leader = Some(SessionLeader { pid: 27_101, after: 185_166, before: 185_167 });
        let process = Resource::Process(ProcessTree { instance: "ed4d4c1433df42dd".to_owned(), leader });
        let origin = origin("5b0c8f3e-21d4-4c39-9a70-0d6e6f1c2b84");
        [cgroups("memory"), cgroups("pids"), process]
            .map(|resource| Record { origin: origin.clone(), resource })
            .to_vec()
    }

    fn containers(journal: LegacyJournal) -> Vec<(String, String)> {
        let container = |record: Record| match record.resource {
            Resource::Container { name, .. } => (record.origin.boot, name),
            other => panic!("{other:?}"),
        };
        journal.records.into_iter().map(container).collect()
    }

    fn line(number: u64, name: &str) -> String {
        format!(
            "{{\"enter\":{{\"number\":{number},\"thing\":{{\"container\":{{\"engine\":\"e\",\"name\":\"{name}\"}}}}}}}}\n"
        )
    }

    fn daemon(boot: &str) -> String {
        format!("{{\"daemon\":{{\"boot\":\"{boot}\",\"pids\":1,\"network\":2}}}}\n")
    }

    #[test]
    fn reads_what_was_entered_and_not_struck() {
        assert_eq!(parse(SAMPLE.as_bytes()), LegacyJournal { records: expected(), lost: 0, damaged: 0 });
        let more = parse([SAMPLE, OTHER_KINDS].concat().as_bytes());
        let kinds: Vec<Resource> = more.records.into_iter().skip(3).map(|record| record.resource).collect();
        let expected = [
            Resource::Container { engine: "unix:///x".to_owned(), name: "a\n\"b".to_owned() },
            Resource::Network { mark: 8, subnet: "10.0.0.0/8".to_owned() },
            Resource::Forwarding { interface: "eth0".to_owned() },
        ];
        assert_eq!(kinds, expected);
    }

    #[test]
    fn record_has_the_origin_that_precedes_it() {
        let text = [line(0, "lost"), daemon("first"), line(1, "a"), daemon("second"), line(2, "b")].concat();
        let journal = parse(text.as_bytes());
        assert_eq!(journal.lost, 1);
        let expected = [("first", "a"), ("second", "b")].map(|(boot, name)| (boot.to_owned(), name.to_owned()));
        assert_eq!(containers(journal), expected);
    }

    #[test]
    fn damaged_lines_cost_no_other_line() {
        let mut text = [daemon("b"), line(1, "a")].concat().into_bytes();
        for garbage in [
            &b"nonsense\n"[..],
            b"\xff\xfe\0\0\n",
            b"{\"enter\":{\"number\":-1,\"thing\":{}}}\n",
            b"{\"enter\":{\"number\":9,\"thing\":{\"castle\":{}}}}\n",
            b"{\"strike\":{\"number\":1}\n",
            b"[]\n",
        ] {
            text.extend_from_slice(garbage);
        }
        text.extend(line(2, "b").into_bytes());
        let journal = parse(&text);
        assert_eq!((journal.damaged, journal.records.len()), (6, 2));
        assert_eq!(parse(b""), LegacyJournal::default());
        assert_eq!(parse(b"\n\n"), LegacyJournal::default());
    }

    #[test]
    fn torn_journal_contains_its_whole_lines() {
        for length in 0..=SAMPLE.len() {
            let torn = &SAMPLE.as_bytes()[..length];
            let whole = torn.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
            assert_eq!(parse(torn), parse(&torn[..whole]), "{length}");
            assert_eq!(parse(torn).damaged, 0, "{length}");
        }
    }
}
