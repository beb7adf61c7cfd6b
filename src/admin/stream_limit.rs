//! How many streams there may be: in all, and of one user.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Streams at once, and those of one user.
const MAX_STREAMS: usize = 32;
const MAX_STREAMS_OF_USER: usize = 8;

/// Who reads a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reader {
    /// A user of this host.
    User(u32),
    /// Another host.
    Host(IpAddr),
}

/// Counts the streams that are open.
#[derive(Debug, Clone, Default)]
pub struct StreamLimiter(Arc<Mutex<HashMap<Reader, usize>>>);

/// The permission for one stream. Dropping it returns it.
#[derive(Debug)]
pub struct StreamPermit {
    limiter: StreamLimiter,
    reader: Reader,
}

impl StreamLimiter {
    /// Admits a stream, unless there are too many.
    pub fn admit(&self, reader: Reader) -> Option<StreamPermit> {
        let mut open = self.lock();
        let all: usize = open.values().sum();
        let of_reader = open.get(&reader).copied().unwrap_or_default();
        if all >= MAX_STREAMS || of_reader >= MAX_STREAMS_OF_USER {
            return None;
        }
        open.insert(reader, of_reader + 1);
        Some(StreamPermit { limiter: self.clone(), reader })
    }

    /// Returns how many streams there are.
    pub fn open(&self) -> usize {
        self.lock().values().sum()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Reader, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        let mut open = self.limiter.lock();
        match open.get_mut(&self.reader) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(open.remove(&self.reader)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_bounded_in_all_and_by_reader() {
        let limiter = StreamLimiter::default();
        let admit = |user, count| (0..count).map(|_| limiter.admit(Reader::User(user))).collect::<Vec<_>>();
        let mut first = admit(1, 8);
        assert!(first.iter().all(Option::is_some) && limiter.admit(Reader::User(1)).is_none());
        first.pop();
        assert!(limiter.admit(Reader::User(1)).is_some());
        let others: Vec<_> = (2..5).flat_map(|user| admit(user, 8)).collect();
        assert!(others.iter().all(Option::is_some));
        let host = Reader::Host([192, 0, 2, 7].into());
        let last = limiter.admit(host);
        assert!(last.is_some() && limiter.admit(host).is_none(), "32 in all");
        drop((first, others, last));
        assert_eq!(limiter.open(), 0);
    }
}
