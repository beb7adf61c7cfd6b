//! Statics that are handed out once, as memory for the lifetime of the machine: there is no allocator.

use core::{
    cell::UnsafeCell,
    sync::atomic::{AtomicBool, Ordering},
};

/// A static whose contents one owner can [`take`](Once::take).
pub struct Once<T> {
    taken: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached through `take` only, and that succeeds once.
unsafe impl<T: Send> Sync for Once<T> {}

impl<T> Once<T> {
    /// A static that is not taken yet. Zeros cost no room in the ELF file.
    pub const fn new(value: T) -> Self {
        Self { taken: AtomicBool::new(false), value: UnsafeCell::new(value) }
    }

    /// The contents, for good.
    ///
    /// # Panics
    /// The second time.
    #[expect(clippy::mut_from_ref, reason = "the flag sees to it that there is one reference only")]
    pub fn take(&'static self) -> &'static mut T {
        assert!(!self.taken.swap(true, Ordering::Relaxed), "a static was taken twice");
        // SAFETY: by the line above this is the only reference there will ever be.
        unsafe { &mut *self.value.get() }
    }
}
