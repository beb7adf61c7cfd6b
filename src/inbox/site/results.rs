//! Delivering the results of what the site has run: by the node that has ended it, and again by any node that takes its message.

use std::{rc::Rc, sync::Arc, time::Duration};

use async_nats::jetstream::message::Acker;
use unifaas_actors::{
    inbox::{Command, DeadLetter, Found, IN_ALL, TO_ONE, UnixMillis},
    site::{SiteStore as _, Work},
    spec::AsyncSpec,
};

use super::{runner::prolonged, thread::SiteThread};

/// When a result is tried again whose receiver gets as many as it may at the same time.
const BUSY: Duration = Duration::from_secs(1);

/// Keeps a dead letter on this node, for its operator, sends the result if there is a receiver, and lets the message go until
/// the next attempt.
pub async fn release(site: &Rc<SiteThread>, work: &Work<Acker>, policy: &AsyncSpec) {
    let (inbox, receipt) = (&site.shared.inbox, &work.delivered.receipt);
    let receiver = work.call.undelivered().map(|entry| entry.function);
    let sending = receiver.as_ref().and_then(|receiver| begin(site, receiver));
    if receiver.is_some() && sending.is_none() {
        // Nor is a dead letter kept here: the next node to get the message would keep it as well.
        return site.queue.0.give_back(receipt, BUSY).await;
    }
    let found = Found { record: work.call.record.clone(), response: work.call.response.clone() };
    if work.call.is_unkept_letter() {
        let (found, request) = (found.clone(), work.delivered.request.clone());
        let letter = Box::new(DeadLetter { found, request, keep: policy.keep_dead });
        if inbox.handle.ask(|reply| Command::Import(letter, reply)).await.is_err() {
            // The message is delivered again, and the letter is kept then.
            return;
        }
    }
    if receiver.is_none() {
        return site.queue.release(work, UnixMillis::now()).await;
    }
    let end = prolonged(site, receipt, inbox.send_result(found)).await;
    if let Some(state) = site.queue.delivered(work, end, policy, UnixMillis::now(), rand::random()).await {
        inbox.stats.count_delivery(state);
    }
}

/// Counts a result that is sent to a receiver, until the guard is dropped. `None`: there are too many.
fn begin(site: &Rc<SiteThread>, receiver: &Arc<str>) -> Option<impl Drop + use<>> {
    let mut sending = site.sending.borrow_mut();
    let to_one = sending.iter().filter(|other| *other == receiver).count();
    if to_one >= TO_ONE || sending.len() >= IN_ALL {
        return None;
    }
    sending.push(receiver.clone());
    Some(scopeguard::guard((site.clone(), receiver.clone()), |(site, receiver)| {
        let mut sending = site.sending.borrow_mut();
        if let Some(place) = sending.iter().position(|other| *other == receiver) {
            sending.swap_remove(place);
        }
    }))
}
