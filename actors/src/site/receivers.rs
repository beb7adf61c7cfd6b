//! Which results of the site a node sends now, and for how long the others are left alone. Pure.

use std::{collections::HashMap, sync::Arc, time::Duration};

use crate::inbox::{DeliveryEnd, IN_ALL, TO_ONE, UnixMillis, pause_of_receiver, pause_of_result};

/// The longest time until a result is looked at again whose receiver has answered.
const BUSY: Duration = Duration::from_secs(15);

/// The receivers that this node sends results to, by scheme, host and port.
#[derive(Debug, Default)]
pub struct Receivers {
    known: HashMap<Arc<str>, Receiver>,
    sending: usize,
}

#[derive(Debug, Default)]
struct Receiver {
    sending: usize,
    /// Attempts in a row that it did not answer.
    failures: u32,
    paused_until: UnixMillis,
}

impl Receivers {
    /// Whether another result may be sent, to any receiver.
    pub fn has_room(&self) -> bool {
        self.sending < IN_ALL
    }

    /// Begins to send a result; [`ended`](Self::ended) follows. `looks`: how often it was looked at, this time included.
    /// `random` is from 0 to 1.
    ///
    /// # Errors
    /// How long it is left alone: the receiver gets as many as it may, or has not answered lately.
    pub fn begin(&mut self, receiver: &Arc<str>, looks: u64, now: UnixMillis, random: f64) -> Result<(), Duration> {
        let has_room = self.has_room();
        let known = self.known.entry(receiver.clone()).or_default();
        if !has_room || known.sending >= TO_ONE || now < known.paused_until {
            let looks = u32::try_from(looks).unwrap_or(u32::MAX);
            let (paused, pause) = (now.until(known.paused_until), pause_of_result(looks, random));
            // A busy receiver may be idle soon.
            return Err(if paused.is_zero() { pause.min(BUSY) } else { pause.max(paused) });
        }
        known.sending += 1;
        self.sending += 1;
        Ok(())
    }

    /// Ends what [`begin`](Self::begin) began. Without `end`, nothing is known of the receiver.
    pub fn ended(&mut self, receiver: &Arc<str>, end: Option<DeliveryEnd>, now: UnixMillis, random: f64) {
        let Some(known) = self.known.get_mut(receiver) else { return };
        known.sending -= 1;
        self.sending -= 1;
        match end {
            None | Some(DeliveryEnd::Forbidden) => {}
            Some(DeliveryEnd::Unreachable) => {
                known.failures += 1;
                known.paused_until = now.after(pause_of_receiver(known.failures, random));
            }
            Some(DeliveryEnd::Confirmed | DeliveryEnd::Refused) => {
                known.failures = 0;
                known.paused_until = now;
            }
        }
        self.known.retain(|_, known| known.sending > 0 || known.failures > 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = UnixMillis(1_000_000);

    fn after(seconds: u64) -> UnixMillis {
        NOW.after(Duration::from_secs(seconds))
    }

    #[test]
    fn receiver_gets_so_many_at_once_and_the_others_are_looked_at_less_and_less_often() {
        let (mut receivers, away, other) = (Receivers::default(), "http://away".into(), "http://other".into());
        for _ in 0..TO_ONE {
            assert_eq!(receivers.begin(&away, 1, NOW, 1.0), Ok(()));
        }
        for (looks, pause) in [(1, 1), (2, 2), (4, 8), (100, 15), (u64::MAX, 15)] {
            assert_eq!(receivers.begin(&away, looks, NOW, 1.0), Err(Duration::from_secs(pause)), "{looks}");
        }
        assert_eq!(receivers.begin(&other, 1, NOW, 1.0), Ok(()), "others are not held up");
        receivers.ended(&away, Some(DeliveryEnd::Confirmed), NOW, 1.0);
        assert_eq!(receivers.begin(&away, 9, NOW, 1.0), Ok(()));
    }

    #[test]
    fn receiver_that_does_not_answer_is_left_alone_until_it_is_tried_again() {
        let (mut receivers, away) = (Receivers::default(), "http://away".into());
        let mut now = NOW;
        for pause in [1, 2, 4, 8, 16, 30, 30] {
            assert_eq!(receivers.begin(&away, 1, now, 1.0), Ok(()));
            receivers.ended(&away, Some(DeliveryEnd::Unreachable), now, 1.0);
            let wait = Duration::from_secs(pause);
            assert_eq!(receivers.begin(&away, 1, now, 1.0), Err(wait), "no result is sent there");
            assert_eq!(receivers.begin(&away, 100, now, 1.0), Err(Duration::from_secs(300)), "results may be many");
            now = now.after(wait);
        }
        assert_eq!(receivers.begin(&away, 1, now, 1.0), Ok(()));
        receivers.ended(&away, Some(DeliveryEnd::Refused), now, 1.0);
        assert!(receivers.known.is_empty(), "it has answered");
    }

    #[test]
    fn in_all_there_is_a_limit_and_what_ended_without_an_answer_says_nothing() {
        let mut receivers = Receivers::default();
        let names: Vec<Arc<str>> = (0..=IN_ALL).map(|number| number.to_string().into()).collect();
        for name in &names[..IN_ALL] {
            assert_eq!(receivers.begin(name, 1, NOW, 1.0), Ok(()));
        }
        assert!(!receivers.has_room());
        assert_eq!(receivers.begin(&names[IN_ALL], 1, NOW, 1.0), Err(Duration::from_secs(1)));
        receivers.ended(&names[0], None, NOW, 1.0);
        assert_eq!(receivers.begin(&names[IN_ALL], 1, after(1), 1.0), Ok(()));
    }
}
