//! Whether the network still carries what is sent to another node: the other side of a machine that is gone refuses nothing.
//!
//! The kernel sends again what is not acknowledged, twice within the timeout. A node that is merely slow is not meant: its
//! kernel acknowledges what its program has not read, or says that it takes no more.

use std::{os::fd::OwnedFd, time::Duration};

use tokio::time::{Instant, interval};

use super::tcp_info::{InFlight, in_flight};

/// How long bytes may be under way without an acknowledgement, beside the round trip: the kernel sends them again after some
/// 200 and 400 ms.
const UNANSWERED_TIMEOUT: Duration = Duration::from_millis(450);
/// Between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// What the looks at a connection have found.
#[derive(Debug, Default)]
struct CutWatch {
    /// The first look since which nothing was acknowledged of what is under way.
    first: Option<(Instant, InFlight)>,
}

impl CutWatch {
    /// Takes another look, `None` while nothing is under way. Returns whether the connection is given up.
    fn look(&mut self, seen: Option<InFlight>, now: Instant) -> bool {
        let Some(seen) = seen.filter(|seen| seen.is_unacked) else {
            self.first = None;
            return false;
        };
        let (since, first) = *self.first.get_or_insert((now, seen));
        if seen.acked != first.acked {
            self.first = Some((now, seen));
            return false;
        }
        seen.sent_again != first.sent_again && now - since >= UNANSWERED_TIMEOUT + seen.round_trip
    }
}

/// Resolves once the network does not carry what is sent. While `is_sent` says no, nothing is expected to be under way.
pub async fn until_cut(socket: &OwnedFd, is_sent: impl Fn() -> bool) {
    let (mut interval, mut watch) = (interval(LOOK_INTERVAL), CutWatch::default());
    loop {
        interval.tick().await;
        // Those that a busy thread has missed come all at once.
        let now = Instant::now();
        let seen = if is_sent() { in_flight(socket) } else { None };
        if watch.look(seen, now) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The slowest request that meets a cut takes no longer than this.
    const MOST: Duration = Duration::from_millis(600);

    fn seen(is_unacked: bool, acked: u64, sent_again: u32) -> Option<InFlight> {
        Some(InFlight { is_unacked, acked, sent_again, round_trip: Duration::from_millis(1) })
    }

    /// Looks at a connection until it is given up, at most for so long. Returns when it was.
    fn given_up(limit: Duration, at: impl Fn(Duration) -> Option<InFlight>) -> Option<Duration> {
        let (mut watch, begin) = (CutWatch::default(), Instant::now());
        let looks = (0..).map(|look| LOOK_INTERVAL * look).take_while(|passed| *passed <= limit);
        looks.into_iter().find(|passed| watch.look(at(*passed), begin + *passed))
    }

    #[test]
    fn cut_connection_is_given_up_after_what_was_sent_the_third_time_and_within_600_ms() {
        // Sent again at 201 and 402 ms: by the tail loss probe, and by the timer of retransmission.
        let counted = |passed: Duration| passed.as_millis() as u32 / 201;
        let after = given_up(MOST * 2, |passed| seen(true, 7, counted(passed).min(2))).expect("it is given up");
        assert!(counted(after) >= 2 && after + LOOK_INTERVAL + UNANSWERED_TIMEOUT / 10 <= MOST, "{after:?}");
        // The time counts from the first look at which it was under way.
        let busy = Duration::from_secs(5);
        let later = given_up(busy + MOST, |passed| match passed.checked_sub(busy) {
            Some(passed) => seen(true, 7, counted(passed)),
            None => seen(false, 7, 0),
        });
        assert_eq!(later, Some(busy + after));
    }

    #[test]
    fn far_node_gets_its_round_trip_beside() {
        let far = Duration::from_millis(300);
        let is_far =
            |passed: Duration| seen(true, 7, u32::from(passed > far)).map(|it| InFlight { round_trip: far, ..it });
        assert_eq!(given_up(MOST * 2, is_far), Some(UNANSWERED_TIMEOUT + far));
    }

    #[test]
    fn slow_node_is_not_given_up() {
        let minute = Duration::from_secs(60);
        // It acknowledges, and thinks.
        assert_eq!(given_up(minute, |_| seen(false, 7, 0)), None);
        // It takes a large body slowly: there is always something under way, and some of it is acknowledged.
        assert_eq!(
            given_up(minute, |passed| seen(true, passed.as_millis() as u64 / 400, passed.as_secs() as u32)),
            None
        );
        // Nothing was sent again: the acknowledgement is late by the timers of this host.
        assert_eq!(given_up(minute, |_| seen(true, 7, 3)), None);
        // The kernel tells nothing, or no request is under way.
        assert_eq!(given_up(minute, |_| None), None);
    }
}
