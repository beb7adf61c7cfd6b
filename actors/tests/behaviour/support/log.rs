//! A log that remembers what was said, and can be told to blow up: that is how a test makes an actor panic in the middle
//! of its work.

use std::{
    panic::{RefUnwindSafe, UnwindSafe},
    sync::{Arc, Mutex, PoisonError},
};

use slog::{Drain, Logger, Never, OwnedKVList, Record, o};

use super::PLANNED;

#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Book>>);

#[derive(Default)]
struct Book {
    lines: Vec<String>,
    mine: Option<&'static str>,
    exploded: usize,
}

impl UnwindSafe for Log {}
impl RefUnwindSafe for Log {}

impl Log {
    pub fn logger(&self) -> Logger {
        Logger::root(self.clone(), o!())
    }

    /// Whoever says this next panics while doing so.
    pub fn panic_at(&self, line: &'static str) {
        self.book(|book| book.mine = Some(line));
    }

    /// Nobody panics any more.
    pub fn calm_down(&self) {
        self.book(|book| book.mine = None);
    }

    /// How often somebody panicked.
    pub fn exploded(&self) -> usize {
        self.book(|book| book.exploded)
    }

    /// How often this was said.
    pub fn count(&self, line: &str) -> usize {
        self.book(|book| book.lines.iter().filter(|said| *said == line).count())
    }

    fn book<T>(&self, look: impl FnOnce(&mut Book) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drain for Log {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, _: &OwnedKVList) -> Result<(), Never> {
        let line = record.msg().to_string();
        let explodes = self.book(|book| {
            let explodes = book.mine.take_if(|mine| *mine == line).is_some();
            book.exploded += usize::from(explodes);
            book.lines.push(line.clone());
            explodes
        });
        assert!(!explodes, "{PLANNED}: {line}");
        Ok(())
    }
}
