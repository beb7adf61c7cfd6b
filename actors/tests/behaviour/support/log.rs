//! A log that keeps its lines, and can be made to panic at one of them. So a test makes an actor panic in the middle of its
//! work.

use std::{
    panic::{RefUnwindSafe, UnwindSafe},
    sync::{Arc, Mutex, PoisonError},
};

use slog::{Drain, Logger, Never, OwnedKVList, Record, o};

use super::PLANNED;

#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<LogState>>);

#[derive(Default)]
struct LogState {
    lines: Vec<String>,
    panic_at: Option<&'static str>,
    panics: usize,
}

impl UnwindSafe for Log {}
impl RefUnwindSafe for Log {}

impl Log {
    pub fn logger(&self) -> Logger {
        Logger::root(self.clone(), o!())
    }

    /// Makes the next actor that logs this line panic.
    pub fn panic_at(&self, line: &'static str) {
        self.with_state(|state| state.panic_at = Some(line));
    }

    /// Undoes [`panic_at`](Self::panic_at).
    pub fn stop_panicking(&self) {
        self.with_state(|state| state.panic_at = None);
    }

    /// Returns how many panics there were.
    pub fn panics(&self) -> usize {
        self.with_state(|state| state.panics)
    }

    /// Returns how often this line was logged.
    pub fn count(&self, line: &str) -> usize {
        self.with_state(|state| state.lines.iter().filter(|logged| *logged == line).count())
    }

    fn with_state<T>(&self, act: impl FnOnce(&mut LogState) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drain for Log {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, _: &OwnedKVList) -> Result<(), Never> {
        let line = record.msg().to_string();
        let panics = self.with_state(|state| {
            let panics = state.panic_at.take_if(|panic_at| *panic_at == line).is_some();
            state.panics += usize::from(panics);
            state.lines.push(line.clone());
            panics
        });
        assert!(!panics, "{PLANNED}: {line}");
        Ok(())
    }
}
