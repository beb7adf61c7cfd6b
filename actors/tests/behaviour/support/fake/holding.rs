//! What the host provides for one order.

use unifaas_actors::sandbox::LaunchOrder;

use super::Fake;

/// Released when it is dropped.
pub(super) struct Holding {
    fake: Fake,
    memory: u64,
    version: Option<String>,
}

/// The variable in which a test numbers the versions of a function, so that instances of different versions are counted
/// apart: a function that was removed and added again knows nothing of its earlier instances.
pub const VERSION: &str = "VERSION";

impl Holding {
    pub fn new(fake: &Fake, order: &LaunchOrder) -> Self {
        let mut ledger = fake.ledger.borrow_mut();
        let memory = order.spec.memory();
        let version = format!("{} {}", order.spec.name, order.spec.env.get(VERSION).map_or("", String::as_str));
        ledger.held += 1;
        ledger.max_held = ledger.max_held.max(ledger.held);
        ledger.memory += memory;
        ledger.max_memory = ledger.max_memory.max(ledger.memory);
        let instances = ledger.versions.entry(version.clone()).or_default();
        *instances += 1;
        if order.spec.max_instances.is_some_and(|max| *instances > max.get()) {
            let violation = format!("{instances} instances of {version} at once");
            ledger.violations.push(violation);
        }
        Self { fake: fake.clone(), memory, version: Some(version) }
    }

    /// Returns the holding of an instance that its function does not count any more.
    pub fn detached(mut self) -> Self {
        self.detach();
        self
    }

    fn detach(&mut self) {
        let Some(version) = self.version.take() else { return };
        if let Some(instances) = self.fake.ledger.borrow_mut().versions.get_mut(&version) {
            *instances -= 1;
        }
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.detach();
        let mut ledger = self.fake.ledger.borrow_mut();
        ledger.held -= 1;
        ledger.memory -= self.memory;
    }
}
