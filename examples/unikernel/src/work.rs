//! Work of a known size, for `unifaas bench`: what `examples/bench` does, as far as it needs neither floating point nor a disk.
//!
//! Work advances in slices between the turns of the main loop, so that the network does not wait for it.

/// Additions of a slice.
const SLICE: u64 = 1_000_000;
const PAGE: usize = 4096;

/// Work that a request asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Work {
    /// A Fibonacci number modulo 2^64, by so many additions.
    Fib {
        /// All additions.
        n: u64,
        /// Those so far.
        done: u64,
        /// The number that they have led to.
        this: u64,
        /// The one after it.
        next: u64,
    },
    /// So many pages that are written and read.
    Touch {
        /// Their number.
        pages: usize,
    },
    /// The processor for so many microseconds.
    Burn {
        /// Their number.
        microseconds: u64,
    },
}

/// The state of work after a slice.
#[derive(Debug, PartialEq)]
pub enum Progress {
    /// There is more to do.
    More,
    /// It is done, with a number for the response.
    Done(u64),
    /// Its result is wrong.
    Wrong,
}

impl Work {
    /// Returns the work of `/fib`.
    pub const fn fib(n: u64) -> Self {
        Self::Fib { n, done: 0, this: 0, next: 1 }
    }

    /// Returns the work of `/alloc`.
    pub const fn touch(bytes: usize) -> Self {
        Self::Touch { pages: bytes.div_ceil(PAGE) }
    }

    /// Does the next slice, `elapsed` microseconds after the first one. `memory` is free for it.
    pub fn step(&mut self, elapsed: u64, memory: &mut [u8]) -> Progress {
        match self {
            Self::Fib { n, done, this, next } => {
                let end = (*done + SLICE).min(*n);
                for _ in *done..end {
                    // Without the barrier, the compiler may find a shorter way.
                    (*this, *next) = (*next, core::hint::black_box(this.wrapping_add(*next)));
                }
                *done = end;
                match end == *n {
                    false => Progress::More,
                    true if *this == fib_by_doubling(*n).0 => Progress::Done(*this),
                    true => Progress::Wrong,
                }
            }
            Self::Touch { pages } => match touch(memory, *pages) {
                touched if touched == *pages => Progress::Done(touched as u64),
                _ => Progress::Wrong,
            },
            Self::Burn { microseconds } if elapsed < *microseconds => Progress::More,
            Self::Burn { .. } => Progress::Done(elapsed),
        }
    }
}

/// Writes to each page, and returns how many have what was written.
fn touch(memory: &mut [u8], pages: usize) -> usize {
    // Another value than the last time.
    let value = memory.first().map_or(1, |byte| byte.wrapping_add(1));
    memory.iter_mut().step_by(PAGE).take(pages).for_each(|byte| *byte = value);
    let memory = core::hint::black_box(memory);
    memory.iter().step_by(PAGE).take(pages).filter(|byte| **byte == value).count()
}

/// Returns the Fibonacci numbers `n` and `n + 1` modulo 2^64, by doubling.
fn fib_by_doubling(n: u64) -> (u64, u64) {
    if n == 0 {
        return (0, 1);
    }
    let (this, next) = fib_by_doubling(n / 2);
    let even = this.wrapping_mul(next.wrapping_mul(2).wrapping_sub(this));
    let odd = this.wrapping_mul(this).wrapping_add(next.wrapping_mul(next));
    if n.is_multiple_of(2) { (even, odd) } else { (odd, even.wrapping_add(odd)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(mut work: Work, memory: &mut [u8]) -> (u32, Progress) {
        (1..)
            .map(|count| (count, work.step(count.into(), memory)))
            .find(|(_, progress)| *progress != Progress::More)
            .unwrap()
    }

    #[test]
    fn fibonacci_numbers_are_found_in_slices() {
        assert_eq!(end(Work::fib(90), &mut []), (1, Progress::Done(2_880_067_194_370_816_120)));
        assert_eq!(end(Work::fib(0), &mut []), (1, Progress::Done(0)));
        assert_eq!(end(Work::fib(2_500_000), &mut []).0, 3);
    }

    #[test]
    fn a_wrong_result_is_noticed() {
        let wrong = Work::Fib { n: 10, done: 5, this: 5, next: 9 };
        assert_eq!(end(wrong, &mut []), (1, Progress::Wrong));
        assert_eq!(end(Work::touch(8192), &mut [0; 4096]), (1, Progress::Wrong), "there are fewer pages");
    }

    #[test]
    fn pages_are_touched_each_time() {
        let mut memory = [0; 3 * PAGE];
        for time in 1..=2 {
            assert_eq!(end(Work::touch(2 * PAGE), &mut memory), (1, Progress::Done(2)));
            assert_eq!([0, PAGE, 2 * PAGE].map(|at| memory[at]), [time, time, 0]);
        }
    }

    #[test]
    fn the_processor_is_used_for_as_long_as_was_asked() {
        assert_eq!(end(Work::Burn { microseconds: 20 }, &mut []), (20, Progress::Done(20)));
    }
}
