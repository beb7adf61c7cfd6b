//! What is written down, a line of JSON each, and what can be read again of a file that may have been torn or scribbled
//! on. Pure: it needs nothing but the bytes.
//!
//! A line is whole or it is none, since no part of an object is an object. What cannot be understood is skipped and
//! counted: a record that is lost costs its resource, not the daemon.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Something outside the daemon that must not outlive its use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Resource {
    /// A child process, and all that descend from it.
    Process(ProcessTree),
    /// A container of the engine at `engine`. The name is received before there is an id.
    Container { engine: String, name: String },
    /// A directory in a hierarchy of cgroups, in which each instance has one of its own.
    Cgroups { hierarchy: String, path: String },
    /// Taps, their addresses, the route that reserves `subnet`, the table of rules: all of them carry the mark.
    Network { mark: u32, subnet: String },
    /// Forwarding that was off and has been switched on for an interface.
    Forwarding { interface: String },
}

/// The processes of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessTree {
    /// All of them have it in their environment, unless they have cleared that.
    pub instance: String,
    /// `None`: it was about to be started.
    pub leader: Option<SessionLeader>,
}

/// The first process of an instance, which leads a session of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionLeader {
    pub pid: i32,
    /// Between these two moments it was started, in clock ticks since the host was: whoever has the number and was not
    /// is somebody else.
    pub after: u64,
    pub before: u64,
}

/// Where numbers and names mean what they meant when they were written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// One for each start of the host.
    pub boot: String,
    /// The namespace of process ids.
    pub pids: u64,
    /// The namespace of the network.
    pub network: u64,
}

impl Origin {
    /// Whether something that was written down there can be found here by what was written down.
    pub fn reaches(&self, here: &Self, resource: &Resource) -> bool {
        let booted = self.boot == here.boot;
        match resource {
            Resource::Process(_) => booted && self.pids == here.pids,
            Resource::Network { .. } | Resource::Forwarding { .. } => booted && self.network == here.network,
            Resource::Cgroups { .. } => booted,
            Resource::Container { .. } => true,
        }
    }
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Line {
    /// A daemon begins: what follows is of this origin.
    Daemon(Origin),
    /// Something is about to be made, or more is known of it. The number stands for it from here on.
    Enter {
        number: u64,
        #[serde(rename = "thing")]
        resource: Resource,
    },
    /// It has been given back.
    Strike { number: u64 },
}

impl Line {
    /// Writes it behind what is in `text`, with its newline.
    pub fn append_to(&self, text: &mut Vec<u8>) {
        // Neither can fail: memory takes everything, and there is nothing in a line that JSON has no form for.
        let _ = serde_json::to_writer(&mut *text, self);
        text.push(b'\n');
    }
}

/// What a journal says: everything that was written down and not struck out.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Replay {
    /// By number, each with the origin that was last named before it.
    pub resources: BTreeMap<u64, (Option<Origin>, Resource)>,
    /// Lines that were not understood.
    pub damaged: usize,
}

impl Replay {
    /// Reads what is left of a journal.
    pub fn of(text: &[u8]) -> Self {
        let mut replay = Self::default();
        let mut origin = None;
        let mut lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
        // Behind the last newline there is nothing, or a line that was never finished: nothing came of it.
        lines.pop();
        for line in lines.into_iter().filter(|line| !line.is_empty()) {
            match serde_json::from_slice(line) {
                Ok(Line::Daemon(named)) => origin = Some(named),
                Ok(Line::Enter { number, resource }) => {
                    replay.resources.insert(number, (origin.clone(), resource));
                }
                Ok(Line::Strike { number }) => {
                    replay.resources.remove(&number);
                }
                Err(_) => replay.damaged += 1,
            }
        }
        replay
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng, rngs::StdRng};

    use super::*;

    fn origin(boot: &str) -> Origin {
        Origin { boot: boot.to_owned(), pids: 1, network: 2 }
    }

    fn container(name: &str) -> Resource {
        Resource::Container { engine: "unix:///x".to_owned(), name: name.to_owned() }
    }

    fn process(pid: Option<i32>) -> Resource {
        let leader = pid.map(|pid| SessionLeader { pid, after: 7, before: 8 });
        Resource::Process(ProcessTree { instance: "00000000000000ab".to_owned(), leader })
    }

    fn text(lines: &[Line]) -> Vec<u8> {
        let mut text = Vec::new();
        lines.iter().for_each(|line| line.append_to(&mut text));
        text
    }

    #[test]
    fn the_form_of_each_line_stays_as_it_is() {
        let lines = [
            Line::Daemon(origin("b")),
            Line::Enter { number: 1, resource: process(None) },
            Line::Enter { number: 1, resource: process(Some(77)) },
            Line::Enter { number: 2, resource: container("a\n\"b") },
            Line::Enter { number: 3, resource: Resource::Cgroups { hierarchy: "memory".into(), path: "/x y".into() } },
            Line::Enter { number: 4, resource: Resource::Network { mark: 8, subnet: "10.0.0.0/8".into() } },
            Line::Enter { number: 5, resource: Resource::Forwarding { interface: "eth0".into() } },
            Line::Strike { number: 2 },
        ];
        let expected = concat!(
            r#"{"daemon":{"boot":"b","pids":1,"network":2}}"#,
            "\n",
            r#"{"enter":{"number":1,"thing":{"process":{"instance":"00000000000000ab","leader":null}}}}"#,
            "\n",
            r#"{"enter":{"number":1,"thing":{"process":{"instance":"00000000000000ab","#,
            r#""leader":{"pid":77,"after":7,"before":8}}}}}"#,
            "\n",
            r#"{"enter":{"number":2,"thing":{"container":{"engine":"unix:///x","name":"a\n\"b"}}}}"#,
            "\n",
            r#"{"enter":{"number":3,"thing":{"cgroups":{"hierarchy":"memory","path":"/x y"}}}}"#,
            "\n",
            r#"{"enter":{"number":4,"thing":{"network":{"mark":8,"subnet":"10.0.0.0/8"}}}}"#,
            "\n",
            r#"{"enter":{"number":5,"thing":{"forwarding":{"interface":"eth0"}}}}"#,
            "\n",
            r#"{"strike":{"number":2}}"#,
            "\n",
        );
        let text = text(&lines);
        assert_eq!(String::from_utf8(text.clone()).unwrap(), expected);
        let replay = Replay::of(&text);
        assert_eq!(replay.damaged, 0);
        assert_eq!(replay.resources.keys().copied().collect::<Vec<_>>(), [1, 3, 4, 5]);
        assert_eq!(replay.resources[&1], (Some(origin("b")), process(Some(77))), "what was said last counts");
    }

    #[test]
    fn each_thing_is_of_the_daemon_that_was_named_before_it() {
        let lines = [
            Line::Enter { number: 0, resource: container("nobody's") },
            Line::Daemon(origin("first")),
            Line::Enter { number: 1, resource: container("a") },
            Line::Daemon(origin("second")),
            Line::Enter { number: 2, resource: container("b") },
        ];
        let boots: Vec<_> = Replay::of(&text(&lines)).resources.into_values().map(|(from, _)| from).collect();
        assert_eq!(boots, [None, Some(origin("first")), Some(origin("second"))]);
    }

    #[test]
    fn garbage_costs_no_other_line() {
        let mut bytes = text(&[Line::Enter { number: 1, resource: container("a") }]);
        for garbage in [
            &b"nonsense\n"[..],
            b"\xff\xfe\0\0\n",
            b"{\"enter\":{\"number\":-1,\"thing\":{}}}\n",
            b"{\"enter\":{\"number\":9,\"thing\":{\"castle\":{}}}}\n",
            b"{\"strike\":{\"number\":1}\n",
            b"[]\n",
        ] {
            bytes.extend_from_slice(garbage);
        }
        bytes.extend(text(&[Line::Enter { number: 2, resource: container("b") }]));
        let replay = Replay::of(&bytes);
        assert_eq!((replay.damaged, replay.resources.len()), (6, 2));
        assert_eq!(Replay::of(b""), Replay::default());
        assert_eq!(Replay::of(b"\n\n"), Replay::default());
    }

    #[test]
    fn what_was_written_down_elsewhere_is_looked_for_only_if_it_can_be_found() {
        let here = origin("here");
        let resources = [
            process(Some(1)),
            Resource::Network { mark: 1, subnet: String::new() },
            Resource::Cgroups { hierarchy: String::new(), path: String::new() },
            container("c"),
        ];
        let found = |there: Origin| resources.clone().map(|resource| there.reaches(&here, &resource));
        assert_eq!(found(here.clone()), [true, true, true, true]);
        assert_eq!(found(origin("before the host was started")), [false, false, false, true]);
        assert_eq!(found(Origin { pids: 9, ..here.clone() }), [false, true, true, true]);
        assert_eq!(found(Origin { network: 9, ..here.clone() }), [true, false, true, true]);
    }

    /// Random journals, cut off anywhere and scribbled on anywhere: never a panic; a cut loses nothing but what comes
    /// behind it, and a scribble nothing but the lines that it touches.
    #[test]
    fn a_torn_journal_says_what_its_whole_lines_say() {
        let seed: u64 = rand::random();
        let mut random = StdRng::seed_from_u64(seed);
        for round in 0..300 {
            let mut lines = vec![Line::Daemon(origin("b"))];
            for _ in 0..random.random_range(0..40) {
                let number = random.random_range(0..12);
                lines.push(match random.random_range(0..3) {
                    0 => Line::Strike { number },
                    1 => Line::Enter { number, resource: process(random.random::<bool>().then_some(number as i32)) },
                    _ => Line::Enter { number, resource: container(&format!("c{number}")) },
                });
            }
            let whole = text(&lines);
            let cut = random.random_range(0..=whole.len());
            let kept = whole[..cut].iter().filter(|byte| **byte == b'\n').count();
            let (torn, expected) = (Replay::of(&whole[..cut]), Replay::of(&text(&lines[..kept])));
            assert_eq!(torn, expected, "seed {seed} round {round} cut {cut}");

            let mut scribbled = whole.clone();
            let from = random.random_range(0..whole.len());
            let until = (from + random.random_range(1..60)).min(whole.len());
            scribbled[from..until].fill_with(|| random.random());
            let replay = Replay::of(&scribbled);
            assert!(replay.damaged <= 60 && replay.resources.len() <= 12 + 60, "seed {seed} round {round}");
        }
    }
}
