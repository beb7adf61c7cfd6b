//! What one connection's client has been doing, and whether it has kept the daemon waiting for too long. Pure.
//!
//! A request costs no more than a few numbers written down here. `crowd.rs` looks at them once a second, and its clock
//! counts in seconds as well: a limit is kept to a second or two.

use std::cell::Cell;

/// How long a client may take for what it has to do, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// From the first byte of a request's head to its last.
    pub head: u32,
    /// Between requests.
    pub rest: u32,
    /// To take some tens of kilobytes of a response that are there for it. `None`: as long as it likes.
    pub stall: Option<u32>,
    /// Bytes that may come before a request's head is complete.
    pub head_bytes: usize,
}

/// Seconds in which a client may take its last answer. The server itself would wait for the end of a body that nobody
/// wants.
const GOODBYE: u32 = 1;

/// Why a connection has to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offence {
    /// The head of its request takes too long.
    SlowHead,
    /// The head of its request is too large.
    LargeHead,
    /// It has asked for nothing for too long.
    Idle,
    /// It has been told that this was its last answer, and stays.
    Dismissed,
    /// It takes nothing of its response.
    Stalled,
    /// It has asked for nothing for longer than the others, and somebody else needs its place.
    InTheWay,
}

/// The notes about one connection. Moments are seconds of the crowd's clock.
#[derive(Debug)]
pub struct Manners {
    /// When its last bytes came.
    heard: Cell<u32>,
    /// When bytes came that belong to no request yet, and how many have come since.
    begun: Cell<Option<u32>>,
    head_bytes: Cell<usize>,
    /// Since when something waits to be taken by it.
    stalled: Cell<Option<u32>>,
    /// Whether a request of it is being served.
    served: Cell<bool>,
    /// Since when it should have gone.
    dismissed: Cell<Option<u32>>,
}

impl Manners {
    /// Of a connection that has just come.
    pub fn new(now: u32) -> Self {
        Self {
            heard: Cell::new(now),
            begun: Cell::new(None),
            head_bytes: Cell::new(0),
            stalled: Cell::new(None),
            served: Cell::new(false),
            dismissed: Cell::new(None),
        }
    }

    /// So many bytes have come.
    pub fn hears(&self, bytes: usize, now: u32) {
        self.heard.set(now);
        if !self.served.get() && bytes > 0 {
            self.head_bytes.set(self.head_bytes.get().saturating_add(bytes));
            if self.begun.get().is_none() {
                self.begun.set(Some(now));
            }
        }
    }

    /// How many bytes have come that belong to no request yet.
    pub fn head_bytes(&self) -> usize {
        self.head_bytes.get()
    }

    /// The head of a request is complete.
    pub fn asks(&self) {
        self.begun.set(None);
        self.head_bytes.set(0);
    }

    /// Its request is served from now on, or is over.
    pub fn is_served(&self, served: bool) {
        self.served.set(served);
    }

    /// It gets its last answer now.
    pub fn dismiss(&self, now: u32) {
        self.dismissed.set(Some(now));
    }

    /// It does not take what is there for it.
    pub fn stalls(&self, now: u32) {
        if self.stalled.get().is_none() {
            self.stalled.set(Some(now));
        }
    }

    /// It has taken all that was there for it.
    pub fn keeps_up(&self) {
        self.stalled.set(None);
    }

    /// What it has done wrong by now.
    pub fn offence(&self, now: u32, patience: &Patience) -> Option<Offence> {
        let longer = |since: u32, limit: u32| now.saturating_sub(since) > limit;
        if let (Some(since), Some(limit)) = (self.stalled.get(), patience.stall)
            && longer(since, limit)
        {
            return Some(Offence::Stalled);
        }
        if self.served.get() {
            return None;
        }
        if self.dismissed.get().is_some_and(|since| longer(since, GOODBYE)) {
            return Some(Offence::Dismissed);
        }
        match self.begun.get() {
            Some(since) if longer(since, patience.head) => Some(Offence::SlowHead),
            _ => longer(self.heard.get(), patience.rest).then_some(Offence::Idle),
        }
    }

    /// Since when it has been doing nothing that is worth its place.
    pub fn resting_since(&self) -> Option<u32> {
        (!self.served.get() && self.stalled.get().is_none()).then(|| self.heard.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience { head: 5, rest: 80, stall: Some(30), head_bytes: 100 };

    /// The offence after each second, and the second of the first one.
    fn first_offence(manners: &Manners, from: u32) -> Option<(u32, Offence)> {
        (from..from + 1000).find_map(|now| Some((now, manners.offence(now, &PATIENCE)?)))
    }

    #[test]
    fn a_client_may_rest_for_so_long_and_no_longer() {
        let manners = Manners::new(7);
        assert_eq!(first_offence(&manners, 7), Some((7 + 81, Offence::Idle)));
    }

    #[test]
    fn a_head_that_was_begun_must_be_ended_however_often_a_byte_comes() {
        let manners = Manners::new(0);
        for now in 50..=55 {
            manners.hears(1, now);
            assert_eq!(manners.offence(now, &PATIENCE), None);
        }
        manners.hears(1, 56);
        assert_eq!(manners.offence(56, &PATIENCE), Some(Offence::SlowHead));
        manners.asks();
        assert_eq!(manners.offence(56, &PATIENCE), None);
    }

    #[test]
    fn the_bytes_of_each_head_are_counted_on_their_own() {
        let manners = Manners::new(0);
        manners.hears(100, 0);
        manners.hears(1, 0);
        assert_eq!(manners.head_bytes(), 101);
        manners.asks();
        manners.hears(7, 0);
        assert_eq!(manners.head_bytes(), 7);
        manners.is_served(true);
        manners.hears(1000, 0);
        assert_eq!(manners.head_bytes(), 7, "those of a body");
    }

    #[test]
    fn while_a_request_is_served_nobody_asks_for_another() {
        let manners = Manners::new(0);
        manners.hears(50, 0);
        manners.asks();
        manners.is_served(true);
        manners.hears(1_000_000, 3);
        assert_eq!(first_offence(&manners, 3), None);
        assert_eq!(manners.resting_since(), None);
        manners.is_served(false);
        assert_eq!(first_offence(&manners, 3), Some((3 + 81, Offence::Idle)));
        assert_eq!(manners.resting_since(), Some(3));
    }

    #[test]
    fn who_got_a_last_answer_has_to_go() {
        let manners = Manners::new(0);
        manners.is_served(true);
        manners.dismiss(7);
        manners.is_served(false);
        assert_eq!(first_offence(&manners, 7), Some((9, Offence::Dismissed)));
    }

    #[test]
    fn a_response_that_is_not_taken_is_an_offence_whoever_is_served() {
        let manners = Manners::new(0);
        manners.is_served(true);
        manners.stalls(10);
        manners.stalls(39);
        assert_eq!(manners.offence(40, &PATIENCE), None);
        assert_eq!(manners.offence(41, &PATIENCE), Some(Offence::Stalled));
        manners.keeps_up();
        assert_eq!(first_offence(&manners, 41), None);
        manners.stalls(50);
        assert_eq!(manners.offence(1000, &Patience { stall: None, ..PATIENCE }), None);
        manners.is_served(false);
        assert_eq!(manners.resting_since(), None, "its last response is still on the way");
    }
}
