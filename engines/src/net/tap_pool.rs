//! Taps, and the pool of those that are ready for a lease.
//!
//! The pool is shared: a launch takes a tap from it without waiting for the thread of `tap_manager.rs`.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use super::subnet::PointToPoint;

/// What guests on a tap have, and what they reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TapKind {
    /// An address of its own.
    Closed,
    /// The outside as well.
    Open,
    /// The address of all clones.
    Clone,
}

/// A tap device that is up, and the point-to-point subnet it is one end of.
#[derive(Debug)]
pub struct Tap {
    pub name: String,
    pub link: PointToPoint,
    /// The interface index.
    pub index: u32,
    /// The port at which guests with the address of clones call back.
    pub callback_port: u16,
    pub kind: TapKind,
    /// Closed once the interface is removed.
    pub present: watch::Receiver<()>,
}

impl Tap {
    /// Returns whether the interface was removed, by this daemon or by another process.
    pub fn is_removed(&self) -> bool {
        self.present.has_changed().is_err()
    }
}

/// The pools of both kinds that are prepared. Copies share the same taps.
#[derive(Debug, Clone, Default)]
pub struct TapPools {
    pub closed: TapPool,
    pub clones: TapPool,
}

impl TapPools {
    /// Returns the pool of a kind. `None`: these taps are made when they are wanted.
    pub fn of(&self, kind: TapKind) -> Option<&TapPool> {
        match kind {
            TapKind::Closed => Some(&self.closed),
            TapKind::Open => None,
            TapKind::Clone => Some(&self.clones),
        }
    }

    /// Removes the tap with this interface index, if it is in a pool.
    pub fn remove(&self, index: u32) -> Option<Tap> {
        self.closed.remove(index).or_else(|| self.clones.remove(index))
    }
}

/// Taps without a guest. Copies share the same taps.
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
