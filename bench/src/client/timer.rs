//! A timer with the resolution of the kernel's: the runtime's own has milliseconds.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd, RawFd},
};

use nix::sys::{
    time::TimeSpec,
    timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
};
use tokio::{io::unix::AsyncFd, task::yield_now};

use crate::clock;

/// Waits for times of the monotonic clock.
#[derive(Debug)]
pub struct Timer(AsyncFd<Descriptor>);

/// What the runtime waits for.
#[derive(Debug)]
struct Descriptor(TimerFd);

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Timer {
    /// Creates a timer. Needs a runtime.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn new() -> io::Result<Self> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let descriptor = Descriptor(TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?);
        // SAFETY: the timer owns its descriptor, always returns the same, and closes it only when it is dropped, which is
        // after the registration has ended.
        Ok(Self(unsafe { AsyncFd::register(descriptor) }?))
    }

    /// Waits until `at`, in nanoseconds. If that is over, only lets other tasks run.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn until(&self, at: u64) -> io::Result<()> {
        if at <= clock::now() {
            yield_now().await;
            return Ok(());
        }
        let spec = TimeSpec::new((at / 1_000_000_000) as i64, (at % 1_000_000_000) as i64);
        self.0.get_ref().0.set(Expiration::OneShot(spec), TimerSetTimeFlags::TFD_TIMER_ABSTIME)?;
        // Setting it has cleared what an earlier time left.
        let mut ready = self.0.readable().await?;
        self.0.get_ref().0.wait()?;
        ready.clear_ready();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waits_are_not_rounded_to_milliseconds() {
        let timer = Timer::new().unwrap();
        let mut shortest = u64::MAX;
        for _ in 0..50 {
            let (began, wait) = (clock::now(), 200_000);
            timer.until(began + wait).await.unwrap();
            let took = clock::now() - began;
            assert!(took >= wait, "{took}");
            shortest = shortest.min(took);
        }
        assert!(shortest < 900_000, "{shortest} ns instead of 200,000");
        timer.until(0).await.unwrap();
    }
}
