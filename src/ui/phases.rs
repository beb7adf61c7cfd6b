//! The phases of a start: what each means, and from when to when it lasted. Pure.

use unifaas_actors::{BootReport, Phase};

/// What happens in each phase.
pub const MEANINGS: [(Phase, &str); 7] = [
    (Phase::Admitted, "waits for memory, or for leave to start"),
    (Phase::Resources, "ports, addresses, users and disks"),
    (Phase::Created, "the sandbox is made"),
    (Phase::Started, "the program, container or VMM is started"),
    (Phase::FirstOutput, "until its first byte of output"),
    (Phase::Ready, "until its callback, or a probe that succeeds"),
    (Phase::FirstByte, "until the head of its first response"),
];

/// Returns the name of a phase as it is written.
pub fn name(phase: Phase) -> String {
    phase.as_str().replace('_', " ")
}

/// A phase of a start, in microseconds from its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    pub phase: Phase,
    pub from: u64,
    pub to: u64,
}

/// Returns the phases that a start has reached, each from the end of the one before. The first output may come late: then
/// it is no phase of its own.
pub fn steps(boot: &BootReport) -> Vec<Step> {
    in_order(|phase| boot.phases.end(phase))
}

fn in_order(end: impl Fn(Phase) -> Option<u64>) -> Vec<Step> {
    let mut from = 0;
    let mut steps = Vec::new();
    for phase in Phase::ALL {
        let Some(to) = end(phase).filter(|to| *to >= from) else { continue };
        if phase == Phase::FirstOutput && end(Phase::Ready).is_some_and(|ready| to > ready) {
            continue;
        }
        steps.push(Step { phase, from, to });
        from = to;
    }
    steps
}

/// Returns the end of the last phase.
pub fn total(boot: &BootReport) -> u64 {
    steps(boot).last().map_or(boot.took_us, |step| step.to.max(boot.took_us))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ends: &[(Phase, u64)]) -> Vec<(Phase, u64, u64)> {
        let end = |phase| ends.iter().find(|(known, _)| *known == phase).map(|(_, end)| *end);
        in_order(end).into_iter().map(|step| (step.phase, step.from, step.to)).collect()
    }

    #[test]
    fn each_phase_begins_where_the_one_before_has_ended() {
        let phases = at(&[(Phase::Admitted, 10), (Phase::Started, 30), (Phase::FirstOutput, 40), (Phase::Ready, 90)]);
        let expected =
            [(Phase::Admitted, 0, 10), (Phase::Started, 10, 30), (Phase::FirstOutput, 30, 40), (Phase::Ready, 40, 90)];
        assert_eq!(phases, expected);
    }

    #[test]
    fn output_that_comes_late_or_early_is_no_phase() {
        let late = at(&[(Phase::Started, 30), (Phase::FirstOutput, 95), (Phase::Ready, 90), (Phase::FirstByte, 99)]);
        assert_eq!(late, [(Phase::Started, 0, 30), (Phase::Ready, 30, 90), (Phase::FirstByte, 90, 99)]);
        let early = at(&[(Phase::Started, 30), (Phase::FirstOutput, 20), (Phase::Ready, 90)]);
        assert_eq!(early, [(Phase::Started, 0, 30), (Phase::Ready, 30, 90)]);
    }
}
