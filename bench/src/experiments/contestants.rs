//! Contestants: a function, what is done with it, and under which daemon. Each is measured once in a round.

use toml::Value;

use super::{Entrant, Session};
use crate::{
    error::BenchError,
    options::Experiment,
    registry::{DerivedRegistry, Key, Overrides},
};

/// The suffix of the name under which the first function takes part a second time.
pub const CONTROL: &str = ".control";
/// The suffix of the names of functions under the other build of the daemon.
pub const BASELINE: &str = ".baseline";

/// What takes part in an experiment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contestant {
    /// Its name in tables: that of the user's function, with [`CONTROL`] or [`BASELINE`].
    pub function: String,
    /// What is done with it.
    pub variant: String,
    /// Simultaneous requests, connections, load in percent, or instances.
    pub n: u32,
    /// Its name in the registry.
    pub registered: String,
    /// The request that it answers with 200.
    pub path: String,
    /// Its daemon.
    pub lane: usize,
}

impl Contestant {
    /// Returns what tells it from all others.
    pub fn key(&self) -> (usize, String, String, u32) {
        (self.lane, self.registered.clone(), self.variant.clone(), self.n)
    }
}

/// Returns the name of the user's function.
pub fn original(function: &str) -> &str {
    function.strip_suffix(CONTROL).or_else(|| function.strip_suffix(BASELINE)).unwrap_or(function)
}

/// How functions take part.
#[derive(Debug, Default)]
pub struct Enrolment {
    /// What is done with them.
    pub variant: &'static str,
    /// What tells their names in the registry from those of another enrolment.
    pub suffix: &'static str,
    /// Keys of their files.
    pub keys: Vec<Key>,
    /// Keys of `[vm]`.
    pub vm: Vec<Key>,
    /// Whether disks are not copied, where they can be.
    pub shares_disk: bool,
    /// Processes and threads that an instance may have, where that is limited.
    pub pids: Option<u32>,
    /// Whether the first one takes part twice.
    pub has_control: bool,
}

impl Enrolment {
    /// Returns one for functions whose instances end after each request.
    pub fn single_use(variant: &'static str) -> Self {
        let vm = vec![("snapshot", None)];
        Self { variant, keys: single_use(), vm, has_control: true, ..Self::default() }
    }

    /// Returns one for functions with a single instance, which lives until it is ended.
    pub fn single_instance(variant: &'static str) -> Self {
        let keys = vec![
            ("single-use", None),
            ("min-instances", None),
            ("max-instances", Some(Value::Integer(1))),
            ("keepalive", Some(Value::Integer(86_400))),
            ("keep-paused", Some(Value::Integer(0))),
        ];
        Self { variant, keys, vm: vec![("snapshot", None)], has_control: true, ..Self::default() }
    }
}

/// Returns the keys of functions whose instances end after each request.
pub fn single_use() -> Vec<Key> {
    vec![
        ("single-use", Some(Value::Boolean(true))),
        ("concurrent-requests", None),
        ("min-instances", None),
        ("max-instances", None),
        ("keep-paused", Some(Value::Integer(0))),
    ]
}

impl Session {
    /// Returns overrides with the memory, the processors and the files of the run.
    pub fn overrides(&self, keys: Vec<Key>, vm: Vec<Key>) -> Overrides {
        let files = self.files.as_ref().map(|files| files.path().to_owned());
        Overrides { keys, vm, files, memory: self.plan.memory, cpus: self.plan.cpus, ..Overrides::default() }
    }

    /// Adds the functions that support an experiment, and that `is_chosen`, to the registries.
    pub fn enrol(
        &self,
        experiment: Experiment,
        registries: &[DerivedRegistry],
        enrolment: Enrolment,
        is_chosen: impl Fn(&Entrant) -> bool,
    ) -> Result<Vec<Contestant>, BenchError> {
        let mut contestants = Vec::new();
        let Enrolment { keys, vm, pids, shares_disk, .. } = enrolment;
        let overrides = Overrides { pids, shares_disk, ..self.overrides(keys, vm) };
        let entrants =
            self.entrants.iter().filter(|entrant| entrant.supports.contains(&experiment) && is_chosen(entrant));
        for (place, entrant) in entrants.enumerate() {
            // A daemon that is another's has the functions already.
            for lane in 0..registries.len().max(1) {
                let mark = if lane > 0 { BASELINE } else { "" };
                let marks = [Some(mark), (enrolment.has_control && place == 0 && lane == 0).then_some(CONTROL)];
                for mark in marks.into_iter().flatten() {
                    let name = &entrant.source.name;
                    let mut registered = name.clone();
                    if let Some(registry) = registries.get(lane) {
                        registered = format!("{name}{}{mark}", enrolment.suffix);
                        registry.add(&registered, &entrant.source, &overrides)?;
                    }
                    contestants.push(Contestant {
                        function: format!("{name}{mark}"),
                        variant: enrolment.variant.to_owned(),
                        n: 1,
                        registered,
                        path: entrant.path.clone(),
                        lane,
                    });
                }
            }
        }
        Ok(contestants)
    }
}

/// Returns each contestant with each number.
pub fn with_numbers(contestants: &[Contestant], numbers: &[u32]) -> Vec<Contestant> {
    let each = |contestant: &Contestant| {
        let with = |n: &u32| Contestant { n: *n, ..contestant.clone() };
        numbers.iter().map(with).collect::<Vec<_>>()
    };
    contestants.iter().flat_map(each).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_functions_are_found_again() {
        assert_eq!(["f", "f.control", "f.baseline", "f.pause"].map(original), ["f", "f", "f", "f.pause"]);
    }
}
