//! Delivering the results of what the site has run. They wait in a queue of their own, from which any node takes them.

use std::rc::Rc;

use async_nats::jetstream::message::Acker;
use tokio::{task::spawn_local, time::sleep};
use tokio_util::sync::CancellationToken;
use unifaas_actors::{
    inbox::{Command, DeadLetter, Found, UnixMillis},
    site::{RESULTS, SiteStore as _, Work},
};

use super::{
    Use,
    runner::{RETRY, prolonged},
    thread::SiteThread,
};

/// Keeps a dead letter on this node, for its operator, has the result wait for its delivery if there is a receiver, and lets
/// the message go until the next attempt.
pub async fn release(site: &Rc<SiteThread>, mut work: Work<Acker>) {
    if work.call.is_unkept_letter() {
        let found = Found { record: work.call.record.clone(), response: work.call.response.clone() };
        let letter = Box::new(DeadLetter { found, request: work.delivered.request.clone(), keep: work.call.keep });
        if site.node.inbox.ask(|reply| Command::Import(letter, reply)).await.is_err() {
            // The message is delivered again, and the letter is kept then.
            return;
        }
        // Otherwise the next node that gets the message keeps it as well.
        let Some(kept) = site.queue.letter_kept(work, UnixMillis::now()).await else { return };
        work = kept;
    }
    if work.call.undelivered().is_none() {
        return site.queue.release(&work, UnixMillis::now()).await;
    }
    // A full stream takes no other message: it is delivered by this one, which makes room then.
    if site.queue.queue_result(&work, UnixMillis::now()).await {
        deliver(site, &work).await;
    }
}

/// Delivers what waits in the queue of results, until that is cancelled.
pub async fn run(site: Rc<SiteThread>, cancelled: CancellationToken) {
    tokio::select! {
        () = site.queue.0.connected() => {}
        () = cancelled.cancelled() => return,
    }
    loop {
        let pulled = async {
            loop {
                let sent = site.sent.notified();
                if site.receivers.borrow().has_room() {
                    return site.queue.pull(RESULTS).await;
                }
                sent.await;
            }
        };
        let pulled = tokio::select! {
            pulled = pulled => pulled,
            () = cancelled.cancelled() => return,
        };
        site.note(Use::Delivering, pulled.as_ref().err().map(ToString::to_string));
        match pulled {
            Ok(Some(delivered)) => {
                let under_way = site.begin_work();
                let site = site.clone();
                spawn_local(async move {
                    if let Some(work) = site.queue.begin_result(delivered).await {
                        deliver(&site, &work).await;
                    }
                    drop(under_way);
                });
            }
            Ok(None) => {}
            Err(_) => sleep(RETRY).await,
        }
    }
}

/// Sends a result, unless it is too old or its receiver is to be left alone for a while.
async fn deliver(site: &Rc<SiteThread>, work: &Work<Acker>) {
    let Some(receiver) = work.call.undelivered().map(|entry| entry.function) else { return };
    let (receipt, now) = (&work.delivered.receipt, UnixMillis::now());
    let end = if work.call.is_result_expired(now) {
        None
    } else {
        let begun = site.receivers.borrow_mut().begin(&receiver, work.delivered.count, now, rand::random());
        if let Err(pause) = begun {
            return site.queue.0.give_back(receipt, pause).await;
        }
        let mut sending = scopeguard::guard((site.clone(), None), |(site, end)| {
            site.receivers.borrow_mut().ended(&receiver, end, UnixMillis::now(), rand::random());
            site.sent.notify_waiters();
        });
        let found = Found { record: work.call.record.clone(), response: work.call.response.clone() };
        sending.1 = Some(prolonged(site, receipt, site.node.deliverer.send(found)).await);
        sending.1
    };
    if let Some(state) = site.queue.delivered(work, end, UnixMillis::now(), rand::random()).await {
        site.node.stats.count_delivery(state);
    }
}
