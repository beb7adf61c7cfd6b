//! The subscriptions that are followed, each until it is cancelled.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use unifaas_actors::trigger::Subscription;

/// A subscription that is followed.
#[derive(Debug)]
pub struct Followed<S> {
    pub subscription: Subscription<S>,
    /// Cancelled when the function does not subscribe any more, or the sources stop.
    pub cancelled: CancellationToken,
}

/// All subscriptions of a source.
#[derive(Debug)]
pub struct AllFollowed<S> {
    stop: CancellationToken,
    followed: Vec<Arc<Followed<S>>>,
}

impl<S: Clone + PartialEq> AllFollowed<S> {
    /// Makes an empty set, of which everything is cancelled with `stop`.
    pub fn new(stop: &CancellationToken) -> Self {
        Self { stop: stop.clone(), followed: Vec::new() }
    }

    /// Follows exactly these subscriptions from now on: cancels others, and returns the new ones.
    pub fn update(&mut self, wanted: &[Subscription<S>]) -> Vec<Arc<Followed<S>>> {
        self.followed.retain(|it| {
            let is_wanted = wanted.contains(&it.subscription);
            if !is_wanted {
                it.cancelled.cancel();
            }
            is_wanted
        });
        let is_new = |wanted: &&Subscription<S>| self.followed.iter().all(|it| it.subscription != **wanted);
        let new: Vec<_> = wanted.iter().filter(is_new).cloned().collect();
        let new = new.into_iter().map(|subscription| {
            let cancelled = self.stop.child_token();
            Arc::new(Followed { subscription, cancelled })
        });
        let new: Vec<_> = new.collect();
        self.followed.extend(new.iter().cloned());
        new
    }

    /// Returns the subscriptions.
    #[cfg_attr(not(feature = "cluster"), allow(dead_code))]
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Followed<S>>> {
        self.followed.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_subscriptions_are_cancelled_and_others_stay() {
        let of = |index, spec| Subscription { function: "f".into(), index, spec };
        let stop = CancellationToken::new();
        let mut all = AllFollowed::new(&stop);
        let first = all.update(&[of(0, "a"), of(1, "b")]);
        assert_eq!(first.len(), 2);
        let second = all.update(&[of(0, "a"), of(1, "c")]);
        assert_eq!(second.iter().map(|it| it.subscription.spec).collect::<Vec<_>>(), ["c"]);
        assert_eq!([&first[0], &first[1], &second[0]].map(|it| it.cancelled.is_cancelled()), [false, true, false]);
        stop.cancel();
        assert!(all.iter().all(|it| it.cancelled.is_cancelled()));
    }
}
