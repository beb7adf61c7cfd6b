//! Delivering the results of what the site has run: by the node that has ended it, and again by any node that takes its message.

use std::{rc::Rc, sync::Arc, time::Duration};

use async_nats::jetstream::message::Acker;
use unifaas_actors::{
    inbox::{Found, IN_ALL, TO_ONE, UnixMillis},
    site::{SiteStore as _, Work},
    spec::AsyncSpec,
};

use super::{runner::prolonged, thread::SiteThread};

/// When a result is tried again whose receiver gets as many as it may at the same time.
const BUSY: Duration = Duration::from_secs(1);

/// Sends the result of a call that has ended, and records that. Without a receiver, lets its message go.
pub async fn deliver(site: &Rc<SiteThread>, work: &Work<Acker>, policy: &AsyncSpec) {
    let Some(entry) = work.call.undelivered() else { return site.queue.release(work, UnixMillis::now()).await };
    let receipt = &work.delivered.receipt;
    let Some(_sending) = begin(site, &entry.function) else { return site.queue.0.give_back(receipt, BUSY).await };
    let inbox = &site.shared.inbox;
    let found = Found { record: work.call.record.clone(), response: work.call.response.clone() };
    let end = prolonged(site, receipt, inbox.send_result(found)).await;
    if let Some(state) = site.queue.delivered(work, end, policy, UnixMillis::now(), rand::random()).await {
        inbox.stats.count_delivery(state);
    }
}

/// Counts a result that is sent to a receiver, until the guard is dropped. `None`: there are too many.
fn begin(site: &Rc<SiteThread>, receiver: &Arc<str>) -> Option<impl Drop> {
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
