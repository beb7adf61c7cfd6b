//! Timers that a connection keeps for all its deadlines.
//!
//! Each request has deadlines, and nearly none is met. Setting and clearing a timer for each costs more than the
//! deadline is worth. So a timer stays where it was set as long as that is not too late, and is set anew when it fires
//! too early.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    task::coop::unconstrained,
    time::{Instant, Sleep, sleep_until},
};

/// Fires at the moment that it is polled for.
#[derive(Debug, Default)]
pub struct ReusableTimer(Option<Armed>);

#[derive(Debug)]
struct Armed {
    sleep: Pin<Box<Sleep>>,
    /// Whether it has been awaited, so that the task is woken.
    set: bool,
}

impl ReusableTimer {
    /// Ready when `due` has come. To be polled by one task only.
    pub fn poll_at(&mut self, cx: &mut Context<'_>, due: Instant) -> Poll<()> {
        let Armed { sleep, set } =
            self.0.get_or_insert_with(|| Armed { sleep: Box::pin(sleep_until(due)), set: false });
        if sleep.is_elapsed() {
            if sleep.deadline() >= due {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(due);
        } else if *set && sleep.deadline() <= due {
            // It will wake this task, the only one that polls it.
            return Poll::Pending;
        } else if sleep.deadline() > due {
            sleep.as_mut().reset(due);
        }
        *set = true;
        // Unconstrained: it fires even if its task has used up its cooperative budget.
        Pin::new(&mut unconstrained(sleep.as_mut())).poll(cx)
    }
}

/// Measures for how long a count has not changed.
#[derive(Debug, Default)]
pub struct StallTimer(Option<(u64, Instant)>);

impl StallTimer {
    /// Returns since when this has been the count, as far as the timer was asked.
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
    async fn fires_when_due_wherever_it_was_set_before() {
        let (mut timer, began) = (ReusableTimer::default(), Instant::now());
        // Later and later, then sooner: each is abandoned a while before it is due, but for those that are awaited.
        for (due, abandoned) in [(75, true), (5, true), (60, true), (7, false), (70, true), (20, false), (20, false)] {
            let due = began + due * SECOND;
            let fired = poll_fn(|cx| timer.poll_at(cx, due));
            if abandoned {
                assert!(timeout(SECOND, fired).await.is_err());
            } else {
                fired.await;
                assert_eq!(Instant::now().duration_since(due).as_millis() / 10, 0);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_count_that_changes_does_not_stall() {
        let (mut stall, began) = (StallTimer::default(), Instant::now());
        let mut asked = Vec::new();
        for count in [1, 1, 2, 2, 2, 7] {
            asked.push((stall.since(count) - began).as_secs());
            tokio::time::advance(SECOND).await;
        }
        assert_eq!(asked, [0, 0, 2, 2, 2, 5]);
    }

    // On the real clock: a paused clock does not advance while a task is ready.
    #[tokio::test]
    async fn fires_though_its_task_has_used_up_its_budget() {
        let (mut timer, due) = (ReusableTimer::default(), Instant::now() + SECOND / 20);
        let mut turns = 0;
        poll_fn(|cx| {
            turns += 1;
            while let Poll::Ready(budget) = tokio::task::coop::poll_proceed(cx) {
                budget.made_progress();
            }
            timer.poll_at(cx, due)
        })
        .await;
        assert!(Instant::now() >= due && turns > 1);
    }

    #[tokio::test(start_paused = true)]
    async fn fires_at_the_earlier_of_two_deadlines() {
        let (mut timer, began) = (ReusableTimer::default(), Instant::now());
        let (late, soon) = (began + 60 * SECOND, began + 2 * SECOND);
        let which = poll_fn(|cx| match (timer.poll_at(cx, late), timer.poll_at(cx, soon)) {
            (Poll::Ready(()), _) => Poll::Ready("late"),
            (_, soon) => soon.map(|()| "soon"),
        });
        assert_eq!(which.await, "soon");
        assert_eq!(began.elapsed().as_secs(), 2);
    }
}
