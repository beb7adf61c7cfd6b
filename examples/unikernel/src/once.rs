//! Statics that are handed out once, as memory with static lifetime: there is no allocator.

use core::{
    cell::UnsafeCell,
    sync::atomic::{AtomicBool, Ordering},
};

/// A static whose contents can be taken once, by [`take`](Once::take).
pub struct Once<T> {
    taken: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached through `take` only, and that succeeds once.
unsafe impl<T: Send> Sync for Once<T> {}

impl<T> Once<T> {
    /// Creates a static. Zeros take no space in the ELF file.
    pub const fn new(value: T) -> Self {
        Self { taken: AtomicBool::new(false), value: UnsafeCell::new(value) }
    }

    /// Returns the contents.
    ///
    /// # Panics
    /// When it is called a second time.
    #[expect(clippy::mut_from_ref, reason = "the flag sees to it that there is one reference only")]
    pub fn take(&'static self) -> &'static mut T {
        assert!(!self.taken.swap(true, Ordering::Relaxed), "a static was taken twice");
        // SAFETY: by the line above this is the only reference there will ever be.
        unsafe { &mut *self.value.get() }
    }
}
