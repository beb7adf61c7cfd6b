//! Taps, and the pool of those that are ready for a lease.
//!
//! The pool is shared: a launch takes a tap from it without waiting for the thread of `tap_manager.rs`.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use super::subnet::PointToPoint;

/// A tap device that is up, and the point-to-point subnet it is one end of.
#[derive(Debug)]
pub struct Tap {
    pub name: String,
    pub link: PointToPoint,
    /// The interface index.
    pub index: u32,
    /// Whether its guest may reach the outside.
    pub egress: bool,
    /// Closed once the interface is removed.
    pub present: watch::Receiver<()>,
}

impl Tap {
    /// Returns whether the interface was removed, by this daemon or by another process.
    pub fn is_removed(&self) -> bool {
        self.present.has_changed().is_err()
    }
}

/// Taps without a guest. Clones share the same taps.
#[derive(Debug, Clone, Default)]
pub struct TapPool(Arc<Mutex<VecDeque<Tap>>>);

impl TapPool {
    /// Takes the tap that was returned first: the kernel stays busy for a while with a tap that was just detached.
    pub fn take(&self) -> Option<Tap> {
        self.lock().pop_front()
    }

    /// Adds a tap.
    pub fn put(&self, tap: Tap) {
        self.lock().push_back(tap);
    }

    /// Removes the tap with this interface index, if it is in the pool.
    pub fn remove(&self, index: u32) -> Option<Tap> {
        let mut taps = self.lock();
        let position = taps.iter().position(|tap| tap.index == index)?;
        taps.remove(position)
    }

    /// Returns the number of taps in the pool.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Tap>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
