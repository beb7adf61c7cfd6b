//! Handing invocations over: from the database of this node to the server of the site.

use std::{rc::Rc, time::Duration};

use futures::{StreamExt as _, stream};
use tokio::{sync::oneshot, time::sleep};
use unifaas_actors::{
    inbox::{Begun, Command, InvocationId, Removal, UnixMillis},
    site::{Offer, OfferError, Offered, SiteError},
};

use super::{Place, Use, thread::SiteThread};
use crate::inbox::store::fingerprint;

/// How long a client may wait for its answer: only then the rest is handed over.
const ANSWERED: Duration = Duration::from_secs(3);
/// Between two looks at what waits, while nothing of it can be handed over.
const RETRY: Duration = Duration::from_secs(1);
/// Invocations that are looked at together, and of those that are handed over at once.
const GROUP: usize = 32;
const AT_ONCE: usize = 16;

/// Hands over an invocation whose client waits for the answer.
pub async fn answer(site: &Rc<SiteThread>, id: InvocationId, reply: oneshot::Sender<Place>) {
    loop {
        let looked_at = site.looked_at.notified();
        if !site.handing_over.borrow().contains(&id) {
            break;
        }
        // The sweep looks at it, and leaves it to this task.
        looked_at.await;
    }
    let place = hand_over(site, id, Some(&reply)).await;
    // The client may have been answered meanwhile.
    let _ = reply.send(place);
}

/// Hands over whatever waits, each time that it is woken.
pub async fn sweep(site: Rc<SiteThread>) {
    let inbox = site.node.inbox.clone();
    loop {
        site.woken.notified().await;
        loop {
            let waiting = inbox.ask(|reply| Command::Handovers(GROUP, reply)).await.unwrap_or_default();
            if waiting.is_empty() {
                break;
            }
            // A server that does not answer is asked for one of them.
            let tried = if site.status.takes() { GROUP } else { 1 };
            let moved = stream::iter(waiting.into_iter().take(tried)).map(|id| hand_over(&site, id, None));
            let moved = moved.buffer_unordered(AT_ONCE).filter(|place| std::future::ready(*place != Place::Node));
            if moved.count().await == 0 {
                sleep(RETRY).await;
            }
        }
    }
}

/// Hands an invocation over, unless another task does. `client`: waits for the answer, and knows no id yet.
async fn hand_over(site: &Rc<SiteThread>, id: InvocationId, client: Option<&oneshot::Sender<Place>>) -> Place {
    if !site.handing_over.borrow_mut().insert(id) {
        return Place::Node;
    }
    let _done = scopeguard::guard(site.clone(), |site| {
        site.handing_over.borrow_mut().remove(&id);
        site.looked_at.notify_waiters();
    });
    let inbox = &site.node.inbox;
    let Ok(Some(begun)) = inbox.ask(|reply| Command::Handover(id, reply)).await else { return Place::Node };
    let Begun { record, request } = *begun;
    let is_of_client = request.client.is_some();
    let now = UnixMillis::now();
    if client.is_none() && is_of_client && record.accepted.until(now) < ANSWERED {
        return Place::Node;
    }
    let policy = site.policy(&record.function);
    // The firings of all nodes for an instant are the same, whatever version of the function each has.
    let fingerprint = if is_of_client { fingerprint(&request) } else { Vec::new() };
    let mut offer = Offer { record, request, fingerprint, reserves_key: true };
    let mut offered = site.queue.offer(&offer, &policy, now).await;
    let is_answered = client.is_none_or(oneshot::Sender::is_closed);
    let is_repeat =
        matches!(offered, Ok(Offered { is_duplicate: true, .. }) | Err(OfferError::KeyReused)) && is_of_client;
    if is_answered && is_repeat {
        // The client has its id, and may ask for it.
        offer.reserves_key = false;
        offered = site.queue.offer(&offer, &policy, now).await;
    }
    let place = match offered {
        Ok(offered) => Place::Site(offered),
        Err(OfferError::KeyReused) => Place::KeyReused,
        Err(OfferError::Site(SiteError::TooLarge)) => {
            let _ = inbox.ask(|reply| Command::KeepHere(id, reply)).await;
            return Place::Node;
        }
        Err(OfferError::Site(SiteError::Unavailable(why) | SiteError::Full(why))) => {
            site.note(Use::HandingOver, Some(why));
            return Place::Node;
        }
    };
    site.note(Use::HandingOver, None);
    // A database that cannot be written has it handed over again, which changes nothing.
    let removed = inbox.ask(|reply| Command::Remove(id, reply)).await;
    match place {
        // It was cancelled meanwhile.
        Place::Site(Offered { id, is_duplicate: false }) if matches!(removed, Ok(Removal::Unknown)) => {
            let _ = site.queue.remove(id).await;
        }
        Place::Site(_) => site.node.stats.count_handed_over(),
        Place::KeyReused | Place::Node => {}
    }
    place
}
