//! Interim responses (RFC 9110, section 15.2) on their way from the connection's task to the client's.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use http::{HeaderMap, StatusCode};

/// Interim responses that may wait: an instance may send them without end.
const MAX_WAITING: usize = 8;

/// A queue of interim responses other than `100`. What finds it full is dropped.
#[derive(Debug, Default)]
pub struct InterimResponses(Mutex<Queue>);

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<(StatusCode, HeaderMap)>,
    waker: Option<Waker>,
}

impl InterimResponses {
    pub(super) fn push(&self, status: StatusCode, headers: &HeaderMap) {
        let mut queue = self.lock();
        if queue.waiting.len() < MAX_WAITING {
            queue.waiting.push_back((status, headers.clone()));
        }
        if let Some(waker) = queue.waker.take() {
            waker.wake();
        }
    }

    /// Ready with the next one.
    pub fn poll_next(&self, cx: &Context<'_>) -> Poll<(StatusCode, HeaderMap)> {
        let mut queue = self.lock();
        match queue.waiting.pop_front() {
            Some(response) => Poll::Ready(response),
            None => {
                if !queue.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                    queue.waker = Some(cx.waker().clone());
                }
                Poll::Pending
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
