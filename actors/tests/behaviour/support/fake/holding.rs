//! What the host provides for one order.

use std::{cell::Cell, rc::Rc};

use unifaas_actors::{
    sandbox::{LaunchOrder, Purpose},
    spec::SandboxSpec,
};

use super::Fake;

/// Released when it is dropped.
pub(super) struct Holding {
    fake: Fake,
    memory: u64,
    /// The part of the memory that it does not hold while it is paused.
    spared: Rc<Cell<u64>>,
    version: Option<String>,
}

/// The variable in which a test numbers the versions of a function, so that instances of different versions are counted
/// apart: a function that was removed and added again knows nothing of its earlier instances. A guest has the number on its
/// command line.
pub const VERSION: &str = "VERSION";

impl Holding {
    pub fn new(fake: &Fake, order: &LaunchOrder) -> Self {
        let mut ledger = fake.ledger.borrow_mut();
        let memory = order.spec.memory();
        let version = match &order.spec.sandbox {
            SandboxSpec::Vm(vm) => &vm.cmdline,
            _ => order.spec.env.get(VERSION).map_or("", String::as_str),
        };
        let version = format!("{} {version}", order.spec.name);
        ledger.held += 1;
        ledger.max_held = ledger.max_held.max(ledger.held);
        ledger.memory += memory;
        ledger.max_memory = ledger.max_memory.max(ledger.memory);
        // Templates do not count for the maximum.
        if order.purpose == Purpose::Template {
            return Self { fake: fake.clone(), memory, spared: Rc::default(), version: None };
        }
        let instances = ledger.versions.entry(version.clone()).or_default();
        *instances += 1;
        if order.spec.max_instances.is_some_and(|max| *instances > max.get()) {
            let violation = format!("{instances} instances of {version} at once");
            ledger.violations.push(violation);
        }
        Self { fake: fake.clone(), memory, spared: Rc::default(), version: Some(version) }
    }

    /// Returns how its memory is held.
    pub fn memory(&self) -> HeldMemory {
        HeldMemory { fake: self.fake.clone(), declared: self.memory, spared: self.spared.clone() }
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
        ledger.memory -= self.memory - self.spared.take();
    }
}

/// The memory of an instance, all of which it holds unless it is paused.
#[derive(Clone)]
pub(super) struct HeldMemory {
    fake: Fake,
    declared: u64,
    spared: Rc<Cell<u64>>,
}

impl HeldMemory {
    /// Holds no more than the footprint, in MiB.
    pub fn shrink(&self, footprint: u64) {
        self.spared.set(self.declared.saturating_sub(footprint));
        self.fake.ledger.borrow_mut().memory -= self.spared.get();
    }

    /// Holds all of it again.
    pub fn grow(&self) {
        let mut ledger = self.fake.ledger.borrow_mut();
        ledger.memory += self.spared.take();
        ledger.max_memory = ledger.max_memory.max(ledger.memory);
    }
}
