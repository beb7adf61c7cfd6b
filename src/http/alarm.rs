//! One timer for everything that a connection ever waits for.
//!
//! Each request has a deadline, and nearly none is ever met: setting and clearing a timer for each would cost more than
//! the deadline is worth. So the alarm stays where it was set as long as that is not too late, and is set anew when it goes
//! off too early.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    task::coop::unconstrained,
    time::{Instant, Sleep, sleep_until},
};

/// Goes off at whatever moment is asked for.
#[derive(Debug, Default)]
pub struct Alarm(Option<Armed>);

#[derive(Debug)]
struct Armed {
    sleep: Pin<Box<Sleep>>,
    /// Whether it has been awaited, so that the task is woken.
    set: bool,
}

impl Alarm {
    /// Ready once `due` has come.
    pub fn poll_at(&mut self, cx: &mut Context<'_>, due: Instant) -> Poll<()> {
        let Armed { sleep, set } =
            self.0.get_or_insert_with(|| Armed { sleep: Box::pin(sleep_until(due)), set: false });
        if sleep.is_elapsed() {
            if sleep.deadline() >= due {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(due);
        } else if *set && sleep.deadline() <= due {
            // Whoever asks is the one task that it will wake.
            return Poll::Pending;
        } else if sleep.deadline() > due {
            sleep.as_mut().reset(due);
        }
        *set = true;
        // Also where one connection has so much to move that a fair runtime would let nothing else of its task proceed.
        Pin::new(&mut unconstrained(sleep.as_mut())).poll(cx)
    }
}

/// For how long something has not moved on.
#[derive(Debug, Default)]
pub struct Standstill(Option<(u64, Instant)>);

impl Standstill {
    /// Since when this has been the count, as far as it was asked for.
    pub fn since(&mut self, count: u64) -> Instant {
        match self.0 {
            Some((same, since)) if same == count => since,
            _ => self.0.insert((count, Instant::now())).1,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, time::Duration};

    use tokio::time::timeout;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn it_goes_off_when_it_is_due_wherever_it_was_set_before() {
        let (mut alarm, began) = (Alarm::default(), Instant::now());
        // Later and later, then sooner: each is abandoned a while before it is due, but for those that are awaited.
        for (due, abandoned) in [(75, true), (5, true), (60, true), (7, false), (70, true), (20, false), (20, false)] {
            let due = began + due * SECOND;
            let gone_off = poll_fn(|cx| alarm.poll_at(cx, due));
            if abandoned {
                assert!(timeout(SECOND, gone_off).await.is_err());
            } else {
                gone_off.await;
                assert_eq!(Instant::now().duration_since(due).as_millis() / 10, 0);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_moves_does_not_stand_still() {
        let (mut standstill, began) = (Standstill::default(), Instant::now());
        let mut asked = Vec::new();
        for count in [1, 1, 2, 2, 2, 7] {
            asked.push((standstill.since(count) - began).as_secs());
            tokio::time::advance(SECOND).await;
        }
        assert_eq!(asked, [0, 0, 2, 2, 2, 5]);
    }

    // On the real clock: one that is paused stands still as long as there is anything to do.
    #[tokio::test]
    async fn it_goes_off_although_its_task_has_used_up_its_share() {
        let (mut alarm, due) = (Alarm::default(), Instant::now() + SECOND / 20);
        let mut turns = 0;
        poll_fn(|cx| {
            turns += 1;
            while let Poll::Ready(share) = tokio::task::coop::poll_proceed(cx) {
                share.made_progress();
            }
            alarm.poll_at(cx, due)
        })
        .await;
        assert!(Instant::now() >= due && turns > 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_earlier_of_two_moments_counts() {
        let (mut alarm, began) = (Alarm::default(), Instant::now());
        let (late, soon) = (began + 60 * SECOND, began + 2 * SECOND);
        let which = poll_fn(|cx| match (alarm.poll_at(cx, late), alarm.poll_at(cx, soon)) {
            (Poll::Ready(()), _) => Poll::Ready("late"),
            (_, soon) => soon.map(|()| "soon"),
        });
        assert_eq!(which.await, "soon");
        assert_eq!(began.elapsed().as_secs(), 2);
    }
}
